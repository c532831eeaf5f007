"""Keys of self-paced training, pseudo masks, augmentation and the final boxes."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_stage_config(cfg: CN) -> None:
    """Add SPIL and what it adds to SOLVER."""
    # Self-paced training (SPIL, Section 3.3 and Algorithm 1).
    cfg.SPIL = CN()
    # K + 1.
    cfg.SPIL.NUM_STAGES = 4
    # Part of SOLVER.MAX_ITER that each stage takes; as many as NUM_STAGES, summing to 1.
    cfg.SPIL.STAGE_FRACTIONS = [1 / 3, 2 / 9, 2 / 9, 2 / 9]
    # Part of each stage after which the learning rate falls by SOLVER.GAMMA.
    cfg.SPIL.STAGE_LR_STEPS = [0.8, 0.7, 0.7, 0.7]
    # tau of Eq. 4: boxes that enter stage k (k = 1 ...) have p > TAU[k - 1] (D9); the last one is
    # for the final pool, which no stage trains on.
    cfg.SPIL.TAU = [0.99, 0.89, 0.79, 0.69]
    # Length of the list that training draws from. The paper's is 128, of which most must be true.
    cfg.SPIL.TRAIN_TOP_K = 128
    # Weights that each later stage starts from (D13): "continue" (the last stage's) or "restart"
    # (the run's initial ones, kept in model_initial.pth). The optimizer is a fresh one either way.
    cfg.SPIL.STAGE_INIT = "continue"
    # V after an update (D12): "two_views" (kernels and co-attention sets of all candidates, the
    # confident ones first) or "confident_only" (of those alone, where a query has one at least).
    cfg.SPIL.V_POLICY = "two_views"
    # Length of the lists that are localized after each stage but the last; -1 is all of them, by
    # which each stage is judged where ground truth exists; TRAIN_TOP_K is enough to train.
    cfg.SPIL.STAGE_TOP_K = -1
    # "none" (the paper), or "grabcut": pseudo boxes are moved to the borders of what they hold by
    # the colours of their pictures, which the localizer that made them has not learned from.
    cfg.SPIL.REFINE_BOXES = "none"
    # How often Y is a confident candidate instead of the query (D11); -1: uniformly one of the
    # query and the confident crops.
    cfg.SPIL.SWAP_PROB = -1.0
    # Contrastive training with null-ground-truth pairs (D8).
    cfg.SPIL.CONTRASTIVE = True
    # A query is foreign to another if their lists share at most this part of their images.
    cfg.SPIL.MAX_SHARED_IMAGES = 0.05
    # Weight of the null-ground-truth half of a pair (D8).
    cfg.SPIL.NEGATIVE_WEIGHT = 1.0
    # Box losses are divided by the samples of "all" maps (Detectron2's rule: with one null map for
    # each true one, boxes count half as much beside the classification) or of the "positive" maps.
    cfg.SPIL.BOX_NORMALIZER = "all"
    # omega weighs the RPN's losses too (D10).
    cfg.SPIL.WEIGHT_RPN = True
    # Iterations between two lines of the log.
    cfg.SPIL.LOG_PERIOD = 20


def add_coattention_config(cfg: CN) -> None:
    """Add COATTENTION."""
    # Pseudo masks (SPIL, Section 3.2), made offline when a stage begins.
    cfg.COATTENTION = CN()
    cfg.COATTENTION.ENABLED = False
    # Map of the frozen backbone (D15).
    cfg.COATTENTION.FEATURE = "res5"
    # A finer map, gated by the positive region of FEATURE (DDT+), or "" for none (D15).
    cfg.COATTENTION.FINE_FEATURE = ""
    # Co-attention set (D15): "pool" (one for a query: its picture and its confident ones, filled up
    # to NUM_CROPS by rank) or "pair" (one for each target: its picture and NUM_CROPS best crops).
    cfg.COATTENTION.SET = "pool"
    # A superpixel with a larger mean of the normalized indicator is selected (D19).
    cfg.COATTENTION.THRESHOLD = 0.1
    # "relu_max" or "minmax" (D18).
    cfg.COATTENTION.NORMALIZE = "relu_max"
    # Pictures that the principal direction is found on: "all" or "crops".
    cfg.COATTENTION.PCA_ON = "all"
    # Each picture counts the same in it; False: each location (D16).
    cfg.COATTENTION.WEIGHTED = True
    # A mask that fills less of the box gives way to the box (D19).
    cfg.COATTENTION.MIN_FILL = 0.05
    # Look-alikes outside the box (D20): "extra_gt" (positives), "ignore" (no anchor or RoI that
    # lies in one by more than half is background) or "off" (background).
    cfg.COATTENTION.EXTRAS = "extra_gt"
    # Least mean of the indicator over a look-alike.
    cfg.COATTENTION.EXTRA_MIN_MEAN = 0.5
    cfg.COATTENTION.SUPERPIXELS = CN()
    # "felzenszwalb" (OpenCV's where it is there) or "felzenszwalb_skimage".
    cfg.COATTENTION.SUPERPIXELS.METHOD = "felzenszwalb"
    cfg.COATTENTION.SUPERPIXELS.SCALE = 100.0
    cfg.COATTENTION.SUPERPIXELS.SIGMA = 0.8
    # Smallest superpixel: the larger of so many pixels and this part of the picture.
    cfg.COATTENTION.SUPERPIXELS.MIN_SIZE = 20
    cfg.COATTENTION.SUPERPIXELS.MIN_SIZE_FRACTION = 0.0005


def add_augmentation_config(cfg: CN) -> None:
    """Add what training does to pictures."""
    # How often background is cut away around the labelled boxes of a training picture.
    cfg.INPUT.CROP_AROUND_BOXES = 0.0
    # Brightness, contrast and saturation of a training picture vary by this part; 0 is off.
    cfg.INPUT.COLOR_JITTER = 0.0


def add_test_config(cfg: CN) -> None:
    """Add what is done after the last stage."""
    # "none", or "grabcut": the final boxes with p > the last TAU are moved to the borders of what
    # they hold (see SPIL.REFINE_BOXES). The metrics of each stage are of the localizer's own boxes.
    cfg.TEST.REFINE_BOXES = "none"
