"""Keys of the search engines, the index and re-ranking."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_search_config(cfg: CN) -> None:
    """Add SEARCH, what all engines take."""
    cfg.SEARCH = CN()
    # In SEARCH_ENGINE_REGISTRY: "DASR", "Grid", "GlobalPool" (SPoC, GeM, MAC, uCroW), "CroW",
    # "RMAC", "CAM", "Detector", "ViT".
    cfg.SEARCH.ENGINE = "DASR"
    # M: length of the rank lists that are evaluated and localized.
    cfg.SEARCH.TOP_K = 128
    # Rank again at the end, by the similarities of the refined boxes.
    cfg.SEARCH.RERANK = True
    # Their share; the search's own similarities have the rest. 1 is the paper.
    cfg.SEARCH.RERANK_SHARE = 1.0
    # Rank by similarity * p ** RERANK_POWER, p being the localizer's probability that the instance
    # is there; 0 (the paper) leaves p out.
    cfg.SEARCH.RERANK_POWER = 0.0
    # A rank_lists.npz to use instead of searching.
    cfg.SEARCH.RANK_LISTS = ""
    # Median similarity of the first ten below which a run warns that its lists may be wrong.
    cfg.SEARCH.MIN_SIMILARITY = 0.3
    # Folder of the galleries' indexes; "" is OUTPUT_DIR/index. Runs may share one: an index is
    # named by all that it depends on.
    cfg.SEARCH.INDEX_DIR = ""
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
    """Add what single engines take."""
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
    """Add query expansion and re-ranking."""
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
