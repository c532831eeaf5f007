"""From the shots of classes to what a detector knows of them (D26).

Shape shorthand: N: classes, K: shape of a kernel, D: width of a descriptor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ...data.gallery_loader import GalleryDataset, build_gallery_loader
from ...data.pair_mapper import read_crops
from ...modeling import QueryRCNN
from ...modeling.class_detector import describe_boxes, seen_from
from ...structures import Query, Reference
from ..localizer import LocalizerSettings

_CROP_BATCH = 16


@dataclass(frozen=True)
class ClassKernels:
    """What stands for each class.

    Attributes:
        categories: N category ids, ascending.
        kernels: (N, *K) float32, means of the shots' kernels.
        descriptors: (N, D) float32 of unit length, the mean directions of the shots' descriptors
            from the centre; (N, 0) without one.
        centre: (D,) float32, of `mean_descriptor`, or (0,).
    """

    categories: tuple[int, ...]
    kernels: Tensor
    descriptors: Tensor
    centre: Tensor


def class_kernels(
    model: QueryRCNN,
    settings: LocalizerSettings,
    shots: Sequence[Query],
    extra: Sequence[Query] = (),
    *,
    centre: Tensor | None = None,
) -> ClassKernels:
    """Mean kernels of classes.

    Args:
        model: the trained localizer; used in evaluation mode.
        settings: geometry of crops and test pictures.
        shots: queries with a `category_id`; all their references count.
        extra: instances that query expansion has found; each counts as a shot.
        centre: (D,) float32 on the CPU; describe the classes as they are seen from there, for
            scores by p * similarity ** γ. None: do not describe them.

    Raises:
        ValueError: no shot, or one without a class.
    """
    references = _by_class([*shots, *extra])
    kernels, descriptors = [], []
    with inference_context(model), torch.no_grad():
        for places in references.values():
            kernels.append(_mean_kernel(model, settings, places))
            if centre is not None:
                directions = seen_from(centre, _descriptors(model, settings, places))
                descriptors.append(F.normalize(directions.mean(dim=0), dim=0))
    centre = torch.zeros(0) if centre is None else centre
    return ClassKernels(
        tuple(references),
        torch.stack(kernels),
        torch.stack(descriptors) if descriptors else torch.zeros(len(references), 0),
        centre,
    )


def mean_descriptor(
    model: QueryRCNN, settings: LocalizerSettings, gallery: Sequence[dict], count: int
) -> Tensor:
    """What ordinary pictures look like: the centre that similarities are seen from.

    Args:
        model: the trained localizer; used in evaluation mode.
        settings: geometry of test pictures.
        gallery: dataset dicts with "width" and "height"; unlabeled ones do.
        count: whole pictures that are described, at most, evenly spaced in the gallery.

    Returns:
        (D,) float32 on the CPU; zeros for `count` 0, from where similarities are plain cosines.

    Raises:
        ValueError: an empty gallery.
    """
    if not gallery:
        raise ValueError("there are no pictures to take a mean descriptor of")
    step = math.ceil(len(gallery) / max(count, 1))
    with inference_context(model), torch.no_grad():
        whole = [_whole_picture(one) for one in gallery[::step]]
        mean = _descriptors(model, settings, whole, "describing pictures").mean(dim=0)
    return mean if count else torch.zeros_like(mean)


def _whole_picture(record: dict) -> Reference:
    width, height = record["width"], record["height"]
    return Reference(record["file_name"], width, height, (0.0, 0.0, float(width), float(height)))


def _by_class(queries: Sequence[Query]) -> dict[int, list[Reference]]:
    """References of each class, classes ascending."""
    references: dict[int, list[Reference]] = {}
    for query in queries:
        if query.category_id is None:
            raise ValueError(f"query {query.id} has no category_id: it is no shot of a class")
        references.setdefault(query.category_id, []).extend(query.references)
    if not references:
        raise ValueError("no shots: a class needs one at least")
    return dict(sorted(references.items()))


def _mean_kernel(
    model: QueryRCNN, settings: LocalizerSettings, references: Sequence[Reference]
) -> Tensor:
    """(*K,) on the CPU."""
    vectors = []
    for start in range(0, len(references), _CROP_BATCH):
        places = [(one.file_name, one.box) for one in references[start : start + _CROP_BATCH]]
        crops, boxes = read_crops(places, settings.crop, settings.image_format)
        vectors.append(model.encode_query(crops, boxes).cpu())
    return torch.cat(vectors).mean(dim=0)


def _descriptors(
    model: QueryRCNN,
    settings: LocalizerSettings,
    references: Sequence[Reference],
    label: str | None = None,
) -> Tensor:
    """(R, D) on the CPU, of boxes on whole pictures as detections are; a label shows progress."""
    records = [{"file_name": one.file_name, "image_id": i} for i, one in enumerate(references)]
    dataset = GalleryDataset(records, settings.min_size, settings.max_size, settings.image_format)
    rows = []
    is_quiet = label is None or not comm.is_main_process()
    loader = tqdm(build_gallery_loader(dataset, 0), label, disable=is_quiet)
    for item, reference in zip(loader, references, strict=True):
        images = model.preprocess([item["image"]])
        height, width = images.image_sizes[0]
        scale = torch.tensor([width / item["width"], height / item["height"]] * 2)
        box = torch.tensor([reference.box]) * scale
        rows.append(describe_boxes(model, model.encode_gallery(images), box).cpu())
    return torch.cat(rows)
