"""Configuration keys that spil_d2 adds to Detectron2's, split by concern."""

from __future__ import annotations

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg as get_detectron2_cfg


def get_cfg() -> CN:
    """Detectron2's defaults with spil_d2's keys: what every tool, demo and test starts from."""
    cfg = get_detectron2_cfg()
    add_spil_d2_config(cfg)
    return cfg


def add_spil_d2_config(cfg: CN) -> None:
    """Add all of spil_d2's keys to `cfg`."""
    add_backbone_config(cfg)
    add_query_config(cfg)
    add_search_config(cfg)
    add_engine_config(cfg)
    add_reranking_config(cfg)
    add_stage_config(cfg)
    add_coattention_config(cfg)
    add_augmentation_config(cfg)
    add_test_config(cfg)
    # "SGD" (Detectron2's, the paper's) or "AdamW" (fewer iterations for heads from scratch).
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Parts in which a process's share of IMS_PER_BATCH goes through the model, one optimizer step
    # for all of them; a divisor of that share. 1: at once.
    cfg.SOLVER.ACCUMULATE = 1


def add_test_config(cfg: CN) -> None:
    # "none", or "grabcut": the final boxes with p > the last TAU are moved to the borders of what
    # they hold (see SPIL.REFINE_BOXES). The metrics of each stage are of the localizer's own boxes.
    cfg.TEST.REFINE_BOXES = "none"


def add_augmentation_config(cfg: CN) -> None:
    # How often background is cut away around the labelled boxes of a training picture.
    cfg.INPUT.CROP_AROUND_BOXES = 0.0
    # Brightness, contrast and saturation of a training picture vary by this part; 0 is off.
    cfg.INPUT.COLOR_JITTER = 0.0


def add_backbone_config(cfg: CN) -> None:
    # A wholly frozen backbone (FREEZE_AT >= 5) and, at inference, the correlated maps in bfloat16:
    # "auto" where the CPU has AMX or the GPU has bfloat16, "on", "off".
    cfg.MODEL.BF16 = "off"
    # EfficientNet-Lite of the `tiny` preset.
    cfg.MODEL.EFFICIENTNET = CN()
    # "lite0" or "lite2".
    cfg.MODEL.EFFICIENTNET.VARIANT = "lite2"
    # Among "stem", "c2", "c3", "c4", "c5", "head" (strides 2, 4, 8, 16, 32, 32).
    cfg.MODEL.EFFICIENTNET.OUT_FEATURES = ["c3", "c4", "c5"]
    # Load the ImageNet weights that the registry's package ships.
    cfg.MODEL.EFFICIENTNET.PRETRAINED = True
    # Normalization of the C4 RoI head's res5: "auto" is RESNETS.NORM where the weights hold res5,
    # and "GN" where they do not and res5 starts at random.
    cfg.MODEL.RESNETS.RES5_NORM = "auto"
    # DenseNet-121: path of weights with torchvision's names; "" looks beside the project.
    cfg.MODEL.DENSENET = CN()
    cfg.MODEL.DENSENET.WEIGHTS = ""
    cfg.MODEL.DENSENET.OUT_FEATURES = ["c4", "c5"]
    # Several levels of a backbone as one map.
    cfg.MODEL.FUSED = CN()
    cfg.MODEL.FUSED.IN_FEATURES = ["c3", "c4", "c5"]
    # Of the fused map, in input pixels.
    cfg.MODEL.FUSED.STRIDE = 16


def add_query_config(cfg: CN) -> None:
    # The X-branch and the correlation (SPIL, Section 3.1).
    cfg.MODEL.QUERY = CN()
    # Levels that are correlated; all of one width.
    cfg.MODEL.QUERY.IN_FEATURES = ["res4"]
    # n of Eq. 3: crops averaged into the mean kernel (D2).
    cfg.MODEL.QUERY.NUM_CROPS = 5
    # Side of a crop after resizing, in pixels (D4).
    cfg.MODEL.QUERY.CROP_SIZE = 320
    # Context around the box on its long side, in pixels of the resized crop (D4).
    cfg.MODEL.QUERY.CROP_CONTEXT = 16
    # "square": extend the short side, zero-pad outside the image; "tight": anisotropic crop of the
    # box with its context (D4).
    cfg.MODEL.QUERY.CROP_SHAPE = "square"
    # Kernel at inference (D14): "leave_one_out" (the query's crop and the best candidates' other
    # than the image at hand), "query_only", "top5".
    cfg.MODEL.QUERY.TEST_KERNEL = "leave_one_out"
    # "roi": average over the object's box in the crop; "full": over the whole crop (D3).
    cfg.MODEL.QUERY.X_POOL = "roi"
    cfg.MODEL.QUERY.POOLER_RESOLUTION = 7
    # Object vectors are computed once for each (image, box) of a stage's pool and handed to the
    # training items instead of crops. Right only while the backbone is wholly frozen.
    cfg.MODEL.QUERY.CACHE_VECTORS = False
    # No gradient through the X-branch (D28).
    cfg.MODEL.QUERY.DETACH = False
    cfg.MODEL.CORRELATION_HEAD = CN()
    # In CORRELATION_HEAD_REGISTRY: "ChannelReweighting" (the paper), "ProjectedReweighting".
    cfg.MODEL.CORRELATION_HEAD.NAME = "ChannelReweighting"
    # "none" (the paper), "l2" (times sqrt C) or "mean" (D5).
    cfg.MODEL.CORRELATION_HEAD.KERNEL_NORM = "none"
    # Learn a linear map of the kernel for each level, the identity at first.
    cfg.MODEL.CORRELATION_HEAD.LEVEL_MAP = False
    # What the RoI heads of ChannelReweighting see: "corr", "raw" or "concat" (D6).
    cfg.MODEL.CORRELATION_HEAD.HEAD_INPUT = "corr"
    # Width of ProjectedReweighting's maps.
    cfg.MODEL.CORRELATION_HEAD.CHANNELS = 128
    # Its 3x3 convolutions after the projection, shared by RPN and RoI heads.
    cfg.MODEL.CORRELATION_HEAD.NUM_CONVS = 1


def add_search_config(cfg: CN) -> None:
    cfg.SEARCH = CN()
    # In SEARCH_ENGINE_REGISTRY: "DASR", "Grid", "GlobalPool" (SPoC, GeM, MAC, uCroW), "CroW",
    # "RMAC", "CAM", "Detector", "ViT".
    cfg.SEARCH.ENGINE = "DASR"
    # M: length of the rank lists that are evaluated and localized.
    cfg.SEARCH.TOP_K = 128
    # Rank again by the refined boxes at the end.
    cfg.SEARCH.RERANK = True
    # A rank_lists.npz to use instead of searching.
    cfg.SEARCH.RANK_LISTS = ""
    # Median similarity of the first ten below which a run warns that its lists may be wrong.
    cfg.SEARCH.MIN_SIMILARITY = 0.3
    # Processes that index a gallery; -1: one a core on a CPU, none beside an accelerator.
    cfg.SEARCH.NUM_WORKERS = -1
    # Backbone builder of the engine: "build_efficientnet_lite_backbone",
    # "build_densenet121_backbone" or "build_resnet_backbone"; "" is MODEL.BACKBONE.NAME.
    cfg.SEARCH.BACKBONE = ""
    # Maps whose pooled vectors, each of unit length, describe a region together.
    cfg.SEARCH.DESCRIPTOR_LAYERS = ["res5"]
    # "mean", "gem", "max", "spoc" or "crow", for each of them.
    cfg.SEARCH.POOLINGS = ["mean"]
    # Share of each of them in the cosine similarity; they sum to 1.
    cfg.SEARCH.LAYER_WEIGHTS = [1.0]
    # Subtract the mean of the gallery's vectors before comparing: for galleries of dozens of
    # pictures or more.
    cfg.SEARCH.CENTRED = False
    # Pictures are resized to this longer side, in pixels.
    cfg.SEARCH.LONGER_SIDE = 512
    # .npz of a fitted PCA-whitening, or "" for none.
    cfg.SEARCH.WHITENING = ""
    # Forward passes in bfloat16.
    cfg.SEARCH.BF16 = False
    cfg.SEARCH.DASR = CN()
    # Rectified map whose channel mean has the peaks.
    cfg.SEARCH.DASR.RESPONSE_LAYER = "res5"
    # "input" (the paper), or an earlier map at which relevance ends (the fast variant).
    cfg.SEARCH.DASR.STOP_AT = "input"
    # DASR*: all local maxima, then NMS.
    cfg.SEARCH.DASR.NMS_VARIANT = False
    # One more region: the whole picture.
    cfg.SEARCH.DASR.ADD_WHOLE_IMAGE = False


def add_engine_config(cfg: CN) -> None:
    # What single search engines take beside the keys above.
    # Windows of Grid and ViT beside the whole picture: side as a fraction, windows per axis.
    cfg.SEARCH.GRID = CN()
    cfg.SEARCH.GRID.SCALES = [[2 / 3, 3], [1 / 2, 3]]
    # R-MAC's approximate max-pooling localization: alpha of the generalized mean, step of the
    # grid of windows in cells, largest factor between the aspect ratios of query and window, cells
    # that a side moves by in one step of the refinement, rounds of it.
    cfg.SEARCH.RMAC = CN()
    cfg.SEARCH.RMAC.ALPHA = 10.0
    cfg.SEARCH.RMAC.STEP = 3
    cfg.SEARCH.RMAC.MAX_ASPECT_CHANGE = 1.1
    cfg.SEARCH.RMAC.REACH = 3
    cfg.SEARCH.RMAC.ROUNDS = 5
    # CAM pools the map that its backbone's classifier is for, whatever DESCRIPTOR_LAYERS says.
    cfg.SEARCH.CAM = CN()
    # N_c: likeliest classes whose vectors are summed.
    cfg.SEARCH.CAM.NUM_CLASSES = 64
    # Likeliest classes of the query whose activation maps give the boxes.
    cfg.SEARCH.CAM.NUM_LOCALIZING_CLASSES = 2
    cfg.SEARCH.DETECTOR = CN()
    # A Detectron2 configuration: path, or name in the model zoo.
    cfg.SEARCH.DETECTOR.CONFIG_FILE = ""
    # Path or address; "" is that configuration's own.
    cfg.SEARCH.DETECTOR.WEIGHTS = ""
    # Describe by the detector's own backbone (DESCRIPTOR_LAYERS are its features then) instead of
    # SEARCH.BACKBONE.
    cfg.SEARCH.DETECTOR.OWN_FEATURES = False
    cfg.SEARCH.DETECTOR.SCORE_THRESHOLD = 0.05
    # Best detections of a picture; the whole picture is one more region.
    cfg.SEARCH.DETECTOR.MAX_REGIONS = 20
    # Pool over the masks instead of the boxes.
    cfg.SEARCH.DETECTOR.MASKS = False
    cfg.SEARCH.VIT = CN()
    # Name of a vision transformer in timm.
    cfg.SEARCH.VIT.MODEL = "vit_small_patch14_dinov2.lvd142m"
    # Path of its checkpoint; "" downloads timm's.
    cfg.SEARCH.VIT.WEIGHTS = ""
    # Of the patch tokens, as in POOLINGS.
    cfg.SEARCH.VIT.POOLING = "mean"


def add_reranking_config(cfg: CN) -> None:
    # Query expansion: the query averaged with the first regions it finds, each weighted by its
    # similarity to the power of ALPHA (0: average QE).
    cfg.SEARCH.QE = CN()
    cfg.SEARCH.QE.ENABLED = False
    cfg.SEARCH.QE.NUM_REGIONS = 2
    cfg.SEARCH.QE.ALPHA = 0.0
    # k-reciprocal re-ranking of the first SHORTLIST images. The published k1 = 20 and k2 = 6 suit
    # instances of dozens of images.
    cfg.SEARCH.KRECIPROCAL = CN()
    cfg.SEARCH.KRECIPROCAL.ENABLED = False
    cfg.SEARCH.KRECIPROCAL.SHORTLIST = 128
    cfg.SEARCH.KRECIPROCAL.K1 = 10
    cfg.SEARCH.KRECIPROCAL.K2 = 3
    # lambda: share of the original distance.
    cfg.SEARCH.KRECIPROCAL.WEIGHT = 0.3


def add_stage_config(cfg: CN) -> None:
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
    # omega weighs the RPN's losses too (D10).
    cfg.SPIL.WEIGHT_RPN = True
    # Iterations between two lines of the log.
    cfg.SPIL.LOG_PERIOD = 20


def add_coattention_config(cfg: CN) -> None:
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
