"""How much of what a cycle trains on is right, by annotations that it never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from detectron2.structures import BoxMode
from tabulate import tabulate

from ..ops.numpy_boxes import paired_iou
from ..selftrain.seeds import QuerySeeds
from ..structures import SamplePool
from ..utils.artifacts import is_published
from .cycle import AGREEMENT, POOL, POOLS, ROUNDS, SEED_FOLDER
from .seed_stage import SEEDS

MIN_IOU = 0.5
COLUMNS = {
    "round": "round",
    "seeds": "seeds",
    "seeds/objects": "objects, %",
    "agreed": "agreed boxes",
    "agreed/objects": "objects, %",
    "agreed/IoU": "their mean IoU, %",
    "pairs": "pairs",
    "pairs/right": "right, %",
}
"""Key of a row -> header."""


class Truth:
    """Annotated boxes with their instances, for asking what a box shows."""

    def __init__(self, gallery: Sequence[dict]):
        """
        Args:
            gallery: Detectron2 dicts whose annotations carry "instance_id".
        """
        self._boxes: dict[int, np.ndarray] = {}
        self._instances: dict[int, list[int]] = {}
        for one in gallery:
            boxes = [
                BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS)
                for a in one["annotations"]
            ]
            image_id = int(one["image_id"])
            self._boxes[image_id] = np.array(boxes, np.float64).reshape(-1, 4)
            self._instances[image_id] = [int(a["instance_id"]) for a in one["annotations"]]

    def look(self, image_id: int, box: Sequence[float]) -> tuple[int | None, float]:
        """The instance that a box shows (IoU > 0.5), or None; and its best IoU with any."""
        boxes = self._boxes[image_id]
        if not len(boxes):
            return None, 0.0
        ious = paired_iou(boxes, np.repeat(np.array([box], np.float64), len(boxes), axis=0))
        best = int(ious.argmax())
        shown = self._instances[image_id][best] if ious[best] > MIN_IOU else None
        return shown, float(ious[best])


def inspect_cycle(output: Path, truth: Truth) -> list[dict[str, float]]:
    """A row of `COLUMNS` for each round whose pool is there, in percent.

    Args:
        output: OUTPUT_DIR of a cycle.
        truth: of its unlabeled images.

    Raises:
        FileNotFoundError: there is no such round.
    """
    rows = []
    seeds = output / SEED_FOLDER / SEEDS
    for folder in sorted((output / ROUNDS).glob("[0-9][0-9]")):
        if not is_published(folder / POOLS):
            continue
        row = {"round": int(folder.name), **_of_seeds("seeds", seeds, truth)}
        pool = SamplePool.load(folder / POOLS / POOL)
        own = QuerySeeds.load(seeds)
        if is_published(folder / AGREEMENT):
            seeds = folder / AGREEMENT / SEEDS
            row.update(_of_seeds("agreed", seeds, truth))
            own = QuerySeeds.load(seeds)
        right = right_pairs(pool, own, truth)
        rows.append({**row, "pairs": len(right), "pairs/right": _percent(right)})
    if not rows:
        raise FileNotFoundError(f"{output} holds no round of a cycle that has drawn its pairs")
    return rows


def right_pairs(pool: SamplePool, seeds: QuerySeeds, truth: Truth) -> list[bool]:
    """Whether seed and target show the same instance, for each pair that may be drawn."""
    right = []
    for one in pool.queries:
        place = int(seeds.image_ids[one.query_id]), seeds.boxes[one.query_id].tolist()
        shown, _ = truth.look(*place)
        for candidate in one.candidates:
            found, _ = truth.look(candidate.image_id, candidate.box)
            right.append(shown is not None and found == shown)
    return right


def inspection_table(rows: Sequence[Mapping[str, float]]) -> str:
    """Rows of `inspect_cycle` as a Markdown table; what a round does not have is empty."""
    cells = [
        [row[key] if isinstance(row.get(key), int) else _text(row.get(key)) for key in COLUMNS]
        for row in rows
    ]
    return tabulate(cells, list(COLUMNS.values()), tablefmt="pipe", disable_numparse=True)


def _of_seeds(name: str, path: Path, truth: Truth) -> dict[str, float]:
    seeds = QuerySeeds.load(path)
    looks = [truth.look(i, box) for i, box in zip(seeds.image_ids.tolist(), seeds.boxes.tolist())]
    ious = [iou for shown, iou in looks if shown is not None]
    return {
        name: len(seeds),
        f"{name}/objects": _percent([shown is not None for shown, _ in looks]),
        f"{name}/IoU": 100 * float(np.mean(ious)) if ious else 0.0,
    }


def _percent(flags: Sequence[bool]) -> float:
    return 100 * float(np.mean(flags)) if flags else 0.0


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
