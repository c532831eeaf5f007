"""Three queries over eight images, small enough to judge by hand.

Instance 10 is in images 1, 2, 3 (query 100 was taken from image 1, so only 2 and 3 count), 20 in
image 4, 30 in images 5 and 6 (twice in 6); 7 and 8 are distractors. Query 400 asks for an instance
that only its own image shows.
"""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.structures import BoxMode

from spil_d2.evaluation import GroundTruth
from spil_d2.structures import Query, RankList, RankLists, Reference


def make_record(image_id: int, *instances: tuple[int, tuple[float, ...]]) -> dict:
    """A dataset dict; each instance is (instance_id, box as x, y, w, h)."""
    return {
        "file_name": f"{image_id}.jpg",
        "image_id": image_id,
        "height": 100,
        "width": 100,
        "annotations": [
            {
                "bbox": list(box),
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 0,
                "instance_id": instance_id,
                "iscrowd": 0,
            }
            for instance_id, box in instances
        ],
    }


def make_query(query_id: int, instance_id: int | None, image_id: int | None = None) -> Query:
    return Query(query_id, (Reference("q.jpg", 100, 100, (0, 0, 10, 10), image_id),), instance_id)


def make_list(query_id: int, rows: list[tuple[int, tuple[float, ...]]]) -> RankList:
    """A rank list from (image_id, box) with similarities falling from 1 by 0.1."""
    return RankList(
        query_id,
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.float32).reshape(-1, 4),
        (1 - 0.1 * np.arange(len(rows))).astype(np.float32),
    )


@pytest.fixture
def dataset_dicts() -> list[dict]:
    return [
        make_record(1, (10, (0, 0, 10, 10))),
        make_record(2, (10, (0, 0, 10, 10))),
        make_record(3, (10, (20, 20, 10, 20))),
        make_record(4, (20, (0, 0, 20, 10))),
        make_record(5, (30, (0, 0, 2, 2))),
        make_record(6, (30, (0, 0, 10, 10)), (30, (50, 50, 10, 10)), (40, (0, 0, 5, 5))),
        make_record(7),
        make_record(8),
    ]


@pytest.fixture
def queries() -> list[Query]:
    return [
        make_query(100, 10, image_id=1),
        make_query(200, 20),
        make_query(300, 30),
        make_query(400, 40, image_id=6),
    ]


@pytest.fixture
def ground_truth(dataset_dicts: list[dict], queries: list[Query]) -> GroundTruth:
    return GroundTruth.from_dataset(dataset_dicts, queries)


@pytest.fixture
def rank_lists() -> RankLists:
    full = (0, 0, 10, 10)
    return RankLists(
        (
            # Own image 1 (dropped), hit IoU 1, wrong, hit: lower half of the box, IoU 1/2.
            make_list(100, [(1, full), (2, full), (7, full), (3, (20, 30, 30, 40))]),
            # Wrong, hit: 10x10 inside 20x10, IoU 1/2.
            make_list(200, [(8, full), (4, full)]),
            # Hit: 2x2 shifted by one, IoU 1/7; hit: the second box is the better one, IoU 1.
            make_list(300, [(5, (1, 1, 3, 3)), (6, (50, 50, 60, 60))]),
        )
    )
