"""Keys of what a cycle trains and judges: its data, its two models, its report (CST)."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_cycle_training_config(cfg: CN) -> None:
    """Adds to CST, so it comes after `add_cycle_config`."""
    # Datasets whose images the cycle runs on; their annotations are never trained on. () takes
    # DATASETS.TEST. Of both, as of the test set, only images of RANKER.TEST_IDENTITIES count.
    cfg.CST.UNLABELED = ()
    # Boxes of an image that are ranked, the localizer's best ones (LOCALIZER_TOPK of the released
    # code); TEST.DETECTIONS_PER_IMAGE is what the localizer alone is judged on.
    cfg.CST.BOXES_PER_IMAGE = 5
    # Boxes of an image that overlap more than this share one embedding, whoever they were found
    # for; 1 (the paper) embeds each by itself.
    cfg.CST.SHARE_IOU = 1.0
    # Protocol of the evaluation: "ins", "ins_prw", "ins_cuhk_sysu", "prw", "cuhk_sysu".
    cfg.CST.PROTOCOL = "ins"
    # The localizer is this configuration's own MODEL.
    cfg.CST.LOCALIZER = CN()
    # Pretrained weights; "" trains it on the identities (RANKER.IDENTITIES) of DATASETS.TRAIN.
    cfg.CST.LOCALIZER.WEIGHTS = ""
    # KEY VALUE ... on top of this configuration in that training, and in each round.
    cfg.CST.LOCALIZER.PRETRAIN_OPTS = []
    cfg.CST.LOCALIZER.ROUND_OPTS = []
    cfg.CST.RANKER = CN()
    # The ranker's configuration: a path, or a name under configs/.
    cfg.CST.RANKER.CONFIG = "ranker/any_reid_r50.yaml"
    # As above.
    cfg.CST.RANKER.WEIGHTS = ""
    cfg.CST.RANKER.PRETRAIN_OPTS = []
    # The paper's multi-source SimCLR; the released code self-trains with softmax and triplet.
    cfg.CST.RANKER.ROUND_OPTS = [
        "MODEL.RANKER.LOSSES",
        ["simclr"],
        "MODEL.RANKER.LOSS_WEIGHTS",
        [1.0],
    ]
