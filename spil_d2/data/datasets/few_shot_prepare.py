"""Writes shot files in the published format for any COCO-format annotation file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...utils.artifacts import write_json_atomic
from .few_shot_classes import ClassSplit
from .few_shot_coco import CocoFile, parse_coco, read_json
from .few_shot_shots import fewx_rows, sample_shots, shot_file
from .fields import DatasetError, FieldReader, Problem

SPLIT_FILE = "split.json"
"""In a folder of shot files: which classes are novel, and which shots and seeds there are."""

# Wraps the (seed, category id) pairs, as tqdm does.
Progress = Callable[[Sequence[tuple[int, int]]], Iterable[tuple[int, int]]]


@dataclass(frozen=True)
class ShotFacts:
    """What the split file of a folder says.

    Attributes:
        split: base and novel classes.
        shots, seeds: each K of them is there with each seed.
    """

    split: ClassSplit
    shots: tuple[int, ...]
    seeds: tuple[int, ...]

    def save(self, folder: Path) -> None:
        """Write the split file into `folder`."""
        names = self.split.names
        sides = {"base": self.split.base, "novel": self.split.novel}
        classes = {
            side: [{"id": one, "name": names[one]} for one in ids] for side, ids in sides.items()
        }
        content = {**classes, "shots": list(self.shots), "seeds": list(self.seeds)}
        write_json_atomic(folder / SPLIT_FILE, content)

    @classmethod
    def load(cls, folder: Path) -> ShotFacts:
        """Read the split file of `folder`.

        Raises:
            DatasetError: it cannot be read; the message names file and record.
        """
        path = folder / SPLIT_FILE
        problems: list[Problem] = []
        top = FieldReader(path, "top level", read_json(path), problems)
        names: dict[int, str] = {}
        novel: set[str] = set()
        seen: dict[int, str] = {}
        for side in ("base", "novel"):
            for i, item in enumerate(top.list_of(side)):
                reader = FieldReader(path, f"{side}[{i}]", item, problems)
                category_id, name = reader.unique_id(seen), reader.text("name")
                if category_id is not None and name is not None:
                    names[category_id] = name
                    novel |= {name} if side == "novel" else set()
        numbers = {}
        for key, least in (("shots", 1), ("seeds", 0)):
            numbers[key] = top.list_of(key)
            if not all(type(one) is int and one >= least for one in numbers[key]):
                top.problem(f"{key} must be whole numbers from {least} on, found {numbers[key]}")
        if problems:
            raise DatasetError(str(problems[0]))
        try:
            split = ClassSplit.from_names(names, novel)
        except ValueError as error:
            raise DatasetError(f"{path}: {error}") from error
        return cls(split, tuple(numbers["shots"]), tuple(numbers["seeds"]))


def write_shot_files(
    annotations: Path,
    out: Path,
    novel: Collection[str],
    shots: Sequence[int],
    seeds: Sequence[int],
    overwrite: bool = False,
    progress: Progress = iter,
) -> ShotFacts:
    """Draw the shots of every class, base and novel, and write them with the split file.

    Each file `full_box_{K}shot_{class}_trainval.json` (seed 0 in `out`, others in `out/seedN`)
    has the pictures, the K annotations as they are in the source, and all categories. Nothing is
    written where some class has too few boxes.

    Args:
        annotations: a COCO-format file.
        out: the folder, made where it is not there.
        novel: names of the novel classes.
        shots: every K; one draw serves all of a seed, so a larger K has the shots of a smaller.
        seeds: of the draws.
        overwrite: replace what is there.
        progress: wraps the pairs of seed and category while they are drawn.

    Returns:
        What the split file says.

    Raises:
        DatasetError: the annotations cannot be read or used, or a class has too few boxes.
        ValueError: unknown names, or numbers that are too small.
        FileExistsError: a file is there already and `overwrite` is False.
    """
    if not seeds or min(seeds) < 0:
        raise ValueError(f"seeds {list(seeds)}: use numbers from 0 on")
    raw = read_json(annotations)
    coco = parse_coco(annotations, raw)
    facts = ShotFacts(
        ClassSplit.from_names(coco.names, novel), tuple(sorted({*shots})), tuple(sorted({*seeds}))
    )
    pairs = [(seed, one) for seed in facts.seeds for one in facts.split.ids]
    files: dict[Path, np.ndarray] = {}
    for seed, category_id in progress(pairs):
        for k, rows in sample_shots(coco, category_id, shots, seed).items():
            files[shot_file(out, coco.names[category_id], k, seed)] = rows
    _check_absent([*files, out / SPLIT_FILE], overwrite)
    extract = _Extract(raw, coco)
    for path, rows in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path, extract(rows))
    facts.save(out)
    return facts


def write_fewx_list(
    annotations: Path, out: Path, novel: Collection[str], overwrite: bool = False
) -> int:
    """Write the list that FewX's rule takes out of an annotation file (`fewx_rows`).

    Args:
        annotations: instances_train2017.json.
        out: the file to write.
        novel: names of the novel classes.
        overwrite: replace what is there.

    Returns:
        The number of shots.

    Raises:
        DatasetError, ValueError, FileExistsError: as `write_shot_files`.
    """
    raw = read_json(annotations)
    coco = parse_coco(annotations, raw)
    rows = fewx_rows(coco, ClassSplit.from_names(coco.names, novel).novel)
    _check_absent([out], overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(out, _Extract(raw, coco)(rows))
    return len(rows)


class _Extract:
    """Takes some annotations and their pictures out of a COCO-format content."""

    def __init__(self, raw: Mapping[str, Any], coco: CocoFile) -> None:
        self._coco = coco
        self._rest = {key: raw[key] for key in ("info", "licenses") if key in raw}
        self._categories = raw["categories"]
        self._images = {one["id"]: one for one in raw["images"]}
        self._annotations = {one["id"]: one for one in raw["annotations"]}

    def __call__(self, rows: np.ndarray) -> dict[str, Any]:
        """The content of a file with the annotations `rows` (M,)."""
        image_ids = dict.fromkeys(self._coco.image_ids[rows].tolist())
        return {
            **self._rest,
            "images": [self._images[one] for one in image_ids],
            "annotations": [
                self._annotations[one] for one in self._coco.annotation_ids[rows].tolist()
            ],
            "categories": self._categories,
        }


def _check_absent(paths: Iterable[Path], overwrite: bool) -> None:
    there = [path for path in paths if path.exists()]
    if there and not overwrite:
        raise FileExistsError(
            f"{there[0]} (and {len(there) - 1} more files) is there already; choose another folder "
            "or ask for it to be replaced"
        )
