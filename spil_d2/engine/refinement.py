"""Serving an adapted localizer: boxes, probabilities and masks for the hits of a search."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import Tensor

from ..data.pictures import Picture, UnreadablePictureError, read_picture
from ..modeling import QueryRCNN
from ..structures import Box, SearchHit
from ..utils.artifacts import is_published
from .checkpoint import load_weights
from .gallery_features import FeatureCacheSettings, GalleryFeatures
from .index_config import load_config
from .localizer import LocalizerSettings
from .presets import resolve_config

logger = logging.getLogger(__name__)

WEIGHTS, CONFIG = "model.pth", "config.yaml"
CONFIDENT = 0.5
"""Score above which a hit's crop joins the mean kernel, as confident candidates do in training."""

Shown = tuple[np.ndarray, Sequence[Box]]


class Refiner:
    """A trained QueryRCNN that looks at pictures one by one. Threads may share it."""

    def __init__(self, model: QueryRCNN, cfg: CfgNode, features: FeatureCacheSettings):
        """
        Args:
            model: trained; it is put into evaluation mode for good.
            cfg: that it was trained with.
            features: where maps of pictures are kept, whatever the training did.
        """
        self._model = model.eval()
        self._settings = LocalizerSettings.from_config(cfg)
        self._resize = T.ResizeShortestEdge([self._settings.min_size] * 2, self._settings.max_size)
        self._features = GalleryFeatures(
            self._model, features, {"read_by": "pictures", **self._settings.resizing}
        )
        self._features.look_at_weights()

    @classmethod
    def open(cls, directory: Path, features: FeatureCacheSettings) -> Refiner | None:
        """The newest localizer that `adapt` has published in `directory`, if there is one."""
        place = newest_localizer(directory)
        if place is None:
            return None
        cfg = load_config(place / CONFIG)
        # The file has them all.
        cfg.MODEL.WEIGHTS = ""
        resolve_config(cfg)
        model = build_model(cfg)
        load_weights(model, place / WEIGHTS)
        return cls(model, cfg, features)

    def refine(
        self, references: Sequence[Shown], hits: Sequence[SearchHit], locate: Callable[[int], Path]
    ) -> Iterator[SearchHit]:
        """See `Searcher.refine`.

        Args:
            references: pictures (H, W, 3) uint8 RGB with boxes in their pixels.
            hits: of the search.
            locate: image id -> file.

        Yields:
            The hits in their order; those whose picture cannot be read any more are left out and
            logged.
        """
        crops = [(image, box) for image, boxes in references for box in boxes]
        vectors = self._encode(crops)
        confident = [one for one in hits if one.score > CONFIDENT][: self._settings.num_crops]
        pictures = ((one, self._read(one, locate)) for one in confident)
        others = {
            one.image_id: self._encode([_crop_of(one, picture)])
            for one, picture in pictures
            if picture is not None
        }
        for hit in hits:
            # Leave one out: a picture is no evidence for itself (D14).
            rows = [vectors, *(row for image_id, row in others.items() if image_id != hit.image_id)]
            kernel = torch.cat(rows)[: max(len(vectors), self._settings.num_crops)].mean(dim=0)
            item = self._item(hit, locate)
            if item is not None:
                yield _refined(hit, self._detect(item, kernel))

    def _read(self, hit: SearchHit, locate: Callable[[int], Path]) -> Picture | None:
        try:
            return read_picture(locate(hit.image_id), self._settings.max_size)
        except UnreadablePictureError as error:
            logger.warning("%s is not refined: %s", hit.image, error)
            return None

    def _encode(self, places: Sequence[tuple[np.ndarray, Box]]) -> Tensor:
        """(N, C) object vectors of boxes on pictures."""
        crops, inside = [], []
        for image, box in places:
            crop, box_inside = self._settings.crop.crop(self._in_format(image), box)
            crops.append(torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1))))
            inside.append(torch.from_numpy(box_inside))
        with torch.no_grad():
            return self._model.encode_query(crops, torch.stack(inside))

    def _item(self, hit: SearchHit, locate: Callable[[int], Path]) -> dict | None:
        """A hit's picture for `GalleryFeatures.encode`; it is read where its maps are not kept."""
        key = self._features.key(locate(hit.image_id))
        kept = self._features.recall(key)
        if kept is not None:
            return kept
        picture = self._read(hit, locate)
        if picture is None:
            return None
        pixels = self._in_format(picture.pixels)
        resized = self._resize.get_transform(pixels).apply_image(pixels)
        image = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        size = {"height": picture.height, "width": picture.width}
        return {"image": image, "image_id": hit.image_id, "key": key, **size}

    def _detect(self, item: dict, kernel: Tensor) -> Instances:
        """At most one instance, in pixels of the displayed picture."""
        model = self._model
        with torch.no_grad():
            features, sizes = self._features.encode(item)
            (found,) = model.detect(features, kernel[None].to(model.device), sizes)
            return detector_postprocess(found[:1], item["height"], item["width"])

    def _in_format(self, image: np.ndarray) -> np.ndarray:
        """RGB in the model's order of channels."""
        return image if self._settings.image_format == "RGB" else image[:, :, ::-1]


def newest_localizer(directory: Path) -> Path | None:
    """The published localizer with the highest number in `directory`."""
    if not directory.is_dir():
        return None
    # What a killed process was writing or removing has a manifest, too.
    visible = (one for one in directory.iterdir() if not one.name.startswith("."))
    return max((one for one in visible if is_published(one)), default=None)


def _crop_of(hit: SearchHit, picture: Picture) -> tuple[np.ndarray, Box]:
    """The picture and the hit's box in its pixels."""
    x0, y0, x1, y1 = picture.from_displayed(np.array([hit.box]))[0].tolist()
    return picture.pixels, (x0, y0, x1, y1)


def _refined(hit: SearchHit, found: Instances) -> SearchHit:
    if not len(found):
        return replace(hit, score=0.0)
    x0, y0, x1, y1 = found.pred_boxes.tensor[0].tolist()
    mask = None
    if found.has("pred_masks"):
        pixels = found.pred_masks[0].cpu().numpy().astype(np.uint8)
        mask = mask_util.encode(np.asfortranarray(pixels))
        mask["counts"] = mask["counts"].decode("ascii")
    return replace(hit, box=(x0, y0, x1, y1), score=float(found.scores[0]), mask=mask)
