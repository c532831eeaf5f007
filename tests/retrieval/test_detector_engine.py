"""The engine whose regions a detector of Detectron2 finds, from configuration and weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import build_model

from spil_d2 import get_cfg
from spil_d2.retrieval import build_search_engine


@pytest.fixture(scope="module")
def tiny_detector(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Configuration and random weights of a RetinaNet with a small ResNet."""
    folder = tmp_path_factory.mktemp("detector")
    text = """
MODEL:
  META_ARCHITECTURE: "RetinaNet"
  BACKBONE: {NAME: "build_retinanet_resnet_fpn_backbone"}
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, OUT_FEATURES: ["res3", "res4", "res5"]}
  ANCHOR_GENERATOR: {SIZES: [[32], [64], [128], [256], [512]]}
  FPN: {IN_FEATURES: ["res3", "res4", "res5"], OUT_CHANNELS: 16}
  RETINANET: {NUM_CLASSES: 2, NUM_CONVS: 1, SCORE_THRESH_TEST: 0.0, PRIOR_PROB: 0.5}
INPUT: {MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 96}
"""
    (folder / "tiny.yaml").write_text(text)
    config = get_detectron2_cfg()
    config.merge_from_file(str(folder / "tiny.yaml"))
    config.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    torch.save({"model": build_model(config).state_dict()}, folder / "tiny.pth")
    return folder / "tiny.yaml", folder / "tiny.pth"


def detector_config(config: Path | str, weights: Path | str, *changes: object):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "SEARCH.ENGINE", "Detector"])
    cfg.merge_from_list(["SEARCH.DETECTOR.CONFIG_FILE", str(config), "SEARCH.LONGER_SIDE", 128])
    cfg.merge_from_list(["SEARCH.DETECTOR.WEIGHTS", str(weights), *changes])
    return cfg


@pytest.mark.parametrize("own", [True, False])
def test_a_detector_of_detectron2_gives_regions(tiny_detector, own: bool) -> None:
    changes = ["SEARCH.DETECTOR.OWN_FEATURES", own, "SEARCH.DETECTOR.SCORE_THRESHOLD", 0.0]
    changes += ["SEARCH.DESCRIPTOR_LAYERS", ["p3"] if own else ["c4"]]
    changes += ["SEARCH.BACKBONE", "build_efficientnet_lite_backbone"]
    changes += ["MODEL.EFFICIENTNET.VARIANT", "lite0"]
    engine = build_search_engine(detector_config(*tiny_detector, *changes))
    image = np.random.default_rng(3).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    found = engine.regions([image])[0]
    assert 1 < len(found.boxes) <= 21
    np.testing.assert_allclose(found.boxes[-1], [0, 0, 128, 96])
    assert found.embeddings.shape[1] == (16 if own else 112)


def test_a_detector_without_all_its_weights_is_refused(tiny_detector, tmp_path: Path) -> None:
    config, weights = tiny_detector
    own = ["SEARCH.DETECTOR.OWN_FEATURES", True, "SEARCH.DESCRIPTOR_LAYERS", ["p3"]]
    state = torch.load(weights, weights_only=True)["model"]
    part = {name: one for name, one in state.items() if not name.startswith("head.bbox_pred")}
    torch.save({"model": part}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"part\.pth lacks 2 weights"):
        build_search_engine(detector_config(config, tmp_path / "part.pth", *own))
    with pytest.raises(FileNotFoundError, match="missing.pth"):
        build_search_engine(detector_config(config, tmp_path / "missing.pth", *own))
    with pytest.raises(ValueError, match="CONFIG_FILE is not set"):
        build_search_engine(detector_config("", weights, *own))
    with pytest.raises(FileNotFoundError, match="neither a file nor in Detectron2's model zoo"):
        build_search_engine(detector_config("COCO-Detection/none.yaml", weights, *own))
