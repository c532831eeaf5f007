"""Regions of pictures as the ranker sees them: the box alone, stretched to one size.

Shape shorthand: N regions, H x W the size of a crop in pixels.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.structures import BoxMode
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from ..structures import Box
from .pictures import UnreadablePictureError, read_pixels

Size = tuple[int, int]
"""(height, width) in pixels."""


class Region(NamedTuple):
    """A part of a picture.

    Attributes:
        file_name: path of the picture.
        box: XYXY_ABS in pixels of the stored picture. It may reach over the border and be thinner
            than a pixel.
    """

    file_name: str
    box: Box


def labelled_regions(gallery: Sequence[dict]) -> tuple[list[Region], np.ndarray]:
    """The annotated boxes of a dataset and their identities; crowds are left out.

    Args:
        gallery: Detectron2 dicts whose annotations carry "instance_id".

    Returns:
        Regions in the order of the dataset, and (N,) int64 identities.
    """
    regions, identities = [], []
    for record in gallery:
        for one in record.get("annotations", ()):
            if not one.get("iscrowd", 0):
                box = BoxMode.convert(list(one["bbox"]), one["bbox_mode"], BoxMode.XYXY_ABS)
                regions.append(Region(record["file_name"], tuple(box)))
                identities.append(int(one["instance_id"]))
    return regions, np.array(identities, np.int64)


def crop_region(image: np.ndarray, box: Box, size: Size) -> Tensor:
    """Cut a box out and stretch it, without context.

    Corners are truncated to integers and clipped to the picture; one pixel is left at least.

    Args:
        image: (h, w, 3) uint8.
        box: XYXY_ABS in pixels of `image`.
        size: (H, W) of the crop.

    Returns:
        (3, H, W) uint8, bilinear, with antialiasing where it shrinks.

    Raises:
        ValueError: for a box with a corner that is not finite, or in the wrong order.
    """
    if not all(math.isfinite(one) for one in box) or box[2] < box[0] or box[3] < box[1]:
        raise ValueError(f"{box} is not a box (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1")
    x0, x1 = _whole_pixels(box[0], box[2], image.shape[1])
    y0, y1 = _whole_pixels(box[1], box[3], image.shape[0])
    part = np.ascontiguousarray(image[y0:y1, x0:x1].transpose(2, 0, 1))
    return F.resize(torch.from_numpy(part), list(size), antialias=True)


def _whole_pixels(low: float, high: float, length: int) -> tuple[int, int]:
    first = min(max(int(low), 0), length - 1)
    return first, min(max(int(high), first + 1), length)


def read_region(region: Region, size: Size, image_format: str) -> Tensor:
    """The crop of one region, as `crop_region`."""
    return crop_region(_read(region.file_name, image_format), region.box, size)


class RegionCrops(Dataset):
    """Item i: all crops of the i-th picture, which is decoded once.

    It is (rows (k,) int64, crops (k, 3, H, W) uint8), rows telling which regions these are.
    """

    def __init__(self, regions: Sequence[Region], size: Size, image_format: str):
        """
        Args:
            regions: N, in any order.
            size: (H, W) of the crops.
            image_format: channel order of the model.
        """
        rows = defaultdict(list)
        for row, region in enumerate(regions):
            rows[region.file_name].append(row)
        self._pictures = list(rows.items())
        self._regions = regions
        self._size = size
        self._format = image_format

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        file_name, rows = self._pictures[index]
        image = _read(file_name, self._format)
        crops = [crop_region(image, self._regions[row].box, self._size) for row in rows]
        return torch.tensor(rows), torch.stack(crops)


def read_regions(
    regions: Sequence[Region],
    size: Size,
    image_format: str,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Tensor:
    """All crops at once, in the order of the regions: (N, 3, H, W) uint8.

    Args:
        progress: wraps the sequence of pictures, as tqdm does.
    """
    pictures = RegionCrops(regions, size, image_format)
    result = torch.empty((len(regions), 3, *size), dtype=torch.uint8)
    for index in progress(range(len(pictures))):
        rows, crops = pictures[index]
        result[rows] = crops
    return result


def _read(file_name: str, image_format: str) -> np.ndarray:
    try:
        return read_pixels(file_name, image_format)
    except UnreadablePictureError as error:
        raise ValueError(f"{error}: run tools/check_dataset.py on the dataset") from error
