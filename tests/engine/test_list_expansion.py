"""Lists grow by what pseudo labels find; a finished run's instances are queries again."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2 import get_cfg
from spil_d2.engine.list_expansion import (
    INSTANCES,
    ExpansionSettings,
    ListExpander,
    read_instances,
)
from spil_d2.structures import (
    Candidate,
    Query,
    QueryPool,
    RankList,
    RankLists,
    Reference,
    SamplePool,
    Target,
)

BOX = (1.0, 1.0, 9.0, 9.0)
GALLERY = [{"image_id": i, "file_name": f"{i}.jpg", "width": 20, "height": 10} for i in range(1, 9)]
SHOTS = [
    Query(5, (Reference("1.jpg", 20, 10, BOX, 1),), category_id=50),
    Query(6, (Reference("shot.jpg", 20, 10, BOX),), category_id=60),
]


def _list(query_id: int, *image_ids: int) -> RankList:
    count = len(image_ids)
    boxes = np.full((count, 4), query_id, np.float32)
    return RankList(
        query_id, np.array(image_ids), boxes, np.linspace(1, 0.5, count).astype(np.float32)
    )


def _expand():
    """Query 5 has two instances, of which one may search; query 6 has none."""
    labels = (Candidate(2, BOX, Target(BOX, 0.8)), Candidate(3, BOX, Target(BOX, 0.9)))
    pool = SamplePool(
        2,
        (
            QueryPool(5, Target(BOX, 1.0), labels),
            QueryPool(6, Target(BOX, 1.0), (Candidate(4, BOX),)),
        ),
    )
    asked = []

    def search(queries) -> RankLists:
        asked.extend(queries)
        return RankLists(tuple(_list(one.id, 7, 1, 3, 8, 2) for one in queries))

    lists = RankLists((_list(5, 2, 3, 4), _list(6, 4, 5, 6, 7, 8)))
    expander = ListExpander(search, GALLERY, SHOTS, ExpansionSettings(1, 1, 0.5, 4))
    return expander.expand(lists, pool), asked


def test_the_instance_searches_and_the_lists_are_united() -> None:
    expansion, (instance,) = _expand()
    assert instance.primary == Reference("3.jpg", 20, 10, BOX, 3)
    assert (instance.id, instance.category_id) == (7, 50)
    # Ranks: 2 and 7 first, then 3, then 4 before 8, which is cut; image 1 is the query's own.
    assert expansion.lists[5].image_ids.tolist() == [2, 7, 3, 4]
    assert expansion.lists[5].boxes[:, 0].tolist() == [5, 7, 5, 5]
    assert expansion.lists[6].image_ids.tolist() == [4, 5, 6, 7]


def test_a_finished_run_s_instances_are_queries(tmp_path) -> None:
    expansion, asked = _expand()
    folder = tmp_path / "stages" / "02"
    folder.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=f"no {INSTANCES}.*FEW_SHOT.QE"):
        read_instances(tmp_path, GALLERY, SHOTS)
    expansion.instances.save(folder / INSTANCES)
    assert read_instances(tmp_path, GALLERY, SHOTS) == asked


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("AFTER_STAGE", 3), "AFTER_STAGE is 3: use 0 to .* = 2"),
        (("AFTER_STAGE", -1), "AFTER_STAGE is -1"),
        (("NUM_INSTANCES", 0), "NUM_INSTANCES is 0"),
        (("THRESHOLD", 1.0), "THRESHOLD 1.0"),
        (("TOP_K", 100), "TOP_K is 100.*128 or more"),
    ],
)
def test_what_cannot_work_names_its_key(changes: tuple, message: str) -> None:
    cfg = get_cfg()
    assert ExpansionSettings.from_config(cfg) is None
    key, value = changes
    cfg.merge_from_list(["FEW_SHOT.QE.ENABLED", True, f"FEW_SHOT.QE.{key}", value])
    with pytest.raises(ValueError, match=message):
        ExpansionSettings.from_config(cfg)
