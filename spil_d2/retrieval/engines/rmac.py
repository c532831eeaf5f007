"""R-MAC with approximate max-pooling localization (Tolias et al., ICLR 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

from ..pooling import crops, mac, rmac_regions
from .aml import ApproximateMax, find_window
from .base import SEARCH_ENGINE_REGISTRY, LocalizingEngine
from .pooled import PartsEngine, map_boxes


@dataclass(frozen=True)
class _Cue:
    """The maximum of each channel in the query's box, and the box's width / height in pixels."""

    mac: np.ndarray
    aspect_ratio: float


@SEARCH_ENGINE_REGISTRY.register()
class RMAC(PartsEngine, LocalizingEngine):
    """A picture as the sum of its square regions' maxima; boxes by AML after ranking."""

    @configurable
    def __init__(
        self,
        *,
        alpha: float = 10.0,
        step: int = 3,
        max_aspect_change: float = 1.1,
        reach: int = 3,
        rounds: int = 5,
        **common: Any,
    ) -> None:
        """Set up R-MAC.

        Args:
            alpha: exponent of the generalized mean that stands for the maximum in localization.
            step: of the grid that the first windows lie on, in cells.
            max_aspect_change: factor by which a window's aspect ratio may differ from the query's.
            reach: cells that a side moves by at most in one step of the refinement.
            rounds: of the refinement, at most; each moves all four sides.
            common: see `PooledSearchEngine`; one descriptor layer, best of stride 16.
        """
        super().__init__(**common)
        self.alpha, self.step, self.max_aspect_change = alpha, step, max_aspect_change
        self.reach, self.rounds = reach, rounds

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        rmac = cfg.SEARCH.RMAC
        return {
            "alpha": rmac.ALPHA,
            "step": rmac.STEP,
            "max_aspect_change": rmac.MAX_ASPECT_CHANGE,
            "reach": rmac.REACH,
            "rounds": rmac.ROUNDS,
            **super().from_config(cfg),
        }

    def parts(self, crop: Tensor) -> Tensor:
        """See `PartsEngine.parts`: the MAC vectors of the regions, on any crop of a map."""
        regions = rmac_regions(*crop.shape[1:])
        return torch.stack([mac(crop[:, y0:y1, x0:x1]) for x0, y0, x1, y1 in regions.tolist()])

    def cues(self, image: np.ndarray, boxes: np.ndarray) -> list[_Cue]:
        """See `LocalizingEngine.cues`."""
        feature_map = self._map(image)
        parts = crops(feature_map, map_boxes(feature_map, boxes, image.shape[:2]))
        sides = np.asarray(boxes)[:, 2:] - np.asarray(boxes)[:, :2]
        return [
            _Cue(mac(part).cpu().numpy(), float(width / height))
            for part, (width, height) in zip(parts, sides)
        ]

    def localize(self, image: np.ndarray, cues: Sequence[_Cue]) -> np.ndarray:
        """See `LocalizingEngine.localize`."""
        feature_map = self._map(image).cpu().numpy()
        cell = np.array(image.shape[1::-1]) / feature_map.shape[:0:-1]
        pooled = ApproximateMax(feature_map, self.alpha, self.step)
        windows = [
            find_window(
                pooled,
                cue.mac,
                cue.aspect_ratio * cell[1] / cell[0],
                max_aspect_change=self.max_aspect_change,
                reach=self.reach,
                rounds=self.rounds,
            )
            for cue in cues
        ]
        return (np.array(windows) * np.tile(cell, 2)).astype(np.float32)

    def _map(self, image: np.ndarray) -> Tensor:
        return self._forward(self._prepare(image))[self.layer][0].float()
