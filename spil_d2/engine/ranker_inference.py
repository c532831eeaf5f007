"""Embeddings of regions by a trained ranker, and how well they rank.

Shape shorthand: N regions, D numbers of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_context
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..data.datasets.identity_split import IdentitySplit, split_dataset
from ..data.datasets.instance_search import get_queries
from ..data.ranker_stream import AugmentedViews
from ..data.region_crops import Region, RegionCrops, Size
from ..evaluation.ranker_metrics import Crops, gallery_crops, ranker_metrics
from ..modeling import Ranker


@dataclass(frozen=True)
class EmbedderSettings:
    """How regions are embedded.

    Attributes:
        size: (height, width) of a crop in pixels.
        image_format: channel order of the model.
        batch_size: crops that go through the backbone at once.
        num_workers: decoding pictures.
        progress: show a progress bar.
    """

    size: Size
    image_format: str
    batch_size: int = 64
    num_workers: int = 0
    progress: bool = True

    @classmethod
    def from_config(cls, cfg) -> EmbedderSettings:
        height, width = cfg.RANKER.CROP_SIZE
        return cls(
            size=(height, width),
            image_format=cfg.INPUT.FORMAT,
            batch_size=cfg.RANKER.EMBED_BATCH,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
        )


class RegionEmbedder:
    """Regions -> embeddings. Each picture is decoded once, however many regions it has."""

    def __init__(self, model: Ranker, settings: EmbedderSettings):
        self._model = model
        self._settings = settings

    @property
    def dimension(self) -> int:
        """D."""
        return self._model.neck.fc.out_features

    def embed(self, regions: Sequence[Region]) -> np.ndarray:
        """(N, D) float32 of unit length, in the order of the regions.

        Args:
            regions: N of any number of pictures, in any order; plain (file, box) pairs will do.
        """
        return self._run(regions, self._model.embed, self.dimension)

    def pool(self, regions: Sequence[Region]) -> np.ndarray:
        """(N, V) float32: the backbone's pooled vectors, what the neck is fitted on."""
        return self._run(regions, self._model.pool, self._model.vector_dim)

    def pool_views(self, views: AugmentedViews, num_regions: int) -> np.ndarray:
        """(A, N, V) float32: pooled vectors of A views of each of N regions."""
        result = np.empty((views.num_views, num_regions, self._model.vector_dim), np.float32)
        with inference_context(self._model), torch.no_grad():
            at_once = max(1, self._settings.batch_size // views.num_views)
            for rows, crops in self._batches(views, num_regions, at_once):
                vectors = self._model.pool(crops.flatten(0, 1)).cpu().numpy()
                by_region = vectors.reshape(len(rows), views.num_views, -1)
                result[:, rows.numpy()] = by_region.transpose(1, 0, 2)
        return result

    def _run(
        self, regions: Sequence[Region], encode: Callable[[Tensor], Tensor], dimension: int
    ) -> np.ndarray:
        settings = self._settings
        named = [Region(*one) for one in regions]
        pictures = RegionCrops(named, settings.size, settings.image_format)
        result = np.empty((len(named), dimension), np.float32)
        with inference_context(self._model), torch.no_grad():
            for rows, crops in self._batches(pictures, len(named), settings.batch_size):
                result[rows.numpy()] = encode(crops).cpu().numpy()
        return result

    def _batches(
        self, pictures: RegionCrops | AugmentedViews, num_regions: int, at_once: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(rows (n,), crops (n, ...)), n at most `at_once`, of all pictures."""
        settings = self._settings
        loader = DataLoader(
            pictures,
            batch_size=None,
            num_workers=settings.num_workers,
            generator=torch.Generator().manual_seed(0),
        )
        waiting: list[tuple[Tensor, Tensor]] = []
        last = len(pictures) - 1
        with tqdm(
            total=num_regions, desc="embed", unit="box", disable=not settings.progress
        ) as bar:
            for number, item in enumerate(loader):
                waiting.append(item)
                if number < last and sum(len(rows) for rows, _ in waiting) < at_once:
                    continue
                rows, crops = (torch.cat(parts) for parts in zip(*waiting))
                waiting = []
                for part in zip(rows.split(at_once), crops.split(at_once)):
                    yield part
                    bar.update(len(part[0]))


def evaluate_ranker(cfg, model: Ranker, name: str) -> dict[str, float]:
    """Rank-1 and mAP of annotated boxes as crops: each ranks all others of the dataset.

    Args:
        cfg: RANKER.TEST_IDENTITIES says whose boxes.
        model: the ranker.
        name: a registered dataset.

    Returns:
        `ranker_metrics` in percent, of the embeddings as "ranker/..." and of the backbone's own
        pooled vectors as "backbone/...".
    """
    split = held_out_split(cfg)
    gallery, _ = split_dataset(DatasetCatalog.get(name), get_queries(name), split)
    crops = gallery_crops(gallery)
    if not len(crops):
        raise ValueError(
            f"{name} has no annotated box of RANKER.TEST_IDENTITIES {split.kind!r}: name another "
            "dataset in DATASETS.TEST or use 'all'"
        )
    embedder = RegionEmbedder(model, EmbedderSettings.from_config(cfg))
    regions = crop_regions(gallery, crops)
    vectors = embedder.pool(regions)
    with inference_context(model), torch.no_grad():
        embeddings = model.embed_vectors(torch.from_numpy(vectors)).cpu().numpy()
    return {
        **ranker_metrics(embeddings, embeddings, crops, crops),
        **ranker_metrics(vectors, vectors, crops, crops, key="backbone"),
    }


def crop_regions(gallery: Sequence[dict], crops: Crops) -> list[Region]:
    """The regions that evaluation's crops of a dataset are."""
    files = {int(record["image_id"]): record["file_name"] for record in gallery}
    return [
        Region(files[int(image_id)], tuple(box.tolist()))
        for image_id, box in zip(crops.image_ids, crops.boxes)
    ]


def train_split(cfg) -> IdentitySplit:
    """The identities that pre-training sees."""
    return _split(cfg, cfg.RANKER.IDENTITIES)


def held_out_split(cfg) -> IdentitySplit:
    """The identities that pre-training is judged on."""
    return _split(cfg, cfg.RANKER.TEST_IDENTITIES)


def _split(cfg, kind: str) -> IdentitySplit:
    return IdentitySplit(kind, cfg.RANKER.IDENTITY_FRACTION, cfg.RANKER.IDENTITY_SEED)
