"""The localizers of CST's Table 2: who finds boxes for queries in images (specification, 6).

Each gives a `Found`, so that the same ranker orders the boxes of all of them and the same evaluator
judges them. Without a ranker, boxes are in the order of their own scores.
Shape shorthand: N boxes, C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from detectron2.config import CfgNode
from torch import Tensor
from torchvision.ops import roi_align
from tqdm import tqdm

from ..modeling import QueryRCNN
from ..ops.local_search import local_correlation_search
from ..retrieval.engines.pooled import PooledSearchEngine
from ..retrieval.proposals import PROPOSAL_REGISTRY, ProposalSource, build_proposal_source
from ..retrieval.search import read_rgb
from ..structures import Query
from ..utils.artifacts import file_sha256
from .cycle_models import CycleConfigs
from .localizer import Localizer, LocalizerSettings
from .pair_trainer import load_localizer
from .region_search import Found, find_boxes

GLOBALTRACK = "globaltrack"
REACH: Mapping[str, float | None] = MappingProxyType(
    {"local_search": 2.0, "local_search_full": None}
)
"""Name of a correlation search -> half the side of its search region in sides of the query's box;
None is the whole image."""
BASELINES = (*sorted(name for name, _ in PROPOSAL_REGISTRY), *REACH, GLOBALTRACK)
"""All names: sources of proposals, correlation searches, and the cycle's own localizer."""


class Baseline(ABC):
    """Finds boxes for queries in the images of a gallery."""

    @abstractmethod
    def find(self, queries: Sequence[Query], gallery: Sequence[dict]) -> Found:
        """Every box for every query in every image, on this process alone, under a progress bar.

        Args:
            queries: shown by their primary reference.
            gallery: Detectron2 dicts.

        Returns:
            Boxes in pixels of the stored images, and scores that compare boxes of one query.
        """


class SharedProposals(Baseline):
    """Proposals that do not look at the query: all queries get the same boxes and scores."""

    def __init__(self, source: ProposalSource, max_boxes: int):
        """
        Args:
            source: of the proposals; it runs once an image.
            max_boxes: the best ones of an image that are kept.
        """
        self._source = source
        self._max_boxes = max_boxes

    def find(self, queries: Sequence[Query], gallery: Sequence[dict]) -> Found:
        """See `Baseline.find`."""
        parts = []
        for record in tqdm(gallery, type(self._source).__name__, unit="image"):
            boxes, scores = self._source(read_rgb(record["file_name"]))
            answer = boxes[: self._max_boxes], scores[: self._max_boxes]
            parts.append(_of_image(record, queries, [answer] * len(queries)))
        return Found.join(parts)


class FeatureMaps(PooledSearchEngine):
    """The first of SEARCH.DESCRIPTOR_LAYERS of the frozen SEARCH.BACKBONE."""

    def map_of(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB -> (C, H', W') float32, a map that spans the whole picture."""
        layer = self.descriptors[0][0]
        return self._forward(self._prepare(image))[layer][0].float()


class LocalSearch(Baseline):
    """SiamRPN-style: the query's features are slid over each image's, near the query's own place.

    The search works in cells of the map, with pictures of SEARCH.LONGER_SIDE pixels: a query of
    less than a cell is as good as lost. The score is the cosine.
    """

    def __init__(self, maps: FeatureMaps, *, reach: float | None, max_boxes: int):
        """
        Args:
            maps: of query pictures and gallery.
            reach: see `REACH`.
            max_boxes: of an image; SiamRPN's local search gives 1.
        """
        self._maps = maps
        self._reach = reach
        self._max_boxes = max_boxes

    def find(self, queries: Sequence[Query], gallery: Sequence[dict]) -> Found:
        """See `Baseline.find`."""
        kernels = [self._kernel(one) for one in tqdm(queries, "encoding queries", unit="query")]
        parts = []
        for record in tqdm(gallery, "local search", unit="image"):
            image = read_rgb(record["file_name"])
            features = self._maps.map_of(image)
            answers = [self._search(*kernel, features, image.shape) for kernel in kernels]
            parts.append(_of_image(record, queries, answers))
        return Found.join(parts)

    def _kernel(self, query: Query) -> tuple[Tensor, tuple[float, float]]:
        """Features (C, h, w) inside the query's box; its centre as parts of width and height."""
        place = query.primary
        features = self._maps.map_of(read_rgb(place.file_name))
        height, width = features.shape[1:]
        cells = features.new_tensor([width / place.width, height / place.height] * 2)
        box = features.new_tensor(place.box) * cells
        size = [max(1, round(float(side))) for side in (box[3] - box[1], box[2] - box[0])]
        kernel = roi_align(features[None], [box[None]], size, sampling_ratio=2, aligned=True)[0]
        x0, y0, x1, y1 = place.box
        return kernel, ((x0 + x1) / 2 / place.width, (y0 + y1) / 2 / place.height)

    def _search(
        self,
        kernel: Tensor,
        center: tuple[float, float],
        features: Tensor,
        size: tuple[int, ...],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (N, 4) in pixels of a picture of `size` (H, W, ...), and their cosines (N,)."""
        height, width = features.shape[1:]
        boxes, cosines = local_correlation_search(
            kernel,
            features,
            (center[0] * width, center[1] * height),
            reach=self._reach,
            max_boxes=self._max_boxes,
        )
        pixels = np.array([size[1] / width, size[0] / height] * 2, np.float32)
        return boxes.cpu().numpy() * pixels, cosines.cpu().numpy()


class OneStage(Baseline):
    """The cycle's localizer, GlobalTrack: the score is its probability."""

    def __init__(self, model: QueryRCNN, settings: LocalizerSettings):
        """
        Args:
            model: trained.
            settings: of the `Localizer` that runs it.
        """
        self._model = model
        self._settings = settings

    def find(self, queries: Sequence[Query], gallery: Sequence[dict]) -> Found:
        """See `Baseline.find`."""
        ids = [one.id for one in queries]
        wanted = {int(record["image_id"]): ids for record in gallery}
        localizer = Localizer(self._model, gallery, queries, self._settings)
        found = find_boxes(localizer, queries, wanted, "GlobalTrack")
        if found is None:
            raise RuntimeError("baselines run in one process")
        return found


def build_baseline(name: str, cfg: CfgNode, weights: Path, max_boxes: int) -> Baseline:
    """The localizer of that name.

    Args:
        name: one of `BASELINES`.
        cfg: a configuration of configs/CST/.
        weights: of GlobalTrack.
        max_boxes: of an image; the local correlation search gives 1 whatever this is.

    Raises:
        ValueError: an unknown name, or keys that do not fit, as a detector without CONFIG_FILE.
        OSError: weights that could not be had.
        ImportError: OpenCV without the contributed modules.
    """
    if name == GLOBALTRACK:
        localizer = _localizer_config(cfg, max_boxes)
        model = load_localizer(localizer, weights)
        return OneStage(model, LocalizerSettings.from_config(localizer))
    if name in REACH:
        reach = REACH[name]
        return LocalSearch(
            FeatureMaps(cfg), reach=reach, max_boxes=max_boxes if reach is None else 1
        )
    if name not in BASELINES:
        raise ValueError(f"{name!r} is no localizer: use one of {BASELINES}")
    return SharedProposals(build_proposal_source(cfg, name), max_boxes)


def shares_boxes(name: str) -> bool:
    """Whether all queries get the same boxes."""
    return name in PROPOSAL_REGISTRY


def baseline_facts(name: str, cfg: CfgNode, weights: Path, max_boxes: int) -> dict:
    """What the boxes and the time of `build_baseline` depend on, for a fingerprint."""
    if shares_boxes(name):
        nodes = [cfg.CST.PROPOSALS, cfg.SEARCH.DETECTOR, cfg.SEARCH.GRID]
    elif name == GLOBALTRACK:
        localizer = _localizer_config(cfg, max_boxes)
        nodes = [localizer.INPUT, localizer.MODEL, localizer.TEST]
    else:
        nodes = [cfg.INPUT, cfg.MODEL, cfg.SEARCH]
    return {
        "name": name,
        "device": cfg.MODEL.DEVICE,
        "max_boxes": max_boxes,
        "keys": [node.dump() for node in nodes],
        "weights": file_sha256(weights) if name == GLOBALTRACK else None,
    }


def _localizer_config(cfg: CfgNode, max_boxes: int) -> CfgNode:
    localizer = CycleConfigs.from_config(cfg).localizer_round
    localizer.defrost()
    localizer.TEST.DETECTIONS_PER_IMAGE = max_boxes
    localizer.freeze()
    return localizer


def _of_image(
    record: dict, queries: Sequence[Query], answers: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Found:
    """The boxes (N, 4) and scores (N,) that each query gets in one image."""
    counts = [len(scores) for _, scores in answers]
    return Found(
        np.repeat(np.array([one.id for one in queries], np.int64), counts),
        np.full(sum(counts), int(record["image_id"]), np.int64),
        np.concatenate([boxes for boxes, _ in answers]).astype(np.float32),
        np.concatenate([scores for _, scores in answers]).astype(np.float32),
    )
