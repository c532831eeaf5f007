"""Gallery pictures, resized for the model, decoded in workers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import transforms as T
from torch.utils.data import DataLoader, Dataset

from .pictures import UnreadablePictureError, read_pixels


class GalleryDataset(Dataset):
    """Detectron2 dataset dicts -> {"image_id", "image" (3, h, w), "height", "width"}."""

    def __init__(self, gallery: Sequence[dict], min_size: int, max_size: int, image_format: str):
        """
        Args:
            gallery: dataset dicts.
            min_size, max_size: of the resized picture's shorter and longer side, in pixels.
            image_format: channel order of the model.
        """
        self._gallery = list(gallery)
        self._resize = T.ResizeShortestEdge([min_size, min_size], max_size)
        self._format = image_format

    def __len__(self) -> int:
        return len(self._gallery)

    def __getitem__(self, index: int) -> dict:
        record = self._gallery[index]
        try:
            image = read_pixels(record["file_name"], self._format)
        except UnreadablePictureError as error:
            raise ValueError(f"{error}: run tools/check_dataset.py on the dataset") from error
        resized = self._resize.get_transform(image).apply_image(image)
        return {
            "image_id": record["image_id"],
            "image": torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))),
            "height": image.shape[0],
            "width": image.shape[1],
        }


def build_gallery_loader(dataset: GalleryDataset, num_workers: int) -> DataLoader:
    """Pictures one by one, in order: each goes with its own number of queries."""
    return DataLoader(dataset, batch_size=None, num_workers=num_workers)
