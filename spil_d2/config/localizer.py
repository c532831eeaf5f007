"""Keys of the localizer and its backbones."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_backbone_config(cfg: CN) -> None:
    """Add the backbones' keys."""
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
    """Add MODEL.QUERY and MODEL.CORRELATION_HEAD."""
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
