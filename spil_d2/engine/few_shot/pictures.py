"""Pictures of a few-shot run: detections of each novel class, and the lists that labelled."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.structures import BoxMode
from detectron2.utils import comm

from ...evaluation import box_iou
from ...structures import Box, Query, RankLists, SamplePool
from ...utils.picture_files import read_pixels
from ..search_stage import search_dataset
from ..self_training import POOL
from ..visualize import StripEntry, rank_list_strip

_MIN_IOU = 0.5
_SIDE = 200


def draw_detections(
    results_json: Path,
    gallery: Sequence[dict],
    shots: Sequence[Query],
    contiguous: Mapping[int, int],
    names: Sequence[str],
    folder: Path,
    count: int,
) -> list[Path]:
    """One strip a class: a shot, and the images of its best detections, one box each.

    A tick says that the box overlaps one of the class by an IoU of 0.5 or more.

    Args:
        results_json: detections as COCO results with the data set's category ids.
        gallery: Detectron2 dicts of the test images, with annotations.
        shots: of the classes; the first of each is shown.
        contiguous: category id of the data set -> that of the gallery's annotations.
        names: of the classes, by contiguous id.
        folder: for the files `NAME.jpg`; made if absent.
        count: images of a class.

    Returns:
        The files.
    """
    records = {int(one["image_id"]): one for one in gallery}
    found: dict[int, list[dict]] = defaultdict(list)
    for one in json.loads(results_json.read_text()):
        found[one["category_id"]].append(one)
    first: dict[int, Query] = {}
    for shot in shots:
        assert shot.category_id is not None, "a shot has a class"
        first.setdefault(shot.category_id, shot)
    files = []
    for category, shot in sorted(first.items()):
        entries = [
            _detection_entry(one, records[one["image_id"]], contiguous[category])
            for one in _best_of_images(found[category], count)
        ]
        files.append(_save_strip(shot, entries, folder, names[contiguous[category]]))
    return files


def draw_labels(
    cfg,
    name: str,
    gallery: Sequence[dict],
    queries: Sequence[Query],
    names: Mapping[int, str],
    folder: Path,
    count: int,
) -> None:
    """`draw_rank_lists` of what the last stage of the run in OUTPUT_DIR has trained on.

    All processes call it together, the main one draws.

    Args:
        cfg: of that run.
        name: of its data set.
        gallery, queries, names, folder, count: see there.
    """
    searched = search_dataset(cfg, name, gallery, queries, cfg.OUTPUT_DIR)
    if comm.is_main_process():
        last = Path(cfg.OUTPUT_DIR) / "stages" / f"{cfg.SPIL.NUM_STAGES - 1:02d}"
        pool = SamplePool.load(last / POOL)
        draw_rank_lists(pool, searched, gallery, queries, names, folder, count)


def draw_rank_lists(
    pool: SamplePool,
    searched: RankLists,
    gallery: Sequence[dict],
    queries: Sequence[Query],
    names: Mapping[int, str],
    folder: Path,
    count: int,
) -> list[Path]:
    """One strip a class: a shot and the head of its rank list, with what the stage learned from.

    A final box is a pseudo label that training used, its weight below it; a picture with a search
    box alone was not used. Where the gallery has annotations, a tick says that the image shows the
    class, a cross that it does not.

    Args:
        pool: V of the stage.
        searched: the search engine's lists, for the boxes Z.
        gallery: Detectron2 dicts; annotations carry `instance_id`, the category id.
        queries: the shots; the first of each class in the pool is shown.
        names: category id -> name.
        folder: for the files `NAME.jpg`; made if absent.
        count: images of a list.

    Returns:
        The files.
    """
    records = {int(one["image_id"]): one for one in gallery}
    is_judged = any(one["annotations"] for one in gallery)
    shown: set[int] = set()
    files = []
    for query in queries:
        category = query.category_id
        if category is None or category in shown or query.id not in pool:
            continue
        shown.add(category)
        ranked = searched[query.id]
        boxes = dict(zip(ranked.image_ids.tolist(), ranked.boxes.tolist()))
        entries = []
        for candidate in pool[query.id].candidates[:count]:
            record = records[candidate.image_id]
            truth = _boxes(record, "instance_id", category)
            target = candidate.target
            entries.append(
                StripEntry(
                    read_pixels(record["file_name"], "RGB"),
                    search_box=boxes.get(candidate.image_id),
                    final_box=None if target is None else target.box,
                    gt_boxes=truth,
                    is_relevant=len(truth) > 0 if is_judged else None,
                    caption="not used" if target is None else f"weight {target.weight:.2f}",
                )
            )
        files.append(_save_strip(query, entries, folder, names[category]))
    return files


def _best_of_images(found: Sequence[dict], count: int) -> list[dict]:
    """The best result of each image, the first `count` of them."""
    best: dict[int, dict] = {}
    for one in sorted(found, key=lambda one: -one["score"]):
        best.setdefault(one["image_id"], one)
        if len(best) == count:
            break
    return list(best.values())


def _detection_entry(one: dict, record: dict, contiguous_id: int) -> StripEntry:
    x, y, w, h = one["bbox"]
    box = (x, y, x + w, y + h)
    truth = _boxes(record, "category_id", contiguous_id)
    overlaps = box_iou(np.array(box), np.array(truth)) if truth else np.zeros(1)
    return StripEntry(
        read_pixels(record["file_name"], "RGB"),
        final_box=box,
        gt_boxes=truth,
        is_relevant=bool(overlaps.max() >= _MIN_IOU),
        caption=f"score {one['score']:.2f}",
    )


def _boxes(record: dict, key: str, value: int) -> list[Box]:
    """XYXY_ABS boxes of the annotations with this value."""
    return [
        tuple(BoxMode.convert(list(one["bbox"]), one["bbox_mode"], BoxMode.XYXY_ABS))
        for one in record.get("annotations", ())
        if one.get(key) == value
    ]


def _save_strip(query: Query, entries: Sequence[StripEntry], folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    shot = read_pixels(query.primary.file_name, "RGB")
    strip = rank_list_strip(shot, query.primary.box, entries, _SIDE)
    path = folder / f"{re.sub(r'[^A-Za-z0-9_-]+', '_', name)}.jpg"
    bgr = cv2.cvtColor(strip, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 88])
    path.write_bytes(encoded.tobytes())
    return path
