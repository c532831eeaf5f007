"""Halves of a dataset by identity: what one half learns, the other is judged on.

Localizer and ranker are pre-trained on one half and cycled and judged on the other, so both must
draw the line alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...structures import Query

KINDS = ("all", "even", "odd", "part", "rest")


@dataclass(frozen=True)
class IdentitySplit:
    """A rule that says which identities are in.

    Attributes:
        kind: "all"; "even" or "odd", by the number of the identity; "part", round(fraction x n) of
            the n identities at random; "rest", those that "part" leaves.
        fraction: of "part", in (0, 1).
        seed: of "part"; "rest" of the same fraction and seed is its complement.
    """

    kind: str = "all"
    fraction: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"identities {self.kind!r}: use one of {KINDS}")
        if not 0 < self.fraction < 1 or self.seed < 0:
            raise ValueError(
                f"a part of {self.fraction} of the identities with seed {self.seed}: use a "
                "fraction between 0 and 1 and a seed >= 0"
            )

    def select(self, identities: Iterable[int]) -> frozenset[int]:
        """Those of the known identities that are in."""
        known = sorted(set(identities))
        if self.kind in ("even", "odd"):
            return frozenset(one for one in known if one % 2 == (self.kind == "odd"))
        if self.kind == "all":
            return frozenset(known)
        order = np.random.default_rng(self.seed).permutation(len(known))
        count = round(self.fraction * len(known))
        kept = order[:count] if self.kind == "part" else order[count:]
        return frozenset(known[i] for i in kept)


def split_dataset(
    gallery: Sequence[dict], queries: Sequence[Query], split: IdentitySplit
) -> tuple[list[dict], list[Query]]:
    """The images and queries of the identities that are in.

    An image that shows identities from both sides of the line is in neither half. Images without
    annotated identities are distractors and in every half. A query is in with its identity, unless
    one of its own images is not; queries without known identity are only in "all".

    Args:
        gallery: Detectron2 dicts whose annotations carry "instance_id".
        queries: of the same dataset.
        split: which identities are in, among those that annotations or queries name.

    Returns:
        The dicts and queries that are in, in their order, themselves unchanged.
    """
    if split.kind == "all":
        return list(gallery), list(queries)
    shown = [identities_of(record) for record in gallery]
    named = (query.instance_id for query in queries if query.instance_id is not None)
    inside = split.select({*named, *(one for some in shown for one in some)})
    images = [record for record, some in zip(gallery, shown) if some <= inside]
    kept = {int(record["image_id"]) for record in images}
    return images, [
        query for query in queries if query.instance_id in inside and query.own_image_ids <= kept
    ]


def identities_of(record: dict) -> frozenset[int]:
    """The identities that a Detectron2 dict's annotations name."""
    return frozenset(int(one["instance_id"]) for one in record.get("annotations", ()))
