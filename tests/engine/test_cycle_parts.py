"""Parts of the cycle that need no training."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.structures import BoxMode

from spil_d2 import get_cfg
from spil_d2.engine.cycle import _first_regions
from spil_d2.engine.cycle_evaluation import growing_table
from spil_d2.engine.cycle_models import CycleConfigs, identity_pool
from spil_d2.engine.training_run import begin_run
from spil_d2.structures import RegionList, RegionLists


def record(image_id: int, *annotations: tuple[int, list[float]]) -> dict:
    return {
        "image_id": image_id,
        "file_name": f"{image_id}.jpg",
        "width": 100,
        "height": 80,
        "annotations": [
            {"instance_id": one, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS}
            for one, box in annotations
        ],
    }


def test_every_box_looks_for_its_identity_on_other_images() -> None:
    gallery = [
        record(1, (7, [0, 0, 10, 10]), (8, [5, 5, 40, 40])),
        record(2, (7, [1, 2, 30, 40])),
        record(3, (7, [3, 3, 9, 9]), (7, [20, 20, 60, 60])),
    ]
    queries, pool = identity_pool(gallery)
    assert [(q.instance_id, q.primary.image_id) for q in queries] == [
        (7, 1),
        (8, 1),
        (7, 2),
        (7, 3),
        (7, 3),
    ]
    assert [[c.image_id for c in pool[q.id].candidates] for q in queries] == [
        [2, 3, 3],
        [],
        [1, 3, 3],
        [1, 2],
        [1, 2],
    ]
    assert pool[0].candidates[0].target.box == (1, 2, 30, 40)


def test_images_of_one_id_are_refused() -> None:
    twice = [record(1, (7, [0, 0, 9, 9])), {**record(1, (7, [0, 0, 9, 9])), "file_name": "b.jpg"}]
    with pytest.raises(ValueError, match="same id"):
        identity_pool(twice)


def test_a_region_of_many_seeds_is_clustered_once() -> None:
    boxes = np.array([[0, 0, 5, 5], [1, 1, 9, 9], [2, 2, 4, 4]], np.float32)
    lists = RegionLists(
        (
            RegionList(0, np.array([1, 2, 3]), boxes, np.array([0.9, 0.8, 0.7], np.float32)),
            RegionList(1, np.array([2, 1]), boxes[[1, 1]], np.array([0.9, 0.8], np.float32)),
        )
    )
    image_ids, found = _first_regions(lists, 2)
    assert image_ids.tolist() == [1, 2, 1]
    assert found.tolist() == boxes[[0, 1, 1]].tolist()


def test_the_ranker_of_a_cycle_has_its_seed_and_identities() -> None:
    cfg = get_cfg()
    cfg.SEED, cfg.MODEL.DEVICE = 5, "cpu"
    cfg.RANKER.IDENTITIES, cfg.RANKER.TEST_IDENTITIES = "odd", "even"
    cfg.CST.RANKER.CONFIG = "ranker/tiny.yaml"
    cfg.CST.LOCALIZER.ROUND_OPTS = ["SOLVER.MAX_ITER", 7]
    configs = CycleConfigs.from_config(cfg)
    assert configs.localizer_round.SOLVER.MAX_ITER == 7
    assert configs.localizer_pretraining.SOLVER.MAX_ITER == cfg.SOLVER.MAX_ITER
    for one in (configs.ranker_pretraining, configs.ranker_round):
        assert one.SEED == 5 and one.RANKER.IDENTITIES == "odd"
    assert configs.ranker_round.MODEL.RANKER.LOSSES == ["simclr"]
    cfg.CST.RANKER.CONFIG = "nowhere.yaml"
    with pytest.raises(FileNotFoundError, match="CST.RANKER.CONFIG is 'nowhere.yaml'"):
        CycleConfigs.from_config(cfg)


def test_the_table_has_a_row_a_round() -> None:
    row = {
        "system/rank-1": 10.0,
        "system/mAP": 20.0,
        "localizer/Recall@20": 30.0,
        "localizer/mAP": 40.0,
        "ranker/rank-1": 50.0,
        "ranker/mAP": 60.0,
    }
    lines = growing_table([{"round": 0, **row}, {"round": 1, **row}]).splitlines()
    assert len(lines) == 4
    assert [cell.strip() for cell in lines[3].strip("|").split("|")] == [
        "1",
        "10.0",
        "20.0",
        "30.0",
        "40.0",
        "50.0",
        "60.0",
    ]


def test_a_training_is_begun_gone_on_with_and_found_finished(tmp_path) -> None:
    folder = tmp_path / "run"
    assert not begin_run(folder, "a", "w.pth", resume=True)
    (folder / "last_checkpoint").write_text("model_1.pth")
    assert not begin_run(folder, "a", "w.pth", resume=True)
    assert (folder / "last_checkpoint").is_file()
    (folder / "w.pth").write_bytes(b"weights")
    assert begin_run(folder, "a", "w.pth", resume=True)
    with pytest.raises(ValueError, match="another folder"):
        begin_run(folder, "b", "w.pth", resume=True)
    assert not begin_run(folder, "b", "w.pth", resume=False)
    assert not (folder / "w.pth").exists() and not (folder / "last_checkpoint").exists()
