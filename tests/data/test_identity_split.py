"""Halves of a dataset by identity, on a dataset small enough to read."""

from __future__ import annotations

import pytest

from spil_d2.data.datasets.identity_split import IdentitySplit, identities_of, split_dataset
from spil_d2.structures import Query, Reference


def image(image_id: int, *identities: int) -> dict:
    return {"image_id": image_id, "annotations": [{"instance_id": one} for one in identities]}


def query(query_id: int, instance_id: int | None, image_id: int | None = None) -> Query:
    return Query(query_id, (Reference("q", 9, 9, (0, 0, 5, 5), image_id),), instance_id)


GALLERY = [image(1, 2), image(2, 3, 3), image(3, 2, 3), image(4), image(5, 4, 2)]
QUERIES = [
    query(1, 2),
    query(2, 3, 2),
    query(3, 3, 3),
    query(4, None),
    query(5, 4, 4),
    query(6, 7),
]


def ids(split: IdentitySplit) -> tuple[list[int], list[int]]:
    images, queries = split_dataset(GALLERY, QUERIES, split)
    return [one["image_id"] for one in images], [one.id for one in queries]


def test_even_and_odd() -> None:
    """Image 3 shows both and is in neither, with its query; image 4 shows none, and is in both."""
    assert ids(IdentitySplit("even")) == ([1, 4, 5], [1, 5])
    assert ids(IdentitySplit("odd")) == ([2, 4], [2, 6])


def test_all_keeps_everything() -> None:
    images, queries = split_dataset(GALLERY, QUERIES, IdentitySplit())
    assert images == GALLERY and queries == QUERIES


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("fraction", "count"), [(0.5, 5), (0.3, 3)])
def test_part_and_rest_are_halves(seed: int, fraction: float, count: int) -> None:
    known = [3, 1, 4, 15, 9, 26, 5, 35, 8, 97]
    part = IdentitySplit("part", fraction, seed).select(known)
    rest = IdentitySplit("rest", fraction, seed).select(known)
    assert len(part) == count and part | rest == set(known) and not part & rest
    assert part == IdentitySplit("part", fraction, seed).select(sorted(known) * 2)


def test_another_seed_draws_another_part() -> None:
    parts = {IdentitySplit("part", 0.5, seed).select(range(20)) for seed in range(8)}
    assert len(parts) > 4


def test_no_identity_is_on_both_sides() -> None:
    for seed in range(10):
        sides = [
            split_dataset(GALLERY, QUERIES, IdentitySplit(kind, 0.5, seed))
            for kind in ("part", "rest")
        ]
        shown = [set().union(*map(identities_of, images)) for images, _ in sides]
        asked = [{one.instance_id for one in queries} for _, queries in sides]
        assert not (shown[0] | asked[0]) & (shown[1] | asked[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("third",), "identities 'third'.*even.*odd.*part.*rest"),
        (("part", 1.0), "a part of 1.0"),
        (("part", 0.5, -1), "seed -1"),
    ],
)
def test_unknown_splits_are_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        IdentitySplit(*arguments)
