"""Maps of gallery pictures, computed or kept from before (specification, Section 8).

A query enters behind the backbone (`Y * x`), so that the maps `Y` of a picture serve all queries.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..data.gallery_loader import build_gallery_loader
from ..modeling import QueryRCNN
from ..utils.array_cache import ArrayCache
from ..utils.artifacts import fingerprint

logger = logging.getLogger(__name__)

DTYPES = {"float16": torch.float16, "float32": torch.float32}
# Of what a key names: to be raised where maps are computed or kept in another way.
_FORMAT = 1
_BYTES_A_GB = 10**9
# An array beside the maps, and what it holds.
_SIZES_ARRAY = " sizes"
_SIZES = ("height", "width", "input_height", "input_width")

Features = dict[str, Tensor]
"""Level -> (1, C, H, W) float32."""


@dataclass(frozen=True)
class FeatureCacheSettings:
    """Where maps are kept.

    Attributes:
        folder: "" keeps none.
        max_gb: its size at most, in 10^9 bytes.
        dtype: "float16" or "float32".
    """

    folder: str = ""
    max_gb: float = 10.0
    dtype: str = "float16"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(
                f"CACHE.FEATURES.DTYPE is {self.dtype!r}: use one of {', '.join(DTYPES)}"
            )
        if not self.max_gb > 0:
            raise ValueError(
                f"CACHE.FEATURES.MAX_GB is {self.max_gb}: it must be above 0 (CACHE.FEATURES.DIR "
                '"" turns the cache off)'
            )

    @classmethod
    def from_config(cls, cfg) -> FeatureCacheSettings:
        node = cfg.CACHE.FEATURES
        return cls(folder=node.DIR, max_gb=node.MAX_GB, dtype=node.DTYPE)


class GalleryFeatures:
    """`QueryRCNN.encode_gallery` of picture files, with a memory if the settings name a folder.

    Maps are kept by the picture's path, size and time, by the weights and the structure of the
    backbone, and by all that its input depends on. What follows the backbone may be trained in
    between; a backbone that is trained finds nothing of its earlier self. Maps are rounded as they
    are kept, also where they have just been computed: a later run gives the same boxes.
    """

    def __init__(self, model: QueryRCNN, settings: FeatureCacheSettings, pixels: Mapping[str, Any]):
        """
        Args:
            model: in evaluation mode whenever it is used.
            settings: see there.
            pixels: how a file becomes the "image" of an item, JSON-like; part of all keys.
        """
        self._model = model
        self._dtype = DTYPES[settings.dtype]
        self._made_by = [_FORMAT, settings.dtype, dict(pixels)]
        self._cache: ArrayCache | None = None
        self._network = ""
        self._fits = True
        if settings.folder:
            self._cache = ArrayCache(settings.folder, round(settings.max_gb * _BYTES_A_GB))

    def look_at_weights(self) -> None:
        """To be called before the first `key`, and when the backbone may have been trained."""
        if self._cache is not None:
            self._network = fingerprint([*self._made_by, _network_facts(self._model)])

    def key(self, file_name: str | os.PathLike) -> str | None:
        """Under which a picture's maps are kept; None where none are, or there is no file."""
        if self._cache is None:
            return None
        path = os.path.abspath(file_name)
        try:
            status = os.stat(path)
        except OSError:
            # Whoever reads the picture says what is wrong with it.
            return None
        return fingerprint([self._network, path, status.st_size, status.st_mtime_ns])

    def recall(self, key: str | None) -> dict | None:
        """The item of a picture whose maps are kept, for `encode`; None where they are not.

        Returns:
            "maps"; "input_height" and "input_width" of the network's input; "height" and "width" of
            the item that they were computed from.
        """
        maps = self._cache.get(key) if self._cache is not None and key is not None else None
        if maps is None:
            return None
        return {**dict(zip(_SIZES, maps.pop(_SIZES_ARRAY).tolist())), "maps": maps}

    def items(
        self,
        records: Sequence[dict],
        dataset: Callable[[Sequence[dict]], Dataset],
        num_workers: int,
    ) -> Iterator[dict]:
        """Pictures one by one, in order; those whose maps are kept are not decoded.

        Args:
            records: dataset dicts, with "image_id" and "file_name".
            dataset: makes of some of them a data set of items with "image" (3, h, w).
            num_workers: that decode.

        Yields:
            Items for `encode`, each with "image_id", "height" and "width".
        """
        self.look_at_weights()
        keys = [self.key(one["file_name"]) for one in records]
        kept = {key for key in keys if key is not None and key in self._cache}
        absent = [one for one, key in zip(records, keys) if key not in kept]
        decoded = iter(build_gallery_loader(dataset(absent), num_workers if absent else 0))
        for one, key in zip(records, keys):
            item = self.recall(key) if key in kept else next(decoded)
            if item is None:
                # Damaged, or removed since by this or another process.
                item = dataset([one])[0]
            yield {**item, "image_id": one["image_id"], "key": key}

    def encode(self, item: dict) -> tuple[Features, list[tuple[int, int]]]:
        """The maps of an item, without gradients.

        Args:
            item: of `items` or `recall`; or with "image" (3, h, w) and, where its maps are to be
                kept, "key", "image_id", "height" and "width".

        Returns:
            Features, and [(height, width)] of the network's input.
        """
        if "maps" in item:
            maps = {name: torch.from_numpy(y) for name, y in item["maps"].items()}
            return self._restore(maps), [(item["input_height"], item["input_width"])]
        images = self._model.preprocess([item["image"]])
        features = self._model.encode_gallery(images)
        if self._cache is not None and item.get("key") is not None:
            features = self._keep(self._cache, item, features, images.image_sizes[0])
        return features, images.image_sizes

    def _keep(
        self, cache: ArrayCache, item: dict, features: Features, size: tuple[int, int]
    ) -> Features:
        """Write the maps of an item of input `size`; returns them as they will be read."""
        # Channels last, as the convolutions that follow want them.
        maps = {
            name: y[0].permute(1, 2, 0).to(self._dtype).contiguous() for name, y in features.items()
        }
        restored = self._restore(maps)
        if not all(y.isfinite().all() for y in restored.values()):
            if self._fits:
                logger.warning(
                    "maps of picture %s, and perhaps of others, are not finite in %s and are not "
                    "kept: set CACHE.FEATURES.DTYPE to float32",
                    item["image_id"],
                    str(self._dtype).removeprefix("torch."),
                )
            self._fits = False
            return features
        arrays = {name: y.cpu().numpy() for name, y in maps.items()}
        arrays[_SIZES_ARRAY] = np.array([item["height"], item["width"], *size])
        cache.put(item["key"], arrays)
        return restored

    def _restore(self, maps: Mapping[str, Tensor]) -> Features:
        """What detection takes, of (H, W, C) maps as they are kept."""
        device = self._model.device
        return {name: y.to(device).float().permute(2, 0, 1)[None] for name, y in maps.items()}


def _network_facts(model: QueryRCNN) -> dict[str, Any]:
    """All that the maps depend on beside the pixels."""
    return {
        "weights": _weights_hash(model.backbone),
        "structure": [_structure(one) for one in model.backbone.modules()],
        "levels": model.levels,
        "pixels": [model.pixel_mean.flatten().tolist(), model.pixel_std.flatten().tolist()],
        "is_bf16": model.bf16 and model.frozen_backbone,
    }


def _weights_hash(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _structure(module: nn.Module) -> str:
    """Class and plain attributes, such as strides: weights alone do not tell what is computed."""
    plain = {k: v for k, v in vars(module).items() if k != "training" and _is_plain(v)}
    return f"{type(module).__qualname__} {plain}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(one) for one in value)
    return isinstance(value, (str, int, float, bool))
