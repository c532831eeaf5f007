"""One-shot FSOD through the main job, as a row of the ablation."""

from __future__ import annotations

import json

import yaml

from spil_d2 import get_cfg

from ..programs import ROOT, load_tool

SPIL = ROOT / "configs" / "SPIL"


def _config(name: str, *changes: str):
    cfg = get_cfg()
    cfg.merge_from_file(str(SPIL / name))
    cfg.merge_from_list(list(changes))
    return cfg


def test_fsod_trains_on_the_query_images_and_localizes(ablation) -> None:
    (stage,) = json.loads((ablation / "ablation.json").read_text())["FSOD"]["miou_stage"]
    assert 0 < stage < 1
    used = yaml.safe_load((ablation / "FSOD" / "config.yaml").read_text())
    assert used["MODEL"]["ROI_HEADS"]["NAME"] == "MultiRelationROIHeads"
    assert used["SPIL"]["CONTRASTIVE"] is True and used["SOLVER"]["MAX_ITER"] == 8
    # Stage 0 and the result: no pseudo label was trained on.
    assert sorted(p.name for p in (ablation / "FSOD" / "stages").iterdir()) == ["00", "01"]


def test_the_row_is_the_configuration_file() -> None:
    tool = load_tool("ablation")
    base = _config("tiny_instre_dev.yaml")
    row = _config("tiny_instre_dev.yaml", *tool.row_keys("FSOD", base))
    own = _config("fsod_tiny_instre_dev.yaml")
    for name in ("MODEL", "SPIL", "SOLVER", "INPUT", "SEARCH", "COATTENTION"):
        assert row[name] == own[name], name


def test_on_c4_the_row_compares_regions_after_res5() -> None:
    tool = load_tool("ablation")
    base = _config("paper_instre_dev.yaml")
    row = _config("paper_instre_dev.yaml", *tool.row_keys("FSOD", base))
    assert row.MODEL.FSOD.RES5 and row.MODEL.QUERY.POOLER_RESOLUTION == 14
    assert row.MODEL.RPN.CONV_DIMS == base.MODEL.RPN.CONV_DIMS
    assert row.SPIL.NUM_STAGES == 1 and row.SPIL.TAU == [0.69]


def test_rows_of_fewer_stages_keep_the_tables_columns() -> None:
    tool = load_tool("ablation")
    one = {"miou_search": 0.1, "ap128_std_search": 0.2, "ap128_std": 0.3, "seconds": 4}
    table = tool._table(
        {"SP": {**one, "miou_stage": [0.5, None, 0.6]}, "FSOD": {**one, "miou_stage": [0.4]}}
    )
    header, _, first, second = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    ]
    assert header.index("AP") == first.index("30") == second.index("30")
    assert second[header.index("stage 0")] == "40" and second[header.index("stage 2")] == ""
