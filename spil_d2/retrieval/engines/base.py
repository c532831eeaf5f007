"""What a search engine is: regions of gallery pictures, and embeddings of query boxes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fvcore.common.registry import Registry

SEARCH_ENGINE_REGISTRY = Registry("SEARCH_ENGINE")
SEARCH_ENGINE_REGISTRY.__doc__ = """
Search engines by the name that `cfg.SEARCH.ENGINE` gives. An entry is a subclass of `SearchEngine`
whose constructor is `@configurable`, so that `Engine(cfg)` builds it.
"""


@dataclass(frozen=True)
class Regions:
    """Regions of one picture. Shape shorthand: R regions, D dimensions.

    Attributes:
        boxes: (R, 4) float32, XYXY_ABS in pixels of the picture that was given.
        saliency: (R,) float32, higher = more salient; comparable inside one picture.
        embeddings: (R, D) float32, L2-normalized.
    """

    boxes: np.ndarray
    saliency: np.ndarray
    embeddings: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.boxes)
        shapes = self.boxes.shape, self.saliency.shape, self.embeddings.shape[:1]
        if shapes != ((count, 4), (count,), (count,)) or self.embeddings.ndim != 2:
            raise ValueError(
                f"regions: boxes {self.boxes.shape}, saliency {self.saliency.shape} and embeddings "
                f"{self.embeddings.shape} do not fit (R, 4), (R,), (R, D)"
            )


class SearchEngine(ABC):
    """Turns pictures into regions with embeddings. Holds no gallery and no query."""

    @abstractmethod
    def regions(self, images: Sequence[np.ndarray]) -> list[Regions]:
        """The regions of pictures (H, W, 3) uint8 RGB, at least one each."""

    @abstractmethod
    def embed(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """The embeddings of boxes on one picture.

        Args:
            image: (H, W, 3) uint8 RGB, whole.
            boxes: (N, 4) XYXY_ABS in its pixels.

        Returns:
            (N, D) float32, L2-normalized, comparable with those of `regions`.
        """


class LocalizingEngine(SearchEngine):
    """An engine that finds the query's box in a picture only after the picture was ranked.

    Its regions describe whole pictures. `search` asks for `cues` once a query and for `localize`
    once a ranked picture, with the cues of all queries that rank it.
    """

    @abstractmethod
    def cues(self, image: np.ndarray, boxes: np.ndarray) -> list[Any]:
        """What `localize` must know of the query boxes (N, 4), XYXY_ABS, on a picture.

        Returns:
            N objects that only `localize` of the same engine looks into.
        """

    @abstractmethod
    def localize(self, image: np.ndarray, cues: Sequence[Any]) -> np.ndarray:
        """Where the queries are in a ranked picture, should they be there.

        Args:
            image: (H, W, 3) uint8 RGB.
            cues: of N queries, from `cues`.

        Returns:
            (N, 4) float32 boxes of area > 0, XYXY_ABS in pixels of the picture.
        """
