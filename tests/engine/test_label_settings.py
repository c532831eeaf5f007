"""Second pass and ignore regions from a configuration."""

from __future__ import annotations

import pytest

from spil_d2 import get_cfg
from spil_d2.engine.label_settings import LabelSettings


def _settings(*changes) -> LabelSettings:
    cfg = get_cfg()
    cfg.merge_from_list(list(changes))
    return LabelSettings.from_config(cfg)


def test_all_is_off_by_default() -> None:
    assert _settings() == LabelSettings(False, False, None, 0.5)


def test_each_has_its_key() -> None:
    assert _settings("FEW_SHOT.SECOND_PASS.LABELS", True).second_pass
    assert _settings("FEW_SHOT.SECOND_PASS.FINAL", True).final_second_pass
    assert _settings("FEW_SHOT.IGNORE_OTHERS.ENABLED", True).ignore_margin == 0.1


@pytest.mark.parametrize(
    "changes",
    [
        ("FEW_SHOT.IGNORE_OTHERS.MARGIN", -0.1),
        ("FEW_SHOT.IGNORE_OTHERS.MAX_IOU", 0.0),
        ("FEW_SHOT.IGNORE_OTHERS.ENABLED", True, "TEST.DETECTIONS_PER_IMAGE", 1),
    ],
)
def test_what_cannot_work_is_refused(changes: tuple) -> None:
    with pytest.raises(ValueError, match="FEW_SHOT.IGNORE_OTHERS"):
        _settings(*changes)
