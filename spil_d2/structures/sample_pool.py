"""The sample pool V of self-paced training (SPIL, Algorithm 1)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from .query import Box

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
            with gzip.open(path, "rt", encoding="utf-8") as f:
                data = json.load(f)
            return cls(int(data["stage"]), tuple(_query_pool(one) for one in data["queries"]))
        except FileNotFoundError:
            raise
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a readable sample pool: {error}") from error


def _query_pool(data: dict) -> QueryPool:
    candidates = tuple(
        Candidate(
            int(one["image_id"]),
            tuple(one["box"]),
            None if one["target"] is None else _target(one["target"]),
        )
        for one in data["candidates"]
    )
    return QueryPool(int(data["query_id"]), _target(data["reference"]), candidates)


def _target(data: dict) -> Target:
    extras = tuple((tuple(box), float(weight)) for box, weight in data["extras"])
    return Target(tuple(data["box"]), float(data["weight"]), data["mask"], extras)
