"""The sample pool V of self-paced training (SPIL, Algorithm 1)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..utils.reading import UnreadableFileError, read_json, reason_of, shown
from .query import Box
from .rle import check_rle

_LARGEST = 2**53

V_POLICIES = ("two_views", "confident_only")
"""Of whose crops kernels are made (D12): of all candidates', confident ones first, or of the
confident ones' alone where there is one."""


def check_v_policy(policy: str) -> None:
    """Raise ValueError unless `policy` is one of `V_POLICIES`."""
    if policy not in V_POLICIES:
        raise ValueError(f"SPIL.V_POLICY is {policy!r}: use one of {V_POLICIES}")


@dataclass(frozen=True)
class Target:
    """The label of one image for one query.

    Attributes:
        box: XYXY_ABS in pixels of the stored image.
        weight: ω in (0, 1]: 1 for the user's own box, else the localizer's probability.
        mask: COCO RLE of the stored image's size (`counts` as str), or None: the box stands for it.
        extras: unlabeled look-alikes (D20) as (box, weight); a weight of 0 marks an ignore region.
    """

    box: Box
    weight: float
    mask: dict | None = None
    extras: tuple[tuple[Box, float], ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ValueError(f"the weight of a pseudo label is in (0, 1], got {self.weight}")


@dataclass(frozen=True)
class Candidate:
    """One ranked gallery image of a query.

    Attributes:
        image_id: the gallery image.
        box: where the crop for the kernel is taken (support view of V): the pseudo box if
            confident, else the search engine's box Z.
        target: its label if confident (target view of V), else None.
    """

    image_id: int
    box: Box
    target: Target | None = None


@dataclass(frozen=True)
class QueryPool:
    """One query's part of V.

    Attributes:
        query_id: the query.
        reference: label of the query's own image, weight 1.
        candidates: its rank list, best first.
    """

    query_id: int
    reference: Target
    candidates: tuple[Candidate, ...]

    @property
    def confident(self) -> tuple[int, ...]:
        """Positions in `candidates` of those with a pseudo label."""
        return tuple(i for i, one in enumerate(self.candidates) if one.target is not None)

    @property
    def by_confidence(self) -> tuple[int, ...]:
        """Positions in `candidates`: confident ones first, both parts in the order of rank."""
        chosen = self.confident
        rest = (i for i in range(len(self.candidates)) if self.candidates[i].target is None)
        return (*chosen, *rest)

    def support_view(self, policy: str) -> tuple[int, ...]:
        """Positions in `candidates` whose crops may be in a kernel, best first.

        Args:
            policy: one of `V_POLICIES`.

        Raises:
            ValueError: for another policy.
        """
        check_v_policy(policy)
        if policy == "confident_only" and self.confident:
            return self.confident
        return self.by_confidence


@dataclass(frozen=True)
class SamplePool(Mapping):
    """All queries' pools of one stage. A mapping query id -> QueryPool."""

    stage: int
    queries: tuple[QueryPool, ...]

    def __post_init__(self) -> None:
        index = {one.query_id: one for one in self.queries}
        if len(index) != len(self.queries):
            raise ValueError("a query has two pools")
        object.__setattr__(self, "_index", index)

    def __getitem__(self, query_id: int) -> QueryPool:
        return self._index[query_id]  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[int]:
        return iter(self._index)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def num_targets(self) -> int:
        """Pseudo labels of all queries, their own images not counted."""
        return sum(len(one.confident) for one in self.queries)

    def save(self, path: str | Path) -> None:
        """Write gzipped JSON; without a time stamp, so that equal pools are equal files."""
        text = json.dumps(asdict(self), sort_keys=True).encode()
        Path(path).write_bytes(gzip.compress(text, mtime=0))

    @classmethod
    def load(cls, path: str | Path) -> SamplePool:
        """Read what `save` wrote.

        Raises:
            ValueError: naming the file, where it is damaged or not a sample pool.
        """
        try:
            data = read_json(path, compressed=True)
            return cls(_integer(data["stage"]), tuple(_query_pool(one) for one in data["queries"]))
        except (ValueError, KeyError, TypeError) as error:
            told = error.reason if isinstance(error, UnreadableFileError) else reason_of(error)
            reason = f"is not a readable sample pool: {told}"
            raise UnreadableFileError(path, reason) from error


def _query_pool(data: dict) -> QueryPool:
    query_id = _integer(data["query_id"])
    try:
        candidates = tuple(_candidate(one) for one in data["candidates"])
        return QueryPool(query_id, _target(data["reference"]), candidates)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"query {query_id}: {reason_of(error)}") from error


def _candidate(data: dict) -> Candidate:
    target = None if data["target"] is None else _target(data["target"])
    return Candidate(_integer(data["image_id"]), _box(data["box"]), target)


def _target(data: dict) -> Target:
    extras = tuple((_box(box), _number(weight)) for box, weight in data["extras"])
    if data["mask"] is not None:
        check_rle(data["mask"])
    return Target(_box(data["box"]), _number(data["weight"]), data["mask"], extras)


def _box(value: Any) -> Box:
    x0, y0, x1, y1 = (_number(one) for one in value)
    return x0, y0, x1, y1


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= _LARGEST:
        raise ValueError(f"{shown(value)} is no finite number")
    return value


def _integer(value: Any) -> int:
    if type(value) is not int or abs(value) > _LARGEST:
        raise ValueError(f"{shown(value)} is no integer that an id can be")
    return value
