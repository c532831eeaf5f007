"""Results of a search as files for people and for other programs."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from PIL import Image

from ..structures import SearchHit
from .searcher import QueryImage, Searcher
from .visualize import BoxKind, draw_boxes

if TYPE_CHECKING:
    import fiftyone

_TEMPLATES = Path(__file__).with_name("templates")
_THUMBNAIL_SIDE = 320
_CATEGORY = {"id": 1, "name": "instance"}


def to_json(hits: Sequence[SearchHit]) -> str:
    """The list of hits as `SearchHit.to_dict` has them."""
    return json.dumps([hit.to_dict() for hit in hits], indent=1, ensure_ascii=False) + "\n"


def to_csv(hits: Sequence[SearchHit]) -> str:
    """A line a hit, with a header."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(["rank", "image", "x0", "y0", "x1", "y1", "score", "similarity"])
    for hit in hits:
        one = hit.to_dict()
        values = one["rank"], one["image"], *one["box"], one["score"], one["similarity"]
        writer.writerow(values)
    return target.getvalue()


def to_coco(hits: Sequence[SearchHit], size_of: Callable[[int], tuple[int, int]]) -> str:
    """A COCO file of the images that were hit, each annotation with `score` and `rank`.

    Args:
        hits: to write.
        size_of: image id -> displayed width and height.
    """
    images, annotations = [], []
    for number, hit in enumerate(hits, 1):
        width, height = size_of(hit.image_id)
        images.append(
            {"id": hit.image_id, "file_name": hit.image, "width": width, "height": height}
        )
        x0, y0, x1, y1 = hit.box
        box = [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)]
        one = {
            "id": number,
            "image_id": hit.image_id,
            "category_id": _CATEGORY["id"],
            "bbox": box,
            "area": round(box[2] * box[3], 2),
            "iscrowd": 0,
            "score": round(hit.score, 6),
            "similarity": round(hit.similarity, 6),
            "rank": hit.rank,
        }
        if hit.mask is not None:
            one["segmentation"] = hit.mask
        annotations.append(one)
    content = {"images": images, "annotations": annotations, "categories": [_CATEGORY]}
    return json.dumps(content, ensure_ascii=False) + "\n"


def to_html(searcher: Searcher, references: Sequence[QueryImage], hits: Sequence[SearchHit]) -> str:
    """One page with the query's and the hits' pictures in it, boxes drawn."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    queries = [
        _data_url(
            draw_boxes(one.image, [(box, BoxKind.QUERY) for box in one.boxes], _THUMBNAIL_SIDE)
        )
        for one in references
    ]
    rows = []
    for hit in hits:
        # The whole picture, for its box is in pixels of it; but one at a time.
        image = searcher.read_image(hit.image_id)
        rows.append(
            {
                "hit": hit,
                "url": _data_url(draw_boxes(image, [(hit.box, BoxKind.FINAL)], _THUMBNAIL_SIDE)),
            }
        )
    template = environment.get_template("search.html")
    return template.render(queries=queries, rows=rows, info=searcher.info())


def to_fiftyone(searcher: Searcher, hits: Sequence[SearchHit], name: str) -> fiftyone.Dataset:
    """The hits as a persistent FiftyOne dataset.

    Args:
        searcher: that found them.
        hits: a sample each, in order of rank.
        name: of the dataset; one that exists is refused by FiftyOne.

    Raises:
        ImportError: FiftyOne is not installed; says how to install it.
    """
    try:
        import fiftyone
    except ImportError as error:
        raise ImportError(
            "FiftyOne is not installed: `pip install fiftyone`, or write a file that it imports "
            "with `spil-d2 search ... --coco OUT.json`"
        ) from error
    dataset = fiftyone.Dataset(name, persistent=True)
    samples = []
    for hit in hits:
        width, height = searcher.image_size(hit.image_id)
        x0, y0, x1, y1 = hit.box
        detection = fiftyone.Detection(
            label=_CATEGORY["name"],
            bounding_box=[x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height],
            confidence=hit.score,
            similarity=hit.similarity,
        )
        samples.append(
            fiftyone.Sample(
                filepath=str(searcher.image_path(hit.image_id)),
                rank=hit.rank,
                instance=fiftyone.Detections(detections=[detection]),
            )
        )
    dataset.add_samples(samples)
    return dataset


def _data_url(pixels) -> str:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(target.getvalue()).decode("ascii")
