"""Keys of self-paced training on a few-shot task: SPIL, Section 4, and what is beyond the paper."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

STAGE_NODES = ("QE", "VERIFY", "SECOND_PASS", "IGNORE_OTHERS")
"""The nodes of FEW_SHOT that the stages' pools depend on."""


def add_few_shot_stage_config(cfg: CN) -> None:
    """Add FEW_SHOT, and what it changes in the stages."""
    # Query expansion within self-paced training: confident pseudo labels search the gallery again,
    # and training goes on with the united rank lists. SEARCH.QE is another one, of the descriptors.
    cfg.FEW_SHOT.QE = CN()
    cfg.FEW_SHOT.QE.ENABLED = False
    # The stage after which the lists grow, from 0 to SPIL.NUM_STAGES - 2.
    cfg.FEW_SHOT.QE.AFTER_STAGE = 1
    # Instances of a query that search, at most; the likeliest ones.
    cfg.FEW_SHOT.QE.NUM_INSTANCES = 10
    # Instances have p > THRESHOLD. The paper's is tau^1 = .99, also after Stage-1.
    cfg.FEW_SHOT.QE.THRESHOLD = 0.99
    # Length of the united lists, at most: all of it is localized, and training draws from all of
    # it. At least SPIL.TRAIN_TOP_K.
    cfg.FEW_SHOT.QE.TOP_K = 256
    # Pseudo labels that the shots speak against go, by the embeddings of SEARCH.ENGINE (beyond the
    # paper). METHOD "vote": one stays only where the K nearest shots of all classes vote for its
    # class, each with its similarity to the box. "mean": of each class's labels the part KEEP that
    # is most similar to its shots on the average. "oracle": the ground truth takes the wrong ones
    # away, for studies of what verification could do at most.
    cfg.FEW_SHOT.VERIFY = CN()
    cfg.FEW_SHOT.VERIFY.ENABLED = False
    cfg.FEW_SHOT.VERIFY.METHOD = "vote"
    cfg.FEW_SHOT.VERIFY.K = 5
    cfg.FEW_SHOT.VERIFY.KEEP = 0.4
    # The localizer looks once more at boxes with p > tau, as its only proposals, and takes the
    # boxes that come out (beyond the paper): pseudo labels, and the final boxes of the lists.
    cfg.FEW_SHOT.SECOND_PASS = CN()
    cfg.FEW_SHOT.SECOND_PASS.LABELS = False
    cfg.FEW_SHOT.SECOND_PASS.FINAL = False
    # Other boxes of a query with p > tau - MARGIN in a labelled image are no background (D20).
    # Needs TEST.DETECTIONS_PER_IMAGE > 1.
    cfg.FEW_SHOT.IGNORE_OTHERS = CN()
    cfg.FEW_SHOT.IGNORE_OTHERS.ENABLED = False
    cfg.FEW_SHOT.IGNORE_OTHERS.MARGIN = 0.1
    # One with a larger IoU with the pseudo label is the same object.
    cfg.FEW_SHOT.IGNORE_OTHERS.MAX_IOU = 0.5
