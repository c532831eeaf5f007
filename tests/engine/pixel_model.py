"""In place of QueryRCNN: its maps are the pictures."""

from __future__ import annotations

import torch
from detectron2.structures import ImageList
from torch import nn


class PixelModel(nn.Module):
    """What a `Localizer` asks of a model before anything depends on the query."""

    has_masks = False
    shared_template = False
    device = torch.device("cpu")

    def preprocess(self, images: list[torch.Tensor]) -> ImageList:
        """The pictures (3, H, W) as they are."""
        return ImageList.from_tensors(images)

    def encode_gallery(self, images: ImageList) -> dict[str, torch.Tensor]:
        """ "pixels": (B, 3, H, W)."""
        return {"pixels": images.tensor}
