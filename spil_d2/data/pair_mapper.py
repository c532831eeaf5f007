"""From a drawn pair to a training item of QueryRCNN."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

from ..structures import QUERY, Pair, Query, SamplePool, Target
from .crops import CropGeometry, QueryGeometry
from .pictures import read_pixels

VectorTable = Mapping[tuple[int, int], Tensor]
"""(query id, position) -> kernel of that crop; position QUERY is the query's own."""

Crops = Tensor | list[Tensor]
"""(N, 3, S, S) uint8, or N pictures (3, h, w) of their own sizes."""


class PairMapper:
    """Reads and augments the pictures of a pair.

    1. Y is read, augmented and becomes "image" with "instances": the target's box, then the
       look-alikes, each with `gt_weights`, `gt_classes` = 0 and `gt_masks`. Look-alikes that are
       to be ignored, and those of weight 0, become "ignore_boxes" (E, 4) instead, in pixels of
       "image".
    2. The support crops become "query_crops" with "query_boxes", or, where a table of vectors is
       given, "query_vectors"; the foreign query's likewise with "negative_".
    """

    def __init__(
        self,
        pool: SamplePool,
        gallery: Mapping[int, dict],
        queries: Mapping[int, Query],
        *,
        augmentations: Sequence[T.Augmentation],
        crop: QueryGeometry,
        image_format: str,
        masks: bool,
        vectors: VectorTable | None = None,
        flip_probability: float = 0.5,
        ignore_extras: bool = False,
    ):
        """
        Args:
            pool: V of the stage.
            gallery: image id -> Detectron2 dataset dict.
            queries: query id -> Query.
            augmentations: of Y, without the flip.
            crop: geometry of the query crops, or whole pictures in their place.
            image_format: channel order of the model, e.g. "RGB".
            masks: give `gt_masks`; where a target has none, its box.
            vectors: kernels of the frozen backbone instead of crops.
            flip_probability: Y and the crops are mirrored together this often.
            ignore_extras: look-alikes are ignore regions instead of positives (D20).
        """
        self._pool = pool
        self._gallery = gallery
        self._queries = queries
        self._augmentations = list(augmentations)
        self._crop = crop
        self._format = image_format
        self._masks = masks
        self._vectors = vectors
        self._flip_probability = flip_probability
        self._ignore_extras = ignore_extras

    def __call__(self, pair: Pair, rng: np.random.Generator) -> dict:
        """The training item; the same pair and generator state give the same item."""
        # Detectron2's augmentations draw from numpy's global generator.
        np.random.seed(rng.integers(2**32))
        flip = bool(rng.random() < self._flip_probability)
        item = self._map_target(pair, flip)
        item.update(self._map_support("query", pair.query_id, pair.support, flip))
        if pair.negative_id is not None:
            negative = self._map_support("negative", pair.negative_id, pair.negative_support, flip)
            item.update(negative)
        return item

    def locate(self, query_id: int, position: int) -> tuple[str, tuple[float, float, float, float]]:
        """File and box of a support crop."""
        if position == QUERY:
            reference = self._queries[query_id].primary
            return reference.file_name, reference.box
        candidate = self._pool[query_id].candidates[position]
        return self._gallery[candidate.image_id]["file_name"], candidate.box

    def _target_of(self, pair: Pair) -> Target:
        one = self._pool[pair.query_id]
        if pair.target == QUERY:
            return one.reference
        target = one.candidates[pair.target].target
        assert target is not None, "only confident candidates are drawn as Y"
        return target

    def _map_target(self, pair: Pair, flip: bool) -> dict:
        file_name, _ = self.locate(pair.query_id, pair.target)
        target = self._target_of(pair)
        image = read_pixels(file_name, self._format)
        boxes = np.array([target.box, *(box for box, _ in target.extras)], dtype=np.float64)
        augmentations = copy.copy(self._augmentations)
        if flip:
            augmentations.append(T.RandomFlip(prob=1.0))
        inputs = T.AugInput(image, boxes=boxes)
        transforms = T.AugmentationList(augmentations)(inputs)
        moved = Boxes(torch.as_tensor(inputs.boxes, dtype=torch.float32))
        moved.clip(inputs.image.shape[:2])
        ignored = np.array([self._ignore_extras or not weight for _, weight in target.extras], bool)
        kept = tuple(one for one, is_ignored in zip(target.extras, ignored) if not is_ignored)
        positives = replace(target, extras=kept)
        instances = Instances(inputs.image.shape[:2])
        instances.gt_boxes = moved[torch.from_numpy(np.append(True, ~ignored))]
        self._add_labels(instances, positives, image.shape[:2], transforms)
        pixels = np.ascontiguousarray(inputs.image.transpose(2, 0, 1))
        item = {
            "file_name": file_name,
            "query_id": pair.query_id,
            "height": image.shape[0],
            "width": image.shape[1],
            "image": torch.from_numpy(pixels),
            "instances": instances,
        }
        if self._ignore_extras or ignored.any():
            item["ignore_boxes"] = moved.tensor[1:][torch.from_numpy(ignored)]
        return item

    def _add_labels(
        self, instances: Instances, target: Target, size: tuple[int, int], transforms: T.Transform
    ) -> None:
        """Classes, weights and masks of a target and its look-alikes in a picture (H, W)."""
        weights = [target.weight, *(weight for _, weight in target.extras)]
        instances.gt_classes = torch.zeros(len(weights), dtype=torch.int64)
        instances.gt_weights = torch.tensor(weights, dtype=torch.float32)
        if self._masks:
            masks = [_decode(target, size), *(_rectangle(box, size) for box, _ in target.extras)]
            moved = [transforms.apply_segmentation(mask) for mask in masks]
            instances.gt_masks = BitMasks(torch.from_numpy(np.stack(moved).astype(bool)))

    def _map_support(
        self, role: str, query_id: int, positions: Sequence[int], flip: bool
    ) -> dict[str, Crops]:
        if self._vectors is not None:
            rows = [self._vectors[query_id, position] for position in positions]
            return {f"{role}_vectors": torch.stack(rows)}
        crops, boxes = read_crops(
            [self.locate(query_id, position) for position in positions], self._crop, self._format
        )
        if flip:
            crops, boxes = _mirror(crops, boxes)
        return {f"{role}_crops": crops, f"{role}_boxes": boxes}


def read_crops(
    places: Sequence[tuple[str, tuple[float, float, float, float]]],
    crop: QueryGeometry,
    image_format: str,
) -> tuple[Crops, Tensor]:
    """Crops of files, or the whole pictures.

    Args:
        places: N pairs of a file and an XYXY_ABS box in its pixels.

    Returns:
        (N, 3, S, S) uint8, or a list of (3, h, w) for whole pictures; and the boxes in them
        (N, 4) float32.
    """
    crops, boxes = [], []
    for file_name, box in places:
        pixels, inside = crop.crop(read_pixels(file_name, image_format), box)
        crops.append(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))))
        boxes.append(inside)
    same_size = isinstance(crop, CropGeometry)
    return torch.stack(crops) if same_size else crops, torch.from_numpy(np.stack(boxes))


def _mirror(crops: Crops, boxes: Tensor) -> tuple[Crops, Tensor]:
    widths = torch.tensor([[crop.shape[2]] for crop in crops])
    boxes = boxes[:, [2, 1, 0, 3]]
    boxes[:, [0, 2]] = widths - boxes[:, [0, 2]]
    is_list = isinstance(crops, list)
    return [crop.flip(2) for crop in crops] if is_list else crops.flip(3), boxes


def _decode(target: Target, size: tuple[int, int]) -> np.ndarray:
    if target.mask is None:
        return _rectangle(target.box, size)
    return mask_util.decode(target.mask)


def _rectangle(box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    x0, y0, x1, y1 = (round(v) for v in box)
    mask[max(y0, 0) : max(y1, y0 + 1), max(x0, 0) : max(x1, x0 + 1)] = 1
    return mask
