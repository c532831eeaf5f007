"""What a configuration leaves to the machine."""

from __future__ import annotations

import pytest

from spil_d2 import get_cfg
from spil_d2.backbones.weights import RESNET_SHARED, RESNET_URL
from spil_d2.engine import presets


@pytest.mark.parametrize(
    ("changes", "weights", "norm"),
    [
        (("MODEL.ROI_HEADS.NAME", "QueryRes5ROIHeads"), f"/there/{RESNET_SHARED}", "GN"),
        (("MODEL.FSOD.RES5", True), f"/there/{RESNET_SHARED}", "GN"),
        (("MODEL.FSOD.RES5", True), RESNET_URL, "auto"),
        (("MODEL.ROI_HEADS.NAME", "QueryStandardROIHeads"), f"/there/{RESNET_SHARED}", "auto"),
    ],
)
def test_res5_without_weights_is_normalized_by_groups(monkeypatch, changes, weights, norm) -> None:
    monkeypatch.setattr(presets, "resolve_weights", lambda *_, **__: weights)
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.WEIGHTS", RESNET_URL, *changes])
    presets.resolve_config(cfg)
    assert cfg.MODEL.WEIGHTS == weights
    assert cfg.MODEL.RESNETS.RES5_NORM == norm
