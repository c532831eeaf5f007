"""The K shots of each class: drawn from annotations, or read from published lists.

A drawn list follows the rules of the published ones (Wang et al., ICML 2020): whole images are
drawn, one whose boxes of the class would make more than K is skipped, and the images of a smaller
K are among those of a larger one. The draws themselves are others than the published ones.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from .few_shot_classes import ClassSplit
from .few_shot_coco import CocoFile, CocoImage, load_coco
from .fields import DatasetError

logger = logging.getLogger(__name__)

# How often images are drawn anew where a smaller K has left no right ones for a larger one.
_ATTEMPTS = 100
_FEWX_SHOTS = 10
_FEWX_MIN_AREA, _FEWX_MAX_AREA = 64.0**2, 224.0**2


@dataclass(frozen=True)
class Shot:
    """One annotated box of a class.

    Attributes:
        annotation_id: unique among the shots of a task.
        category_id: the dataset's.
        image: its picture.
        box: x, y, w, h in pixels, inside the picture.
    """

    annotation_id: int
    category_id: int
    image: CocoImage
    box: tuple[float, float, float, float]


class ShotSource(Protocol):
    """Where the shots of a task come from."""

    def load(self, split: ClassSplit, shots: int, seed: int) -> list[Shot]:
        """The shots of all classes that have any, by category and annotation id.

        Raises:
            DatasetError: a class does not have exactly so many.
        """
        ...


@dataclass(frozen=True)
class ShotFolder:
    """Published files, seed 0 in `folder`, others in `folder/seedN`.

    `full_box_{K}shot_{class}_trainval.json` holds the shots of one class. The novel classes must
    be there. Where there is no base class, the shots are those of the novel classes alone.
    """

    folder: Path

    def load(self, split: ClassSplit, shots: int, seed: int) -> list[Shot]:
        """The shots of a draw."""
        paths = {i: shot_file(self.folder, split.names[i], shots, seed) for i in split.ids}
        wanted: Sequence[int] = split.ids
        if not any(paths[i].is_file() for i in split.base):
            wanted = split.novel
        found: list[Shot] = []
        for category_id in wanted:
            coco = load_coco(paths[category_id])
            coco.check_names(split.names)
            found += _exactly(coco, [category_id], shots, np.arange(len(coco.boxes)))
        return _checked_ids(found, self.folder)


@dataclass(frozen=True)
class ShotList:
    """One file with the shots of all novel classes, as FewX has it; there are no base shots."""

    path: Path

    def load(self, split: ClassSplit, shots: int, seed: int) -> list[Shot]:
        """The shots; `shots` and `seed` are the list's own."""
        coco = load_coco(self.path)
        coco.check_names(split.names)
        found = _exactly(coco, split.novel, shots, np.arange(len(coco.boxes)))
        return _checked_ids(found, self.path)


@dataclass(frozen=True)
class SampledShots:
    """Shots drawn from an annotation file in memory.

    Attributes:
        train_json: the file.
        ladder: all K that are drawn, each from the images of the one before.
        allow_fewer: a class with fewer boxes gives what it has.
    """

    train_json: Path
    ladder: tuple[int, ...]
    allow_fewer: bool = False

    def load(self, split: ClassSplit, shots: int, seed: int) -> list[Shot]:
        """The shots of a draw."""
        coco = load_coco(self.train_json)
        coco.check_names(split.names)
        found: list[Shot] = []
        short = {}
        for category_id in split.ids:
            rows = sample_shots(coco, category_id, self.ladder, seed, self.allow_fewer)[shots]
            if len(rows) < shots:
                short[split.names[category_id]] = len(rows)
            found += _to_shots(coco, rows)
        if short:
            logger.warning("Classes with fewer than %d shots: %s", shots, short)
        return _checked_ids(found, self.train_json)


def shot_file(folder: Path, name: str, shots: int, seed: int) -> Path:
    """The file with the shots of the class `name`; seed 0 is the published split of Kang et al."""
    if "/" in name:
        raise DatasetError(f"{folder}: class {name!r} cannot be part of a file name")
    place = folder / f"seed{seed}" if seed else folder
    return place / f"full_box_{shots}shot_{name}_trainval.json"


def sample_shots(
    coco: CocoFile,
    category_id: int,
    ladder: Sequence[int],
    seed: int,
    allow_fewer: bool = False,
) -> dict[int, np.ndarray]:
    """Draw the shots of one class. They depend on the seed, the class and the annotations alone.

    Args:
        coco: the annotations; crowds are no shots, and images with a crowd of the class are as
            good as others.
        category_id: the class.
        ladder: every K that is wanted.
        seed: of the draw.
        allow_fewer: take what there is of a class with fewer boxes.

    Returns:
        K -> (K,) int64 rows of `coco`, ascending; those of a smaller K are among them.

    Raises:
        DatasetError: no images of the class make exactly so many boxes.
    """
    rows = coco.rows_of([category_id])
    by_image = coco.rows_by_image(rows[~coco.crowd[rows]])
    counts = {image_id: len(its) for image_id, its in by_image.items()}
    rng = np.random.default_rng([seed, category_id])
    drawn = draw_images(counts, ladder, rng, allow_fewer)
    if drawn is None:
        name = coco.names[category_id]
        raise DatasetError(
            f"{coco.path}: class {name!r} (id {category_id}) has {sum(counts.values())} boxes in "
            f"{len(counts)} images, of which no whole images make exactly {sorted(ladder)} shots; "
            "use other numbers of shots or annotate images with fewer boxes of it"
        )
    return {
        k: np.array(sorted(row for i in images for row in by_image[i]), np.int64)
        for k, images in drawn.items()
    }


def draw_images(
    counts: Mapping[int, int],
    ladder: Sequence[int],
    rng: np.random.Generator,
    allow_fewer: bool = False,
) -> dict[int, tuple[int, ...]] | None:
    """Draw images until their boxes are exactly K, for each K of a ladder.

    Args:
        counts: image id -> boxes of the class in it, at least 1; the order plays no part.
        ladder: every K that is wanted, at least 1.
        rng: of the draw.
        allow_fewer: where no images make exactly K, take the most that stays below.

    Returns:
        K -> image ids, those of a smaller K first; None where some K cannot be reached.

    Raises:
        ValueError: no K, or one below 1.
    """
    if not ladder or min(ladder) < 1:
        raise ValueError(f"shots {list(ladder)}: use numbers from 1 on")
    ids, best = sorted(counts), None
    for _ in range(_ATTEMPTS):
        order = [ids[i] for i in rng.permutation(len(ids))]
        drawn = _climb(order, counts, sorted(set(ladder)))
        total = {k: sum(counts[i] for i in images) for k, images in drawn.items()}
        if all(total[k] == k for k in drawn):
            return drawn
        if best is None or sum(total.values()) > best[0]:
            best = sum(total.values()), drawn
    return best[1] if best is not None and allow_fewer else None


def fewx_rows(coco: CocoFile, novel: Sequence[int]) -> np.ndarray:
    """The 10 shots of each class that FewX's rule takes out of instances_train2017.json.

    In the order of the file, an image with exactly one annotation of a novel class, its area
    between 64^2 and 224^2, is taken until its class has ten. FewX counts crowds as annotations,
    and so does this, but takes none as a shot.

    Args:
        coco: the annotations.
        novel: ids of the novel classes.

    Returns:
        (10 * len(novel),) int64 rows.

    Raises:
        DatasetError: a class has fewer.
    """
    by_image = coco.rows_by_image(coco.rows_of(novel))
    taken: Counter[int] = Counter()
    rows = []
    for image_id in coco.images:
        alone = by_image.get(image_id, ())
        if len(alone) != 1 or coco.crowd[alone[0]]:
            continue
        category_id = int(coco.category_ids[alone[0]])
        right = _FEWX_MIN_AREA <= coco.areas[alone[0]] <= _FEWX_MAX_AREA
        if right and taken[category_id] < _FEWX_SHOTS:
            taken[category_id] += 1
            rows.append(alone[0])
    short = {coco.names[i]: taken[i] for i in novel if taken[i] < _FEWX_SHOTS}
    if short:
        raise DatasetError(
            f"{coco.path}: FewX's rule finds {short} images of {_FEWX_SHOTS}; use the other rule"
        )
    return np.array(rows, np.int64)


def _climb(
    order: Sequence[int], counts: Mapping[int, int], ladder: Sequence[int]
) -> dict[int, tuple[int, ...]]:
    """K -> images, taken in `order`; as many boxes as can be where K cannot be reached."""
    taken: list[int] = []
    drawn = {}
    for k in ladder:
        missing, drawn_before = k - sum(counts[i] for i in taken), set(taken)
        rest = [i for i in order if i not in drawn_before]
        taken += _fill(rest, counts, missing)
        drawn[k] = tuple(taken)
    return drawn


def _fill(order: Sequence[int], counts: Mapping[int, int], target: int) -> list[int]:
    """The first images in `order` whose counts sum to `target`, or to the most below it.

    An image is skipped where the rest could not be made up by later ones: bit s of `sums[i]` tells
    whether some of the images from the i-th on sum to s.
    """
    mask, sums = (1 << (target + 1)) - 1, [1]
    for image in reversed(order):
        sums.append((sums[-1] | sums[-1] << counts[image]) & mask)
    sums.reverse()
    left, picked = sums[0].bit_length() - 1, []
    for image, later in zip(order, sums[1:]):
        if counts[image] <= left and later >> (left - counts[image]) & 1:
            picked.append(image)
            left -= counts[image]
        if not left:
            break
    return picked


def _exactly(
    coco: CocoFile, category_ids: Sequence[int], shots: int, rows: np.ndarray
) -> list[Shot]:
    """The shots in a list, which must be `shots` of each class and no others."""
    seen = Counter(coco.category_ids[rows].tolist())
    for category_id in sorted({*seen, *category_ids}):
        wanted = shots if category_id in category_ids else 0
        if seen[category_id] != wanted:
            raise DatasetError(
                f"{coco.path}: annotations: {seen[category_id]} boxes of "
                f"{coco.names[category_id]!r} (id {category_id}), must be {wanted}"
            )
    if coco.crowd[rows].any():
        row = rows[coco.crowd[rows]][0]
        raise DatasetError(
            f"{coco.path}: annotations (id {coco.annotation_ids[row]}): a crowd cannot be a shot"
        )
    return _to_shots(coco, rows)


def _to_shots(coco: CocoFile, rows: np.ndarray) -> list[Shot]:
    shots = []
    for row in rows.tolist():
        x, y, w, h = coco.boxes[row].tolist()
        image = coco.images[int(coco.image_ids[row])]
        category_id = int(coco.category_ids[row])
        shots.append(Shot(int(coco.annotation_ids[row]), category_id, image, (x, y, w, h)))
    return shots


def _checked_ids(shots: Sequence[Shot], where: Path) -> list[Shot]:
    """The shots by category and id, whose ids must all be different."""
    counted = Counter(one.annotation_id for one in shots)
    twice = [i for i, count in counted.items() if count > 1]
    if twice:
        raise DatasetError(
            f"{where}: annotation id {twice[0]} is that of {counted[twice[0]]} shots; ids must be "
            "unique in all classes"
        )
    return sorted(shots, key=lambda one: (one.category_id, one.annotation_id))
