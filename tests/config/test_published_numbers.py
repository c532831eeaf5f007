"""The constants of both papers (spec of SPIL, Section 1; of CST, Sections 2 to 5) in their presets.

The numbers are written out here once more, as the specifications give them: a preset that drifts
away from its paper fails.
"""

from __future__ import annotations

from functools import reduce

import pytest
from detectron2.config import CfgNode

from spil_d2 import get_cfg
from spil_d2.evaluation.ins_protocol import PRESETS

from ..programs import ROOT

SPIL = {
    # Section 1.2 and D1, D2, D4: res4, n = 5 crops of 320 with 16 of context, 600 x 1000.
    "MODEL.QUERY.IN_FEATURES": ["res4"],
    "MODEL.QUERY.NUM_CROPS": 5,
    "MODEL.QUERY.CROP_SIZE": 320,
    "MODEL.QUERY.CROP_CONTEXT": 16,
    "MODEL.QUERY.CROP_SHAPE": "square",
    "MODEL.QUERY.X_POOL": "roi",
    "MODEL.CORRELATION_HEAD.KERNEL_NORM": "none",
    "MODEL.CORRELATION_HEAD.HEAD_INPUT": "corr",
    "INPUT.MIN_SIZE_TRAIN": (600,),
    "INPUT.MAX_SIZE_TRAIN": 1000,
    "INPUT.MIN_SIZE_TEST": 600,
    "INPUT.MAX_SIZE_TEST": 1000,
    # The RPN: 15 anchors a cell, 12000 -> 2000 in training, 6000 -> 100 in tests, .7 and .3.
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 12000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 100,
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.POSITIVE_FRACTION": 0.5,
    # Heads (D7, D29): one class, boxes and masks without classes, 14 x 14, 128 RoIs, half of them.
    "MODEL.ROI_HEADS.NUM_CLASSES": 1,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 128,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.5,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True,
    "MODEL.BACKBONE.FREEZE_AT": 2,
    # Self-pacing (D8 to D12, D14).
    "SPIL.NUM_STAGES": 4,
    "SPIL.TAU": [0.99, 0.89, 0.79, 0.69],
    "SPIL.TRAIN_TOP_K": 128,
    "SPIL.NEGATIVE_WEIGHT": 1.0,
    "SPIL.WEIGHT_RPN": True,
    "SPIL.CONTRASTIVE": True,
    "SPIL.MAX_SHARED_IMAGES": 0.05,
    "SPIL.V_POLICY": "two_views",
    "MODEL.QUERY.TEST_KERNEL": "leave_one_out",
    "SEARCH.TOP_K": 128,
    # Co-attention (Section 2, D15 to D20).
    "COATTENTION.ENABLED": True,
    "COATTENTION.FEATURE": "res5",
    "COATTENTION.THRESHOLD": 0.1,
    "COATTENTION.NORMALIZE": "relu_max",
    "COATTENTION.WEIGHTED": True,
    "COATTENTION.MIN_FILL": 0.05,
    "COATTENTION.EXTRA_MIN_MEAN": 0.5,
    "COATTENTION.SUPERPIXELS.SCALE": 100.0,
    "COATTENTION.SUPERPIXELS.SIGMA": 0.8,
    "COATTENTION.SUPERPIXELS.MIN_SIZE": 20,
    "COATTENTION.SUPERPIXELS.MIN_SIZE_FRACTION": 0.0005,
    # Section 1.7: SGD, batch 8, .001, 45k iterations, warm-up of 1k from a tenth.
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.WEIGHT_DECAY": 0.0001,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.MAX_ITER": 45000,
    "SOLVER.WARMUP_ITERS": 1000,
    "SOLVER.WARMUP_FACTOR": 0.1,
    # DASR (Section 3): to the pixels, longer side 512, peaks of res5.
    "SEARCH.ENGINE": "DASR",
    "SEARCH.LONGER_SIDE": 512,
    "SEARCH.DASR.RESPONSE_LAYER": "res5",
    "SEARCH.DASR.STOP_AT": "input",
    "SEARCH.DASR.NMS_VARIANT": False,
    # R-MAC's localization (Section 4).
    "SEARCH.RMAC.ALPHA": 10.0,
    "SEARCH.RMAC.STEP": 3,
    "SEARCH.RMAC.MAX_ASPECT_CHANGE": 1.1,
    "SEARCH.RMAC.REACH": 3,
    "SEARCH.RMAC.ROUNDS": 5,
    "SEARCH.CAM.NUM_CLASSES": 64,
}
CST = {
    # Sections 3.1 to 3.3.
    "INPUT.MIN_SIZE_TRAIN": (800,),
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "MODEL.CORRELATION_HEAD.NAME": "GlobalTrack",
    "MODEL.QUERY.POOLER_RESOLUTION": 7,
    "MODEL.QUERY.POOLER_SAMPLING_RATIO": 2,
    "MODEL.QUERY.POOLER_TYPE": "ROIAlign",
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RPN.BOUNDARY_THRESH": 0,
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.SMOOTH_L1_BETA": 1 / 9,
    "MODEL.RPN.BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.5],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.3,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 1.0,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
    # Section 3.5: three epochs of 2,000 pairs by eights, the last at a tenth, norms up to 35.
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.MAX_ITER": 3 * 2000 // 8,
    "SOLVER.STEPS": (2 * 2000 // 8,),
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.WARMUP_ITERS": 5,
    "SOLVER.WARMUP_FACTOR": 1 / 3,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 35.0,
    # Sections 3.6, 5.1, 5.4, 5.5.
    "CST.BOXES_PER_IMAGE": 5,
    "CST.SEEDS.NUM": 30000,
    "CST.SEEDS.SOURCES": ["detector", "selective_search", "edge_boxes"],
    "CST.SEEDS.TOP_K": 5,
    "CST.SEEDS.MIN_SIDE": 10.0,
    "CST.PROPOSALS.DETECTOR.SCORE_THRESHOLD": 0.02,
    "CST.PROPOSALS.DETECTOR.NMS_THRESHOLD": 0.3,
    "CST.CLUSTERING.MIN_SAMPLES": 2,
    "CST.CLUSTERING.MAX_CLUSTERS": 10000,
    "CST.ROUNDS": 4,
    "TEST.DETECTIONS_PER_IMAGE": 20,
}
RANKER = {
    # Section 4: last stride 1, 512 numbers, dropout .7, margin .3, smoothing .1; 30 epochs.
    "MODEL.RANKER.LAST_STRIDE": 1,
    "MODEL.RANKER.POOLING": "avg",
    "MODEL.RANKER.EMBEDDING_DIM": 512,
    "MODEL.RANKER.DROPOUT": 0.7,
    "MODEL.RANKER.MARGIN": 0.3,
    "MODEL.RANKER.LABEL_SMOOTHING": 0.1,
    "MODEL.RANKER.LOSSES": ["softmax", "triplet"],
    "MODEL.RANKER.LOSS_WEIGHTS": [1.0, 1.0],
    "RANKER.CROP_SIZE": [224, 224],
    "RANKER.INSTANCES": 4,
    "RANKER.AUG.FLIP": 0.5,
    "RANKER.AUG.PAD": 10,
    "MODEL.PIXEL_STD": [57.0, 57.0, 57.0],
    "SOLVER.BASE_LR": 0.001,
    "SOLVER.WEIGHT_DECAY": 0.0005,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
}
FEW_SHOT = {
    # Section 6, D26, D27: 60k at .004, then 15k + 4 x 10k in five stages.
    "FEW_SHOT.SHOTS": 10,
    "FEW_SHOT.BASE.OPTS": [
        *("SOLVER.MAX_ITER", 60000, "SOLVER.STEPS", "(56000,)", "SOLVER.BASE_LR", 0.004)
    ],
    "SPIL.NUM_STAGES": 5,
    "SOLVER.MAX_ITER": 55000,
    "TEST.DETECTIONS_PER_IMAGE": 100,
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Base-SPIL-paper.yaml", SPIL),
        ("CST/r50_ins_prw.yaml", CST),
        ("ranker/any_reid_r50.yaml", RANKER),
        ("FewShot/r50_coco.yaml", FEW_SHOT),
    ],
)
def test_a_papers_preset_has_its_numbers(path: str, expected: dict[str, object]) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(ROOT / "configs" / path))
    found = {key: reduce(CfgNode.__getitem__, key.split("."), cfg) for key in expected}
    different = {
        key: (found[key], expected[key]) for key in expected if found[key] != expected[key]
    }
    assert not different, f"{path} (preset, paper): {different}"


def test_the_table_of_protocols() -> None:
    """Section 1.4 of the specification of CST."""
    rows = {name: (one.gallery_range, one.separate_cameras, one.min_height, one.iou_threshold)
            for name, one in PRESETS.items() if name != "ins"}  # fmt: skip
    assert rows == {
        "ins_prw": ("global", True, 10, 0.5),
        "ins_cuhk_sysu": ("local", False, 10, 0.5),
        "prw": ("global", False, 50, 0.5),
        "cuhk_sysu": ("local", False, 10, 0.5),
    }
