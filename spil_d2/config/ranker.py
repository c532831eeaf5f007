"""Keys of the ranker: its model, its training crops and its identities (CST)."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_ranker_config(cfg: CN) -> None:
    """Add MODEL.RANKER and RANKER."""
    _add_model(cfg)
    _add_training(cfg)
    _add_augmentation(cfg)


def _add_model(cfg: CN) -> None:
    # Meta-architecture "Ranker" on MODEL.BACKBONE.
    cfg.MODEL.RANKER = CN()
    # Maps that are pooled; of several, each pooled vector is scaled to unit length and they are
    # stacked.
    cfg.MODEL.RANKER.IN_FEATURES = ["res5"]
    # "avg" (the paper), "avg+max" (their sum, the released code) or "gem" (a learned power).
    cfg.MODEL.RANKER.POOLING = "avg"
    # Stride of a ResNet's res5: 1, or Detectron2's 2. No other backbone has this key.
    cfg.MODEL.RANKER.LAST_STRIDE = 1
    # Width of the embedding.
    cfg.MODEL.RANKER.EMBEDDING_DIM = 512
    # After the neck, in training only. The paper names none; the released code has 0.7.
    cfg.MODEL.RANKER.DROPOUT = 0.7
    # How a neck starts that MODEL.WEIGHTS does not hold: "xavier", or "pca": as the principal
    # components of the training crops' pooled vectors (where crops are few, of views of them too),
    # so that the ranker starts near, and with whitening above, the backbone's own cosine. For
    # backbones that are frozen or nearly so.
    cfg.MODEL.RANKER.NECK_INIT = "xavier"
    # Of "pca": a component's standard deviation is raised to 1 less this power. 0 keeps the
    # vectors' cosines, 1 whitens them.
    cfg.MODEL.RANKER.NECK_WHITENING = 0.5
    # The neck's means and variances stay as they are loaded: for rounds on few regions, whose own
    # would undo the whitening.
    cfg.MODEL.RANKER.FREEZE_STATISTICS = False
    # Width of the classifier. Training sets it to the number of identities or clusters.
    cfg.MODEL.RANKER.NUM_IDENTITIES = 0
    # Among "softmax", "triplet" and "simclr" (NT-Xent whose positives are the other members of the
    # cluster), and the weight of each. The paper pre-trains with the first two and self-trains with
    # the third; the released code self-trains with the first two.
    cfg.MODEL.RANKER.LOSSES = ["softmax", "triplet"]
    cfg.MODEL.RANKER.LOSS_WEIGHTS = [1.0, 1.0]
    # Of "softmax".
    cfg.MODEL.RANKER.LABEL_SMOOTHING = 0.1
    # Of "triplet", a Euclidean distance of unit vectors.
    cfg.MODEL.RANKER.MARGIN = 0.3
    # Of "simclr". The released configurations have 0.5, their ablation 0.05.
    cfg.MODEL.RANKER.TEMPERATURE = 0.5


def _add_training(cfg: CN) -> None:
    cfg.RANKER = CN()
    # (height, width) of a crop, in pixels. The aspect ratio is not kept.
    cfg.RANKER.CROP_SIZE = [224, 224]
    # K of the P x K batches; P is a process's share of SOLVER.IMS_PER_BATCH over K.
    cfg.RANKER.INSTANCES = 4
    # Learning rate of the backbone, as a part of SOLVER.BASE_LR.
    cfg.RANKER.BACKBONE_LR_FACTOR = 1.0
    # Keep all crops of a training in memory instead of reading the pictures for each batch:
    # 3 bytes a pixel of a crop.
    cfg.RANKER.CACHE_CROPS = False
    # With a wholly frozen backbone: the pooled vectors of so many augmented views of each crop are
    # computed once, and batches are drawn from these. 0: each batch has views of its own.
    cfg.RANKER.CACHED_VIEWS = 0
    # Crops that go through the backbone at once where nothing is trained.
    cfg.RANKER.EMBED_BATCH = 64
    # Iterations between two lines of the log.
    cfg.RANKER.LOG_PERIOD = 20
    # Pre-training: the identities of DATASETS.TRAIN that are trained on, and those of
    # DATASETS.TEST that are judged: "all"; "even" or "odd" numbers; "part", a random part of
    # IDENTITY_FRACTION drawn with IDENTITY_SEED, or "rest", the other ones. Images that show
    # identities of two halves belong to neither.
    cfg.RANKER.IDENTITIES = "all"
    cfg.RANKER.TEST_IDENTITIES = "all"
    cfg.RANKER.IDENTITY_FRACTION = 0.5
    cfg.RANKER.IDENTITY_SEED = 0


def _add_augmentation(cfg: CN) -> None:
    # Of training crops. 0 switches each one off.
    cfg.RANKER.AUG = CN()
    # Probability of a horizontal flip.
    cfg.RANKER.AUG.FLIP = 0.5
    # Black pixels added on each side, of which a random window of the crop's size is kept.
    cfg.RANKER.AUG.PAD = 10
    # Brightness, contrast and saturation vary by this part, the hue by a quarter of it.
    cfg.RANKER.AUG.COLOR_JITTER = 0.0
    # Probability of turning grey, and of a Gaussian blur.
    cfg.RANKER.AUG.GRAYSCALE = 0.0
    cfg.RANKER.AUG.BLUR = 0.0
    # Probability that a rectangle of 2 to 20 % of the crop becomes MODEL.PIXEL_MEAN. The released
    # code has 1.0, and 0 where it trains with "simclr".
    cfg.RANKER.AUG.ERASING = 0.5
