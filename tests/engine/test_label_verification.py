"""The shots' vote on pseudo labels, with an engine that sees colours."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from spil_d2 import get_cfg
from spil_d2.engine.label_verification import LabelVerifier, OracleVerifier, build_verifier
from spil_d2.evaluation import GroundTruth
from spil_d2.retrieval.index import create_region_index
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

RED, GREEN = (250, 10, 10), (10, 250, 10)
# Each picture has one half of each colour.
LEFT, RIGHT = (0.0, 0.0, 10.0, 10.0), (10.0, 0.0, 20.0, 10.0)
SEARCHED = (0.0, 0.0, 20.0, 10.0)


class Colours:
    """In place of an engine: a box is its mean colour."""

    def embed(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        rows = []
        for x0, y0, x1, y1 in boxes.astype(int):
            mean = image[y0:y1, x0:x1].reshape(-1, 3).mean(axis=0)
            rows.append(mean / np.linalg.norm(mean))
        return np.array(rows, np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    picture = np.zeros((10, 20, 3), np.uint8)
    picture[:, :10], picture[:, 10:] = RED, GREEN
    names = [str(folder / f"{i}.png") for i in range(3)]
    for name in names:
        cv2.imwrite(name, picture[:, :, ::-1])
    return names


def _shot(query_id: int, file_name: str, box, category: int | None) -> Query:
    return Query(query_id, (Reference(file_name, 20, 10, box),), category_id=category)


def _pool(*labels) -> SamplePool:
    """(query id, boxes of its candidates 0, 1, ..., None for no label)."""
    return SamplePool(
        1,
        tuple(
            QueryPool(
                query_id,
                Target(LEFT, 1.0),
                tuple(
                    Candidate(i, SEARCHED) if box is None else Candidate(i, box, Target(box, 0.9))
                    for i, box in enumerate(boxes)
                ),
            )
            for query_id, boxes in labels
        ),
    )


def _lists(*query_ids: int) -> RankLists:
    boxes = np.array([SEARCHED] * 3, np.float32)
    values = np.array([0.9, 0.8, 0.7], np.float32)
    return RankLists(tuple(RankList(q, np.arange(3), boxes, values) for q in query_ids))


def _verifier(files: list[str], queries: list[Query], k: int = 1) -> LabelVerifier:
    gallery = [{"image_id": i, "file_name": name} for i, name in enumerate(files)]
    return LabelVerifier(Colours(), create_region_index("exact"), gallery, queries, k=k)


def test_labels_of_another_class_s_colour_go(files) -> None:
    shots = [
        _shot(1, files[0], LEFT, 5),
        _shot(2, files[0], RIGHT, 6),
        _shot(3, files[1], LEFT, None),
    ]
    before = _pool((1, (LEFT, RIGHT, None)), (2, (LEFT, RIGHT)), (3, (RIGHT,)))
    after = _verifier(files, shots).verify(before, _lists(1, 2, 3))
    # Query 3 may be of any class.
    assert after == _pool((1, (LEFT, None, None)), (2, (None, RIGHT)), (3, (RIGHT,)))


def test_a_pool_without_labels_stays(files) -> None:
    shots = [_shot(1, files[0], LEFT, 5)]
    pool = _pool((1, (None, None)))
    assert _verifier(files, shots).verify(pool, _lists(1)) == pool


@pytest.mark.parametrize(("category", "k"), [(None, 1), (5, 0)])
def test_what_cannot_vote_is_refused(files, category: int | None, k: int) -> None:
    with pytest.raises(ValueError, match="FEW_SHOT.VERIFY needs K >= 1"):
        _verifier(files, [_shot(1, files[0], LEFT, category)], k)


def test_the_oracle_keeps_what_the_truth_agrees_with(caplog) -> None:
    other_third = (13.0, 0.0, 20.0, 10.0)
    truth = GroundTruth(
        # Image 1 has two boxes; of RIGHT the last third is more than one half.
        {1: {0: np.array([LEFT]), 1: np.array([LEFT, other_third])}},
        {1: frozenset(), 2: frozenset()},
        frozenset({0, 1, 2}),
    )
    pool = _pool((1, (RIGHT, RIGHT, LEFT)), (2, (LEFT, None)))
    after = OracleVerifier(truth).verify(pool, _lists(1, 2))
    assert after == _pool((1, (None, RIGHT, None)), (2, (None, None)))
    assert "the ground truth has chosen 1 of 4 pseudo labels" in caplog.text


def test_the_oracle_leaves_a_pool_without_labels() -> None:
    truth = GroundTruth({}, {1: frozenset()}, frozenset({0}))
    pool = _pool((1, (None,)))
    assert OracleVerifier(truth).verify(pool, _lists(1)) == pool


def test_an_oracle_without_truth_is_refused() -> None:
    cfg = get_cfg()
    cfg.FEW_SHOT.VERIFY.ENABLED, cfg.FEW_SHOT.VERIFY.METHOD = True, "oracle"
    cfg.DATASETS.TRAIN = ("my_photos",)
    with pytest.raises(ValueError, match="'my_photos' has none: use one of"):
        build_verifier(cfg, [], [], None)
