"""Which classes of a few-shot task are base and which are novel."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES


@dataclass(frozen=True)
class ClassSplit:
    """The classes of one task; ids are those of the annotation file.

    Attributes:
        base: ids of the classes with all their annotations, ascending.
        novel: ids of the classes that only the shots show, ascending.
        names: id -> name of all of them, no others.
    """

    base: tuple[int, ...]
    novel: tuple[int, ...]
    names: Mapping[int, str]

    def __post_init__(self) -> None:
        for kind, ids in (("base", self.base), ("novel", self.novel)):
            if list(ids) != sorted(set(ids)):
                raise ValueError(f"{kind} ids {ids} must be ascending, each once")
        if not self.novel:
            raise ValueError("a few-shot task needs at least one novel class")
        both = sorted({*self.base} & {*self.novel})
        if both:
            raise ValueError(f"classes {both} are base and novel at once")
        if {*self.base, *self.novel} != set(self.names):
            odd = sorted({*self.base, *self.novel} ^ set(self.names))
            raise ValueError(f"classes {odd} are either without a name or without a side")
        if len(set(self.names.values())) != len(self.names):
            raise ValueError(f"two classes have the same name: {sorted(self.names.values())}")

    @property
    def ids(self) -> tuple[int, ...]:
        """All ids, ascending."""
        return tuple(sorted(self.names))

    @classmethod
    def from_names(cls, names: Mapping[int, str], novel: Collection[str]) -> ClassSplit:
        """Split the classes of an annotation file by the names of the novel ones.

        Raises:
            ValueError: a novel name that no class has.
        """
        unknown = sorted(set(novel) - set(names.values()))
        if unknown:
            raise ValueError(f"novel classes {unknown} are not among {sorted(names.values())}")
        inside = sorted(one for one, name in names.items() if name in novel)
        rest = sorted(set(names) - set(inside))
        return cls(tuple(rest), tuple(inside), dict(names))

    @classmethod
    def draw(cls, names: Mapping[int, str], num_novel: int, seed: int) -> ClassSplit:
        """Take `num_novel` of the classes at random as the novel ones."""
        if not 0 < num_novel <= len(names):
            raise ValueError(f"{num_novel} novel classes of {len(names)}")
        order = np.random.default_rng(seed).permutation(sorted(names))
        return cls.from_names(names, {names[int(one)] for one in order[:num_novel]})


_COCO_NAMES = {one["id"]: one["name"] for one in COCO_CATEGORIES if one["isthing"]}
_COCO_NOVEL = (1, 2, 3, 4, 5, 6, 7, 9, 16, 17, 18, 19, 20, 21, 44, 62, 63, 64, 67, 72)

COCO_SPLIT = ClassSplit(
    tuple(sorted(set(_COCO_NAMES) - set(_COCO_NOVEL))), _COCO_NOVEL, _COCO_NAMES
)
"""60 base classes and, as novel ones, the 20 that PASCAL VOC has too (Kang et al., ICCV 2019)."""

NOVEL_NAMES: dict[str, tuple[str, ...]] = {
    "coco": tuple(_COCO_NAMES[one] for one in _COCO_NOVEL),
    "voc1": ("bird", "bus", "cow", "motorbike", "sofa"),
    "voc2": ("aeroplane", "bottle", "cow", "horse", "sofa"),
    "voc3": ("boat", "cat", "motorbike", "sheep", "sofa"),
}
"""Published splits -> names of their novel classes (COCO 20 of 80, VOC three times 5 of 20)."""
