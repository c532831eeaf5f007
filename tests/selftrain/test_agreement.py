"""What rank lists agree upon, against a loop and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2.selftrain import agreement as module
from spil_d2.selftrain.agreement import (
    AgreementSettings,
    agreed_regions,
    elect_boxes,
    lists_among,
)
from spil_d2.selftrain.seeds import QuerySeeds
from spil_d2.structures import Query, Reference, RegionList, RegionLists

A, B = (10.0, 10.0, 50.0, 50.0), (100.0, 100.0, 140.0, 160.0)


def shifted(box, by: float) -> tuple[float, ...]:
    return tuple(x + by for x in box)


def seed(number: int, image_id: int) -> Query:
    return Query(number, (Reference(f"{image_id}.jpg", 200, 200, A, image_id),))


def one_list(number: int, *rows) -> RegionList:
    """Rows of image id, box, similarity."""
    ids, boxes, similarities = zip(*rows)
    return RegionList.ranked(number, np.array(ids), np.array(boxes), np.array(similarities))


def naive_election(boxes, settings) -> list[tuple[list[float], int]]:
    """The rule, box by box."""

    def iou(a, b) -> float:
        width = min(a[2], b[2]) - max(a[0], b[0])
        height = min(a[3], b[3]) - max(a[1], b[1])
        both = max(width, 0) * max(height, 0)
        area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
        return both / (sum(area) - both)

    left, elected = list(map(tuple, boxes)), []
    while left and len(elected) < settings.per_image:
        voters = [[b for b in left if iou(a, b) > settings.vote_iou] for a in left]
        first = max(range(len(left)), key=lambda i: (len(voters[i]), -i))
        if len(voters[first]) < settings.min_votes:
            break
        columns = zip(*voters[first])
        elected.append(([float(np.median(column)) for column in columns], len(voters[first])))
        left = [b for b in left if iou(left[first], b) < settings.suppress_iou]
    return elected


@pytest.mark.parametrize("per_image, min_votes", [(1, 1), (3, 2), (5, 1)])
def test_an_election_equals_the_rule_as_it_is_written(per_image: int, min_votes: int) -> None:
    rng = np.random.default_rng(per_image)
    settings = AgreementSettings(per_image=per_image, min_votes=min_votes, vote_iou=0.6)
    for _ in range(20):
        corners = rng.choice([10.0, 40.0, 90.0], (25, 2)) + rng.normal(0, 3, (25, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(25, 40, (25, 2))], axis=1)
        found = elect_boxes(boxes, settings)
        wanted = naive_election(boxes, settings)
        assert [votes for _, votes in found] == [votes for _, votes in wanted]
        for (box, _), (other, _) in zip(found, wanted):
            assert box.tolist() == pytest.approx(other)


def test_a_vote_is_more_than_the_least_overlap_and_a_seed_less_than_the_largest() -> None:
    # IoU of both with the first: a half, exactly.
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [0, 5, 10, 10]], np.float32)
    settings = AgreementSettings(5, vote_iou=0.5, suppress_iou=0.5, min_votes=1)
    found = elect_boxes(boxes, settings)
    assert [(box.tolist(), votes) for box, votes in found] == [([0, 0, 10, 10], 1)]
    # 7 / 10 is compared in double precision.
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 7]], np.float32)
    for threshold, votes in ((0.7, 1), (0.7 - 1e-12, 2)):
        settings = AgreementSettings(1, vote_iou=threshold, min_votes=1)
        assert elect_boxes(boxes, settings)[0][1] == votes


@pytest.mark.parametrize("max_voters", [7, 1000])
def test_an_agreement_equals_the_rule_image_by_image(max_voters: int) -> None:
    rng = np.random.default_rng(max_voters)
    settings = AgreementSettings(per_image=2, min_votes=1, vote_iou=0.6, max_voters=max_voters)
    rows: dict[int, list] = {1: [], 2: [], 3: []}
    seeds, lists = [], []
    for number in range(90):
        corner = rng.choice([10.0, 40.0, 90.0], 2) + rng.integers(-3, 4, 2)
        box = (*corner.tolist(), *(corner + rng.integers(25, 40, 2)).tolist())
        # Coarse, so that most are equal: then the earlier seed comes first.
        image_id, similarity = int(rng.integers(1, 4)), float(rng.integers(1, 3)) / 4
        seeds.append(seed(number, 100 + number))
        lists.append(one_list(number, (image_id, box, similarity)))
        rows[image_id].append((-similarity, number, box))
    found = agreed_regions(seeds, RegionLists(tuple(lists)), settings)
    expected = [
        (image_id, box, votes)
        for image_id, some in rows.items()
        for box, votes in naive_election([b for *_, b in sorted(some)[:max_voters]], settings)
    ]
    assert len(expected) == 6
    assert found.image_ids.tolist() == [one[0] for one in expected]
    assert found.boxes.tolist() == [one[1] for one in expected]
    assert found.scores.tolist() == [one[2] for one in expected]
    assert found.sources.tolist() == [0] * 6
    kinds = [getattr(found, name).dtype for name in ("image_ids", "boxes", "scores", "sources")]
    assert kinds == [np.int64, np.float32, np.float32, np.int64]


def test_one_vote_on_an_image_is_enough_where_it_is_said_to_be() -> None:
    lists = RegionLists((one_list(0, (4, A, 0.9)),))
    found = agreed_regions([seed(0, 100)], lists, AgreementSettings(min_votes=1))
    assert found.image_ids.tolist() == [4] and found.boxes.tolist() == [list(A)]


def test_the_box_of_most_lists_wins_and_is_the_median_of_its_voters() -> None:
    seeds = [seed(i, 100 + i) for i in range(4)]
    lists = RegionLists(
        (
            one_list(0, (1, A, 0.9), (1, B, 0.8)),
            one_list(1, (1, shifted(A, 2), 0.4)),
            one_list(2, (1, shifted(A, 1), 0.3)),
            one_list(3, (1, B, 0.99), (2, B, 0.5)),
        )
    )
    found = agreed_regions(seeds, lists, AgreementSettings())
    # Image 2 has a single vote; a seed's second box on an image has none.
    assert found.image_ids.tolist() == [1] and found.scores.tolist() == [3.0]
    assert found.boxes.tolist() == [list(shifted(A, 1))]
    assert found.source_names == ("agreement",)


def test_a_seed_has_no_vote_on_its_own_image() -> None:
    seeds = [seed(0, 1), seed(1, 1), seed(2, 5)]
    rows = [one_list(i, (1, A, 0.9), (2, B, 0.5)) for i in range(3)]
    found = agreed_regions(seeds, RegionLists(tuple(rows)), AgreementSettings())
    assert found.image_ids.tolist() == [2] and found.scores.tolist() == [3.0]
    with pytest.raises(ValueError, match="MIN_VOTES"):
        agreed_regions(seeds[:1], RegionLists(tuple(rows[:1])), AgreementSettings())


def test_voters_are_those_that_look_most_like_their_seeds() -> None:
    seeds = [seed(i, 100 + i) for i in range(5)]
    boxes = [A, A, B, B, B]
    rows = [one_list(i, (1, box, 0.9 - 0.1 * i)) for i, box in enumerate(boxes)]
    few = AgreementSettings(max_voters=3)
    assert agreed_regions(seeds, RegionLists(tuple(rows)), few).boxes.tolist() == [list(A)]
    found = agreed_regions(seeds, RegionLists(tuple(rows)), AgreementSettings())
    assert found.boxes.tolist() == [list(B)]


def test_lists_among_seeds_leave_out_the_seed_s_own_image() -> None:
    image_ids = np.array([1, 1, 2, 3, 4])
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(5, 8)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    boxes = rng.uniform(1, 9, (5, 4)).astype(np.float32)
    zeros = np.zeros(5, np.int64)
    seeds = QuerySeeds(image_ids, boxes, np.ones(5, np.float32), zeros, ("agreement",))
    lists = lists_among(seeds, embeddings, 2, exact_limit=100)
    for i in range(5):
        cosines = {
            j: float(embeddings[i] @ embeddings[j])
            for j in range(5)
            if image_ids[j] != image_ids[i]
        }
        best = sorted(cosines, key=lambda j: -cosines[j])[:2]
        assert lists[i].image_ids.tolist() == image_ids[best].tolist()
        assert np.allclose(lists[i].boxes, boxes[best])
        assert lists[i].similarities.tolist() == pytest.approx([cosines[j] for j in best])


def test_lists_among_seeds_are_full_although_neighbours_lie_on_the_seed_s_own_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    angles = np.array([0.0, 0.1, 0.2, 1.0, 1.5])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    boxes = np.tile(np.array(A, np.float32), (5, 1))
    seeds = QuerySeeds(
        np.array([1, 1, 1, 2, 9]), boxes, np.ones(5, np.float32), np.zeros(5, np.int64), ("x",)
    )
    asked = []

    def neighbours(e: np.ndarray, k: int, exact_limit: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append((k, exact_limit))
        order = np.argsort(-(e @ e.T), axis=1, kind="stable")[:, 1 : k + 1]
        # The last one is not found, as FAISS says it.
        order[4, -1] = -1
        return order, np.take_along_axis(e @ e.T, order, axis=1)

    monkeypatch.setattr(module, "nearest_neighbors", neighbours)
    lists = lists_among(seeds, embeddings, 1, exact_limit=77)
    assert [one.image_ids.tolist() for one in lists.lists] == [[2], [2], [2], [9], [2]]
    # Three seeds of one image: two of them may be before the first one of another image.
    assert asked == [(3, 77)]
    lists = lists_among(seeds, embeddings, 2, exact_limit=77)
    assert lists[4].image_ids.tolist() == [2, 1]


@pytest.mark.parametrize(
    "settings",
    [
        {"vote_iou": 0.2, "suppress_iou": 0.5},
        {"suppress_iou": 0.0},
        {"vote_iou": 1.0},
        {"vote_iou": 1.5},
        {"per_image": 0},
        {"min_votes": 0},
        {"max_voters": 0},
    ],
)
def test_wrong_settings_name_the_node(settings: dict[str, float]) -> None:
    message = "^CST.AGREEMENT is .*: counts are at least 1, and 0 < SUPPRESS_IOU <= VOTE_IOU < 1$"
    with pytest.raises(ValueError, match=message):
        AgreementSettings(**settings)
