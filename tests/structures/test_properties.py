"""Properties of the structures: round trips over the disk, and what validators let through."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spil_d2.structures import (
    Candidate,
    ClusterAssignment,
    Query,
    QueryPool,
    RankList,
    RankLists,
    Reference,
    RegionList,
    RegionLists,
    SamplePool,
    Target,
)

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
IDS = st.integers(-(2**53), 2**53)
SMALL = st.floats(-1e6, 1e6, width=32, allow_nan=False)
BOXES = st.tuples(*[st.floats(-1e6, 1e6, allow_nan=False)] * 4)
WEIGHTS = st.floats(1e-6, 1.0)


@st.composite
def ranked(draw: Any, kind: type, unique: bool) -> Any:
    ids = draw(st.lists(IDS, max_size=6, unique=unique))
    count = len(ids)

    def numbers() -> np.ndarray:
        return np.array(draw(st.lists(SMALL, min_size=count, max_size=count)), np.float32)

    boxes = np.stack([numbers() for _ in range(4)], axis=1).reshape(-1, 4)
    similarities = np.sort(numbers())[::-1].copy()
    scores = numbers() if draw(st.booleans()) else None
    return kind(draw(IDS), np.array(ids, np.int64), boxes, similarities, scores)


def lists(kind: type, unique: bool) -> Any:
    return st.lists(ranked(kind, unique), max_size=3, unique_by=lambda one: one.query_id)


def on_disk(saved: Any) -> Any:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "file"
        saved.save(path)
        return type(saved).load(path)


def check_same(found: Any, given: Any, names: tuple[str, ...]) -> None:
    assert len(found.lists) == len(given.lists)
    kept = all(getattr(one, names[-1]) is not None for one in given.lists)
    for a, b in zip(found.lists, given.lists, strict=True):
        assert a.query_id == b.query_id
        for name in names[:-1] if not kept else names:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@QUICK
@given(lists(RankList, unique=True))
def test_rank_lists_survive_the_disk(given_lists: list[RankList]) -> None:
    saved = RankLists(tuple(given_lists))
    check_same(on_disk(saved), saved, ("image_ids", "boxes", "similarities", "probabilities"))


@QUICK
@given(lists(RegionList, unique=False))
def test_region_lists_survive_the_disk(given_lists: list[RegionList]) -> None:
    saved = RegionLists(tuple(given_lists))
    check_same(on_disk(saved), saved, ("image_ids", "boxes", "similarities", "localizer_scores"))


@QUICK
@given(st.lists(st.integers(-3, 6), max_size=30))
def test_clusters_survive_the_disk_and_keep_their_members(labels: list[int]) -> None:
    clusters = ClusterAssignment.from_labels(np.array(labels, np.int64))
    found = on_disk(clusters)
    np.testing.assert_array_equal(found.labels, clusters.labels)
    given_sets = {frozenset(np.flatnonzero(np.array(labels) == one)) for one in labels if one >= 0}
    assert {frozenset(found.members(i)) for i in range(found.num_clusters)} == given_sets
    assert found.num_noise == sum(one < 0 for one in labels)
    assert (np.diff(found.sizes) <= 0).all()


TARGETS = st.builds(
    Target,
    BOXES,
    WEIGHTS,
    st.sampled_from([None, {"size": [2, 3], "counts": "6"}]),
    st.lists(st.tuples(BOXES, st.floats(0, 1)), max_size=2).map(tuple),
)
CANDIDATES = st.lists(
    st.builds(Candidate, IDS, BOXES, st.one_of(st.none(), TARGETS)), max_size=3
).map(tuple)
POOLS = st.lists(
    st.builds(QueryPool, IDS, TARGETS, CANDIDATES), max_size=3, unique_by=lambda one: one.query_id
)


@QUICK
@given(st.integers(0, 9), POOLS)
def test_a_pool_survives_the_disk(stage: int, queries: list[QueryPool]) -> None:
    pool = SamplePool(stage, tuple(queries))
    assert on_disk(pool) == pool


@given(st.integers(1, 100), st.integers(1, 100), st.tuples(*[st.floats(-10, 110)] * 4))
def test_a_reference_is_inside_its_picture(width: int, height: int, box: tuple) -> None:
    x0, y0, x1, y1 = box
    if 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height:
        assert Query(1, (Reference("a.jpg", width, height, box),)).primary.box == box
    else:
        with pytest.raises(ValueError, match=r"a\.jpg: box"):
            Reference("a.jpg", width, height, box)


@given(st.floats())
def test_a_weight_is_above_0_and_at_most_1(weight: float) -> None:
    if 0 < weight <= 1:
        assert Target((0, 0, 1, 1), weight).weight == weight
    else:
        with pytest.raises(ValueError, match="weight of a pseudo label"):
            Target((0, 0, 1, 1), weight)


@pytest.mark.parametrize("labels", [[2**40], [0, 2**62], [1], [0, 0, 2, 2]])
def test_a_cluster_that_no_region_can_fill_is_refused(labels: list[int]) -> None:
    """Counting the first would take 8 TiB of memory."""
    with pytest.raises(ValueError, match="no cluster of number|numbered from 0"):
        ClusterAssignment(np.array(labels))


@pytest.mark.parametrize(
    "change", [{"similarities": np.float32([np.nan, 1])}, {"image_ids": [1, 1]}]
)
def test_a_wrong_rank_list_is_refused(change: dict) -> None:
    arrays = {
        "image_ids": np.array([1, 2]),
        "boxes": np.zeros((2, 4), np.float32),
        "similarities": np.float32([1, 1]),
    }
    with pytest.raises(ValueError, match="rank list of query 5"):
        RankList(5, **{**arrays, **{k: np.asarray(v) for k, v in change.items()}})
