"""Instance search: what must not change its numbers, and what changes them in a known way.

Coordinates are small whole numbers, so that scaled and reflected boxes have the same IoUs to the
last bit. Means over queries are summed in another order where queries move: 1e-9 is allowed there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spil_d2.evaluation import GroundTruth, evaluate_rank_lists
from spil_d2.structures import Query, RankList, RankLists, Reference

from .conftest import make_record

SIDE = 64
FEW = settings(max_examples=8, derandomize=True, deadline=None)
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Case:
    """A gallery, queries and rank lists; `boxes` of an image are (instance, XYXY) pairs."""

    boxes: dict[int, list[tuple[int, Box]]]
    queries: tuple[Query, ...]
    lists: tuple[RankList, ...]

    def numbers(self, k: int = 4) -> dict[str, float]:
        """Every number of the evaluation, cut at a k that some lists reach."""
        records = [
            make_record(i, *((n, (x, y, right - x, low - y)) for n, (x, y, right, low) in found))
            for i, found in self.boxes.items()
        ]
        truth = GroundTruth.from_dataset(records, self.queries)
        results = evaluate_rank_lists(RankLists(self.lists), truth, k)
        return {f"{a}/{b}": v for a, group in results.items() for b, v in group.items()}

    def moved(self, change: Callable[[np.ndarray], np.ndarray]) -> Case:
        """All boxes changed, (N, 4) -> (N, 4)."""
        boxes = {
            i: [(n, tuple(change(np.array([box], np.float64))[0].tolist())) for n, box in found]
            for i, found in self.boxes.items()
        }
        lists = [replace(one, boxes=change(one.boxes).astype(np.float32)) for one in self.lists]
        return replace(self, boxes=boxes, lists=tuple(lists))

    def with_lists(self, change: Callable[[RankList], RankList]) -> Case:
        return replace(self, lists=tuple(map(change, self.lists)))


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x0, y0 = draw(st.integers(0, 40)), draw(st.integers(0, 40))
    return x0, y0, x0 + draw(st.integers(1, 24)), y0 + draw(st.integers(1, 24))


def near(box: Box, shift: int) -> Box:
    return box[0] + shift, box[1], box[2] + shift, box[3]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Two queries over some of ten images; lists hold hits near the truth, and others."""
    shown: dict[int, list[tuple[int, Box]]] = {i: [] for i in range(10)}
    for instance in (1, 2):
        for image in draw(st.lists(st.integers(0, 7), min_size=2, max_size=5, unique=True)):
            shown[image].append((instance, draw(boxes())))
    queries, lists = [], []
    for number, instance in ((11, 1), (12, 2)):
        own = next(i for i, found in shown.items() if instance in dict(found))
        reference = Reference("q.jpg", SIDE, SIDE, (0, 0, 9, 9), own)
        queries.append(Query(number, (reference,), instance))
        order = draw(st.permutations(range(8)))[: draw(st.integers(1, 8))]
        found = [
            near(dict(shown[i])[instance], draw(st.integers(0, 12)))
            if instance in dict(shown[i])
            else draw(boxes())
            for i in order
        ]
        lists.append(
            RankList(
                number,
                np.array(order, np.int64),
                np.array(found, np.float32),
                -np.arange(len(order), dtype=np.float32),
                np.array([draw(st.integers(0, 8)) / 8 for _ in order], np.float32),
            )
        )
    return Case(shown, tuple(queries), tuple(lists))


@FEW
@given(cases(), st.permutations(range(10)))
def test_the_order_and_the_names_of_images_and_queries_do_not_matter(case, names) -> None:
    def renamed(one: Query) -> Query:
        (reference,) = one.references
        assert reference.image_id is not None
        moved = replace(reference, image_id=names[reference.image_id])
        return replace(one, id=one.id + 5, references=(moved,))

    other = Case(
        {names[i]: case.boxes[i][::-1] for i in reversed(case.boxes)},
        tuple(renamed(one) for one in reversed(case.queries)),
        tuple(
            replace(one, query_id=one.query_id + 5, image_ids=np.array(names)[one.image_ids])
            for one in case.lists
        ),
    )
    assert other.numbers() == pytest.approx(case.numbers(), abs=1e-9)


@FEW
@given(cases(), st.sampled_from([lambda s: 2 * s, np.exp, lambda s: s**3 - 7, np.arctan]))
def test_an_increasing_map_of_the_similarities_changes_nothing(case, change) -> None:
    def mapped(one: RankList) -> RankList:
        return replace(one, similarities=change(one.similarities).astype(np.float32))

    assert case.with_lists(mapped).numbers() == case.numbers()


@FEW
@given(cases())
def test_of_the_probabilities_only_the_order_counts(case) -> None:
    def mapped(change: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
        return case.with_lists(
            lambda one: replace(one, probabilities=change(one.probabilities))
        ).numbers()

    expected = case.numbers()
    assert mapped(lambda p: p / 2) == mapped(np.square) == expected
    key = "localization/AUC_p@4"
    if key in expected:
        assert mapped(lambda p: 1 - p)[key] == pytest.approx(100 - expected[key])


@FEW
@given(cases(), st.sampled_from([0.5, 2.0, 3.0, 16.0]))
def test_larger_pictures_with_larger_boxes_change_nothing(case, scale) -> None:
    assert case.moved(lambda some: scale * some).numbers() == case.numbers()


@FEW
@given(cases())
def test_mirrored_and_turned_pictures_change_nothing(case) -> None:
    expected = case.numbers()
    sign, shift = np.array([-1, 1, -1, 1]), np.array([SIDE, 0, SIDE, 0])
    assert case.moved(lambda b: sign * b[:, [2, 1, 0, 3]] + shift).numbers() == expected
    assert case.moved(lambda b: b[:, [1, 0, 3, 2]]).numbers() == expected


@FEW
@given(cases())
def test_every_query_twice_changes_nothing(case) -> None:
    doubled = replace(
        case,
        queries=(*case.queries, *(replace(one, id=one.id + 5) for one in case.queries)),
        lists=(*case.lists, *(replace(one, query_id=one.query_id + 5) for one in case.lists)),
    )
    assert doubled.numbers() == pytest.approx(case.numbers(), abs=1e-9)


def appended(one: RankList, image_ids: list[int], above: bool) -> RankList:
    """With images above or below all others."""
    parts = [
        (one.image_ids, one.boxes, one.similarities, one.probabilities),
        (
            np.array(image_ids),
            np.tile(np.array([[0, 0, 9, 9]], np.float32), (len(image_ids), 1)),
            np.full(len(image_ids), 99.0 if above else -99.0, np.float32),
            np.full(len(image_ids), 0.5, np.float32),
        ),
    ]
    columns = zip(*(parts[::-1] if above else parts))
    return RankList(one.query_id, *(np.concatenate(column) for column in columns))


@FEW
@given(cases())
def test_distractors_below_all_else(case) -> None:
    """Only what is a mean over all returned images sees them: each list's becomes n / (n + 2)."""
    before = case.numbers(k=128)
    after = case.with_lists(lambda one: appended(one, [8, 9], above=False)).numbers(k=128)
    for key in ("localization/mIoU_all@128", "localization/AUC_p@128"):
        before.pop(key, None), after.pop(key, None)
    assert after == before
    for number in range(len(case.queries)):
        alone = replace(case, queries=case.queries[number : number + 1])
        own = {i for query in alone.queries for i in query.own_image_ids}
        one = replace(alone, lists=case.lists[number : number + 1])
        count = sum(i not in own for i in one.lists[0].image_ids.tolist())
        longer = one.with_lists(lambda x: appended(x, [8, 9], above=False))
        key = "localization/mIoU_all@128"
        expected = one.numbers(k=128)[key] * count / (count + 2)
        assert longer.numbers(k=128)[key] == pytest.approx(expected)


@FEW
@given(cases())
def test_a_distractor_above_all_else_moves_every_hit_down_by_one(case) -> None:
    """AP of hits at ranks r_1 < r_2 ... of G becomes sum of i / (r_i + 1), over G."""
    after = case.with_lists(lambda one: appended(one, [9], above=True)).numbers(k=128)
    before = case.numbers(k=128)
    assert after["localization/mIoU_TP@128"] == before["localization/mIoU_TP@128"]
    expected = []
    for query, one in zip(case.queries, case.lists):
        left = [i for i in one.image_ids.tolist() if i not in query.own_image_ids]
        shown = {
            i
            for i, found in case.boxes.items()
            if query.instance_id in dict(found) and i not in query.own_image_ids
        }
        ranks = [rank for rank, i in enumerate(left, start=1) if i in shown]
        expected.append(sum(n / (r + 1) for n, r in enumerate(ranks, start=1)) / len(shown))
    # Fewer than 128 images are relevant, so that both divide by all of them.
    for name in ("AP_std@128", "AP_divG@128"):
        assert after[f"search/{name}"] == pytest.approx(100 * float(np.mean(expected)))
    for name in ("AP_std@128", "AP_lab@128", "AP_trapezoid_full", "P@5", "P@10"):
        assert after[f"search/{name}"] <= before[f"search/{name}"] + 1e-9


@FEW
@given(cases())
def test_the_querys_own_image_may_be_anywhere_or_nowhere(case) -> None:
    def moved(first: bool) -> Case:
        def change(one: RankList) -> RankList:
            (query,) = (query for query in case.queries if query.id == one.query_id)
            (own,) = query.own_image_ids
            rest = one.take(np.flatnonzero(one.image_ids != own))
            return appended(rest, [own], above=True) if first else rest

        return case.with_lists(change)

    assert moved(True).numbers() == moved(False).numbers() == case.numbers()


@FEW
@given(cases(), st.integers(0, 6))
def test_a_hit_that_moves_up_by_one_never_costs_anything(case, place) -> None:
    one = case.lists[0]
    own = case.queries[0].own_image_ids
    kept = one.take(np.array([p for p, i in enumerate(one.image_ids) if int(i) not in own], int))
    hits = [1 in dict(case.boxes[i]) for i in kept.image_ids.tolist()]
    if place + 1 >= len(kept) or hits[place] or not hits[place + 1]:
        return
    order = np.arange(len(kept))
    order[[place, place + 1]] = place + 1, place
    swapped = replace(kept.take(order), similarities=kept.similarities)
    before, after = (
        replace(case, queries=case.queries[:1], lists=(some,)).numbers(k=128)
        for some in (kept, swapped)
    )
    assert after["search/AP_std@128"] > before["search/AP_std@128"]
    for name in ("AP_lab@128", "AP_divG@128", "AP_trapezoid_full", "P@5"):
        assert after[f"search/{name}"] >= before[f"search/{name}"]
    for name in ("mIoU_TP@128", "CorLoc50@128", "Recall@IoU.50", "mIoU_all@128"):
        assert after[f"localization/{name}"] == pytest.approx(before[f"localization/{name}"])
