"""Small few-shot test sets, and predictions on them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from spil_d2.evaluation import FewShotCOCOEvaluator

IDS = (2, 3, 5, 9)
BASE, NOVEL = (2, 5), (3, 9)
SIZE = 200


@contextlib.contextmanager
def registered(folder: Path) -> Iterator[Callable[[list[dict], int], str]]:
    """(annotations, number of images) -> the name of a test set, for as long as it is open."""
    names = []

    def make(annotations: list[dict], num_images: int) -> str:
        size = {"width": SIZE, "height": SIZE}
        content = {
            "images": [{"id": i, "file_name": f"{i}.jpg", **size} for i in range(num_images)],
            "annotations": annotations,
            "categories": [{"id": i, "name": f"class {i}"} for i in IDS],
        }
        path = folder / f"{len(names)}.json"
        path.write_text(json.dumps(content))
        name = f"few_shot_evaluation_{len(names)}"
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(
            json_file=str(path),
            thing_classes=[f"class {i}" for i in IDS],
            thing_dataset_id_to_contiguous_id={one: k for k, one in enumerate(IDS)},
            base_ids=BASE,
            novel_ids=NOVEL,
        )
        names.append(name)
        return name

    try:
        yield make
    finally:
        for name in names:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def truth(one: int, image_id: int, category_id: int, box: list[float], crowd: int = 0) -> dict:
    shape = {"bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
    return {"id": one, "image_id": image_id, "category_id": category_id, **shape}


def evaluate(name: str, found: dict[int, list[tuple]], **arguments) -> dict[str, float]:
    """`found`: image id -> (category id, score, x0, y0, x1, y1)."""
    evaluator = FewShotCOCOEvaluator(name, distributed=False, **arguments)
    evaluator.reset()
    for image_id, rows in found.items():
        instances = Instances((SIZE, SIZE))
        table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
        instances.pred_boxes = Boxes(table[:, 2:])
        instances.scores = table[:, 1]
        instances.pred_classes = torch.tensor([IDS.index(int(row[0])) for row in rows]).long()
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


def random_case(seed: int) -> tuple[list[dict], dict[int, list[tuple]]]:
    rng = np.random.default_rng(seed)
    annotations: list[dict] = []
    found: dict[int, list[tuple]] = {}
    for image_id in range(12):
        found[image_id] = []
        for _ in range(int(rng.integers(0, 6))):
            category_id = int(rng.choice(IDS))
            x, y = rng.uniform(0, 90, 2)
            w, h = rng.uniform(8, 110, 2)
            crowd = int(rng.random() < 0.1)
            box = [float(v) for v in (x, y, w, h)]
            annotations.append(truth(len(annotations) + 1, image_id, category_id, box, crowd))
            for _ in range(int(rng.integers(0, 3))):
                moved = np.array([x, y, x + w, y + h]) + rng.normal(0, 4, 4)
                shown = category_id if rng.random() < 0.8 else int(rng.choice(IDS))
                found[image_id].append((shown, float(rng.random()), *moved.tolist()))
    return annotations, found
