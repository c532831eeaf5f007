"""The INS metric and the localizer alone: what must not change them, and what does in a known way.

Coordinates are small whole numbers: scaled and reflected boxes have the same IoUs to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spil_d2.evaluation.ins_evaluator import evaluate_localizer, judge
from spil_d2.evaluation.ins_metrics import QueryBoxes
from spil_d2.evaluation.ins_protocol import PRESETS, ProtocolQuery, QueryTruth, build_protocol
from spil_d2.structures import RegionList, RegionLists

from . import ins_reference as reference

FEW = settings(max_examples=8, derandomize=True, deadline=None)
IMAGES = tuple(f"c{c}i{i}" for c in (1, 2) for i in range(5))
OWN = "c1i0"
Box = tuple[float, float, float, float]
Row = tuple[str, Box, float]
"""Image, box, score."""


@dataclass(frozen=True)
class Case:
    """Two queries on one image: (image, box) of their positives, and what was found for each."""

    positives: tuple[tuple[tuple[str, Box], ...], ...]
    rows: tuple[tuple[Row, ...], ...]
    images: tuple[str, ...] = IMAGES

    def protocol(self, copies: int = 1):
        truths = [
            QueryTruth(f"{n}_{copy}", 10 * n + copy, (OWN,), 50.0, some)
            for n, some in enumerate(self.positives)
            for copy in range(copies)
        ]
        ids = {name: i for i, name in enumerate(self.images)}
        return build_protocol(PRESETS["ins_prw"], ids, truths)

    def judged(self, copies: int = 1):
        protocol = self.protocol(copies)

        def find(query: ProtocolQuery) -> QueryBoxes:
            rows = self.rows[int(query.name.partition("_")[0])]
            return QueryBoxes(
                np.array([protocol.image_index[name] for name, _, _ in rows], np.int64),
                np.array([box for _, box, _ in rows], np.float64).reshape(-1, 4),
                np.array([score for _, _, score in rows], np.float64),
            )

        return judge(protocol, find)

    def numbers(self, copies: int = 1) -> dict[str, float]:
        return self.judged(copies).metrics()

    def ranks(self) -> list[list[int]]:
        return [one.tp_ranks.tolist() for one in self.judged().outcomes]

    def with_rows(self, change: Callable[[tuple[Row, ...]], Sequence[Row]]) -> Case:
        return replace(self, rows=tuple(tuple(change(some)) for some in self.rows))

    def moved(self, change: Callable[[Box], Box]) -> Case:
        positives = tuple(tuple((n, change(b)) for n, b in some) for some in self.positives)
        moved = replace(self, positives=positives)
        return moved.with_rows(lambda some: [(n, change(b), s) for n, b, s in some])


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    """All pairs of them overlap, about as many by more as by less than a half."""
    x0, y0 = draw(st.integers(0, 8)), draw(st.integers(0, 8))
    return x0, y0, x0 + draw(st.integers(16, 28)), y0 + draw(st.integers(16, 28))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """No two scores of a query are equal; each query has a positive that counts."""
    positives, rows = [], []
    for _ in range(2):
        names = draw(st.lists(st.sampled_from(IMAGES[1:]), min_size=1, max_size=4, unique=True))
        names = [*names, *(["c2i4"] if "c2i4" not in names else [])]
        positives.append(tuple((name, draw(boxes())) for name in names))
        count = draw(st.integers(0, 14))
        scores = draw(st.permutations(range(count)))
        # Several boxes on an image are the rule, most of them where there is something to find.
        places = st.sampled_from([*IMAGES, *names, *names, *names])
        found = [(draw(places), draw(boxes()), s / 16) for s in scores]
        rows.append(tuple(found))
    return Case(tuple(positives), tuple(rows))


@FEW
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_boxes_images_and_queries_does_not_matter(case, chance) -> None:
    def shuffled(some):
        return tuple(chance.sample(list(some), len(some)))

    other = replace(case.with_rows(shuffled), images=shuffled(case.images))
    assert other.numbers() == case.numbers()
    turned = replace(other, positives=case.positives[::-1], rows=other.rows[::-1])
    assert turned.numbers() == pytest.approx(case.numbers(), abs=1e-9)


@FEW
@given(cases(), st.sampled_from([lambda s: 2 * s, np.exp, lambda s: s**3 - 5, np.arctan]))
def test_an_increasing_map_of_the_scores_changes_nothing(case, change) -> None:
    mapped = case.with_rows(lambda some: [(n, b, float(change(s))) for n, b, s in some])
    assert mapped.numbers() == case.numbers()


@FEW
@given(cases(), st.sampled_from([0.25, 2.0, 3.0]))
def test_scaled_mirrored_and_turned_pictures_change_nothing(case, scale) -> None:
    expected = case.numbers()
    assert case.moved(lambda b: tuple(scale * x for x in b)).numbers() == expected
    assert case.moved(lambda b: (64 - b[2], b[1], 64 - b[0], b[3])).numbers() == expected
    assert case.moved(lambda b: (b[1], b[0], b[3], b[2])).numbers() == expected


@FEW
@given(cases())
def test_every_query_twice_changes_nothing(case) -> None:
    assert case.numbers(copies=2) == pytest.approx(case.numbers(), abs=1e-9)


@FEW
@given(cases(), st.lists(boxes(), min_size=1, max_size=5))
def test_distractors_below_all_else_change_nothing(case, more) -> None:
    names = (*IMAGES, "c2x")
    longer = replace(case, images=names).with_rows(
        lambda some: [*some, *(("c2x", box, -1.0 - i) for i, box in enumerate(more))]
    )
    assert longer.numbers() == case.numbers()


@FEW
@given(cases(), st.lists(boxes(), min_size=1, max_size=5))
def test_distractors_above_all_else_move_every_rank_down(case, more) -> None:
    longer = replace(case, images=(*IMAGES, "c2x")).with_rows(
        lambda some: [*some, *(("c2x", box, 99.0 + i) for i, box in enumerate(more))]
    )
    assert longer.ranks() == [[rank + len(more) for rank in ranks] for ranks in case.ranks()]
    before, after = case.numbers(), longer.numbers()
    assert after["ins_prw/global/recall@IoU0.5"] == before["ins_prw/global/recall@IoU0.5"]
    assert all(after[key] <= before[key] + 1e-9 for key in before)


@FEW
@given(cases(), boxes())
def test_images_that_are_ignored_may_hold_anything(case, box) -> None:
    """The query's own image, and positives of its camera."""
    more = [(OWN, box, 99.0)]
    longer = case.with_rows(lambda some: [*some, *more])
    assert longer.numbers() == case.numbers()
    same_camera = [{OWN, *(n for n, _ in some if n.startswith("c1"))} for some in case.positives]
    left = tuple(
        tuple(row for row in some if row[0] not in names)
        for some, names in zip(case.rows, same_camera)
    )
    assert replace(case, rows=left).numbers() == case.numbers()


@FEW
@given(cases())
def test_every_box_again_below_itself_is_wrong_each_time(case) -> None:
    """A right box at rank r comes to rank 2 r - 1: its copy finds its ground truth consumed."""
    # Scores are multiples of 1 / 16; a copy lies between its box and the next.
    doubled = case.with_rows(
        lambda some: [one for n, b, s in some for one in ((n, b, s), (n, b, s - 1 / 64))]
    )
    for ranks, more in zip(case.ranks(), doubled.ranks()):
        assert more == [2 * rank - 1 for rank in ranks]


@FEW
@given(cases())
def test_a_higher_threshold_finds_no_more(case) -> None:
    protocol = case.protocol()
    recalls = []
    for threshold in (0.3, 0.5, 0.7):
        rules = replace(protocol.rules, iou_threshold=threshold)
        strict = replace(protocol, rules=rules)

        def find(query: ProtocolQuery, names=protocol.image_index) -> QueryBoxes:
            rows = case.rows[int(query.name[0])]
            return QueryBoxes(
                np.array([names[n] for n, _, _ in rows], np.int64),
                np.array([b for _, b, _ in rows], np.float64).reshape(-1, 4),
                np.array([s for _, _, s in rows], np.float64),
            )

        recalls.append([one.recall for one in judge(strict, find).outcomes])
    assert all(a >= b >= c for a, b, c in zip(*recalls))


def localizer_numbers(case: Case, k: int, similarity=lambda place: -place) -> dict[str, float]:
    """The localizer alone; the rows' scores are the localizer's, the ranker's are another order."""
    protocol, lists = case.protocol(), []
    ids = dict(zip(protocol.image_names, protocol.image_ids.tolist()))
    for query in protocol.queries:
        rows = case.rows[int(query.name[0])]
        lists.append(
            RegionList.ranked(
                query.query_id,
                np.array([ids[name] for name, _, _ in rows], np.int64),
                np.array([box for _, box, _ in rows], np.float32),
                np.array([similarity(place) for place in range(len(rows))], np.float32),
                np.array([score for _, _, score in rows], np.float32),
            )
        )
    found = evaluate_localizer(protocol, RegionLists(tuple(lists)), k)
    return {key.rpartition("/")[2].partition("@")[0]: value for key, value in found.items()}


@settings(FEW, max_examples=20)
@given(cases(), st.integers(1, 2))
def test_the_localizer_alone_is_the_naive_loop(case, k) -> None:
    """Section 2.3: the best k boxes of each positive image, pooled, by the localizer's score."""
    aps, recalls = [], []
    for positives, rows in zip(case.positives, case.rows):
        truth = {n: [b] for n, b in positives if not n.startswith("c1")}
        kept = []
        for name in truth:
            kept += sorted((r for r in rows if r[0] == name), key=lambda row: -row[2])[:k]
        hits = reference.walk(kept, truth, set())
        recalls.append(sum(hits) / len(truth))
        aps.append(reference.ap_retrieval(hits, len(truth)))
    found = localizer_numbers(case, k)
    assert found["Recall"] == pytest.approx(100 * np.mean(recalls))
    assert found["mAP"] == pytest.approx(100 * np.mean(aps))


@FEW
@given(cases(), st.integers(1, 3))
def test_what_the_localizer_alone_does_not_see(case, k) -> None:
    """The ranker's order, boxes on other images, and the scale of its own scores."""
    expected = localizer_numbers(case, k)
    assert localizer_numbers(case, k, lambda place: place % 3) == expected
    doubled = case.with_rows(lambda some: [(n, b, 2 * s - 1) for n, b, s in some])
    assert localizer_numbers(doubled, k) == expected
    positive = [{n for n, _ in some if not n.startswith("c1")} for some in case.positives]
    elsewhere = tuple(
        tuple(row for row in some if row[0] in names) for some, names in zip(case.rows, positive)
    )
    assert localizer_numbers(replace(case, rows=elsewhere), k) == expected
    more = localizer_numbers(case, k + 1)
    assert more["Recall"] >= expected["Recall"]
