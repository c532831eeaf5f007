"""What a cycle's pairs are worth, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.structures import BoxMode

from spil_d2.engine.cycle_inspection import Truth, inspect_cycle, inspection_table, right_pairs
from spil_d2.selftrain.seeds import QuerySeeds
from spil_d2.structures import Candidate, QueryPool, SamplePool, Target

CUP, HAT = 7, 9


def annotation(box, instance: int) -> dict:
    return {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "instance_id": instance}


@pytest.fixture
def truth() -> Truth:
    return Truth(
        [
            {"image_id": 1, "annotations": [annotation((10, 10, 40, 40), CUP)]},
            {"image_id": 2, "annotations": [annotation((0, 0, 20, 20), HAT)]},
            {"image_id": 3, "annotations": [annotation((60, 60, 10, 20), CUP)]},
            {"image_id": 4, "annotations": []},
        ]
    )


def test_a_box_shows_what_it_covers_by_more_than_half(truth: Truth) -> None:
    assert truth.look(1, (10, 10, 50, 50)) == (CUP, 1.0)
    # 40 x 20 of 40 x 40: exactly a half is not enough.
    assert truth.look(1, (10, 10, 50, 30)) == (None, 0.5)
    assert truth.look(1, (10, 10, 50, 31)) == (CUP, 21 / 40)
    assert truth.look(4, (0, 0, 9, 9)) == (None, 0.0)


def test_a_pair_is_right_when_both_show_one_instance(truth: Truth) -> None:
    seeds = QuerySeeds(
        np.array([1, 4]),
        np.array([[10, 10, 50, 50], [0, 0, 9, 9]], np.float32),
        np.ones(2, np.float32),
        np.zeros(2, np.int64),
        ("agreement",),
    )
    boxes = {2: (0.0, 0.0, 20.0, 20.0), 3: (60.0, 60.0, 70.0, 80.0), 4: (0.0, 0.0, 9.0, 9.0)}
    targets = tuple(Candidate(i, box, Target(box, 1.0)) for i, box in boxes.items())
    pools = tuple(QueryPool(i, Target((0, 0, 9, 9), 1.0), targets) for i in range(2))
    right = right_pairs(SamplePool(1, pools), seeds, truth)
    assert right == [False, True, False, False, False, False]


def test_a_folder_without_rounds_is_told(truth: Truth, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no round"):
        inspect_cycle(tmp_path, truth)


def test_the_table_leaves_empty_what_a_round_does_not_have() -> None:
    table = inspection_table([{"round": 1, "seeds": 8, "seeds/objects": 25.0, "pairs": 4}])
    cells = [cell.strip() for cell in table.splitlines()[2].strip("|").split("|")]
    assert cells == ["1", "8", "25.0", "", "", "", "4", ""]
