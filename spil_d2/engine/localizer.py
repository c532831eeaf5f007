"""Running a trained QueryRCNN over rank lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import inference_context
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from torch import Tensor
from tqdm import tqdm

from ..data.crops import CropGeometry, QueryGeometry, build_query_geometry
from ..data.gallery_loader import GalleryDataset
from ..data.pair_mapper import VectorTable, read_crops
from ..modeling import QueryRCNN
from ..structures import QUERY, Box, Query, QueryPool, RankList, RankLists, SamplePool
from ..structures.sample_pool import check_v_policy
from .gallery_features import FeatureCacheSettings, GalleryFeatures

KERNELS = ("leave_one_out", "query_only", "top5")
KernelOf = Callable[[int, int], Tensor]
"""(query id, image id) -> kernel."""

Place = tuple[str, Box]
"""A file and an XYXY_ABS box in its pixels."""
Masks = dict[tuple[int, int], np.ndarray]
"""(query id, image id) -> (H, W) bool, of the stored image's size."""

_CROP_BATCH = 32
_QUERY_BATCH = 16


@dataclass(frozen=True)
class LocalizerSettings:
    """How rank lists are localized.

    Attributes:
        crop: geometry of the query crops, or whole pictures in their place.
        num_crops: n of Eq. 3.
        kernel: "leave_one_out": the query's crop and those of the best candidates that are not the
            image at hand (D14); "query_only"; "top5": the best candidates whatever the image.
        min_size, max_size: gallery pictures are resized to these, in pixels.
        image_format: channel order of the model.
        num_workers: decoding gallery pictures.
        v_policy: whose crops kernels are made of (D12).
        features: where maps of gallery pictures are kept.
    """

    crop: QueryGeometry
    num_crops: int
    kernel: str
    min_size: int
    max_size: int
    image_format: str
    num_workers: int
    v_policy: str = "two_views"
    features: FeatureCacheSettings = FeatureCacheSettings()

    def __post_init__(self) -> None:
        check_v_policy(self.v_policy)
        if self.kernel not in KERNELS:
            raise ValueError(f"TEST_KERNEL {self.kernel!r} is none of {KERNELS}")

    @classmethod
    def from_config(cls, cfg) -> LocalizerSettings:
        query = cfg.MODEL.QUERY
        return cls(
            crop=build_query_geometry(cfg),
            num_crops=query.NUM_CROPS,
            kernel=query.TEST_KERNEL,
            min_size=cfg.INPUT.MIN_SIZE_TEST,
            max_size=cfg.INPUT.MAX_SIZE_TEST,
            image_format=cfg.INPUT.FORMAT,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            v_policy=cfg.SPIL.V_POLICY,
            features=FeatureCacheSettings.from_config(cfg),
        )

    @property
    def resizing(self) -> dict[str, Any]:
        """What a picture's size and channels in the network depend on, JSON-like."""
        return {"size": [self.min_size, self.max_size], "format": self.image_format}


class Localizer:
    """Boxes and probabilities of a gallery's images for many queries."""

    def __init__(
        self,
        model: QueryRCNN,
        gallery: Sequence[dict],
        queries: Sequence[Query],
        settings: LocalizerSettings,
    ):
        """
        Args:
            model: trained; used in evaluation mode.
            gallery: Detectron2 dataset dicts.
            queries: of the rank lists to come.
            settings: see there.
        """
        self._model = model
        self._gallery = {int(one["image_id"]): one for one in gallery}
        self._queries = {one.id: one for one in queries}
        self._settings = settings
        self._features = GalleryFeatures(
            model, settings.features, {"read_by": "detectron2", **settings.resizing}
        )

    def encode_pool(
        self, pool: SamplePool, num_candidates: int, progress: bool = True
    ) -> VectorTable:
        """Object vectors of every query's own crop and its first candidates' crops.

        All processes return the same table.

        Args:
            pool: where the crops are taken.
            num_candidates: how many of each query, confident ones first.
            progress: show a bar.
        """
        places = self._places(pool, num_candidates)
        mine = list(places.items())[comm.get_rank() :: comm.get_world_size()]
        merged: dict[tuple[int, int], Tensor] = {}
        for part in comm.all_gather(self._encode(dict(mine), progress)):
            merged.update(part)
        return merged

    def _places(self, pool: SamplePool, num_candidates: int) -> dict[tuple[int, int], Place]:
        """File and box of the crops of `encode_pool`."""
        places = {}
        for one in pool.queries:
            reference = self._queries[one.query_id].primary
            places[one.query_id, QUERY] = (reference.file_name, reference.box)
            for position in one.by_confidence[:num_candidates]:
                candidate = one.candidates[position]
                file_name = self._gallery[candidate.image_id]["file_name"]
                places[one.query_id, position] = (file_name, candidate.box)
        return places

    def _encode(
        self, places: Mapping[tuple[int, int], Place], progress: bool
    ) -> dict[tuple[int, int], Tensor]:
        """Object vectors of crops, on this process alone."""
        keys = list(places)
        table: dict[tuple[int, int], Tensor] = {}
        # Whole pictures are larger than crops, and padded to the largest of a batch.
        size = _CROP_BATCH if isinstance(self._settings.crop, CropGeometry) else 1
        with inference_context(self._model), torch.no_grad():
            for start in tqdm(range(0, len(keys), size), "encoding crops", disable=not progress):
                batch = keys[start : start + size]
                crops, boxes = read_crops(
                    [places[key] for key in batch], self._settings.crop, self._settings.image_format
                )
                vectors = self._model.encode_query(crops, boxes).cpu()
                table.update(zip(batch, vectors))
        return table

    def localize(
        self,
        rank_lists: RankLists,
        pool: SamplePool,
        vectors: VectorTable,
        label: str = "localizing",
    ) -> RankLists | None:
        """The best box in each ranked image.

        Args:
            rank_lists: which images to look at.
            pool: V, for the order of the kernel's crops.
            vectors: of `encode_pool` on the same pool.
            label: for the progress bar.

        Returns:
            On the main process the same lists with the localizer's boxes (in pixels of the stored
            images) and probabilities; elsewhere None. An image without any detection keeps its
            box, with probability 0.
        """
        wanted: dict[int, list[int]] = defaultdict(list)
        for one in rank_lists.lists:
            for image_id in one.image_ids.tolist():
                wanted[image_id].append(one.query_id)
        found: dict[tuple[int, int], tuple[list[float], float]] = {}
        for image_id, answers in self.detect(wanted, self.kernels(pool, vectors), label):
            for query_id, one in answers:
                if len(one):
                    box = one.pred_boxes.tensor[0].tolist()
                    found[query_id, image_id] = (box, float(one.scores[0]))
        gathered = comm.gather(found)
        if not comm.is_main_process():
            return None
        merged = {key: value for part in gathered for key, value in part.items()}
        return RankLists(tuple(_replace_boxes(one, merged) for one in rank_lists.lists))

    def kernels(self, pool: SamplePool, vectors: VectorTable) -> KernelOf:
        """The mean kernel of a pool's query for an image (D14).

        Args:
            pool: V.
            vectors: of `encode_pool` on the same pool.
        """
        return lambda query_id, image_id: self._kernel(pool[query_id], image_id, vectors)

    def detect(
        self, wanted: Mapping[int, Sequence[int]], kernel_of: KernelOf, label: str
    ) -> Iterator[tuple[int, list[tuple[int, Instances]]]]:
        """All boxes of queries in gallery images; a picture is encoded once for all its queries.

        Args:
            wanted: image id -> ids of the queries that look at it.
            kernel_of: (query id, image id) -> the kernel.
            label: for the progress bar.

        Yields:
            Image id and, for each of its queries, the query id and at most
            TEST.DETECTIONS_PER_IMAGE instances, best first: `pred_boxes` in pixels of the stored
            image, `scores`. Of this process's share of the images alone.
        """
        mine = sorted(wanted)[comm.get_rank() :: comm.get_world_size()]
        for item in self._items(mine, label, self._settings.num_workers):
            image_id = int(item["image_id"])
            query_ids = list(wanted[image_id])
            kernels = torch.stack([kernel_of(query_id, image_id) for query_id in query_ids])
            with inference_context(self._model), torch.no_grad():
                found = self._detect(item, kernels)
            yield image_id, list(zip(query_ids, found))

    def refine(
        self,
        boxes: Mapping[int, Mapping[int, Sequence[float]]],
        kernel_of: KernelOf,
        label: str,
    ) -> dict[tuple[int, int], list[float]]:
        """What a second look makes of boxes (`QueryRCNN.refine`), in pixels of the stored images.

        Args:
            boxes: image id -> query id -> box.
            kernel_of, label: as for `detect`.

        Returns:
            (query id, image id) -> box, of this process's share of the images.
        """
        mine = sorted(boxes)[comm.get_rank() :: comm.get_world_size()]
        refined = {}
        for item in self._items(mine, label, self._settings.num_workers):
            image_id = int(item["image_id"])
            given = boxes[image_id]
            kernels = torch.stack([kernel_of(query_id, image_id) for query_id in given])
            with inference_context(self._model), torch.no_grad():
                moved = self._refine(item, kernels, torch.tensor(list(given.values())))
            refined.update(zip(((q, image_id) for q in given), moved.tolist()))
        return refined

    def segment(self, localized: RankLists, pool: SamplePool) -> Masks:
        """Masks of boxes that `localize` has found, on this process alone.

        Args:
            localized: those boxes; one for each mask that is wanted.
            pool: V that they were localized with.

        Returns:
            None at all without a mask head, and none of images without a detection.
        """
        if not self._model.has_masks:
            return {}
        shown = replace(pool, queries=tuple(pool[one.query_id] for one in localized.lists))
        vectors = self._encode(self._places(shown, self._settings.num_crops), progress=False)
        wanted: dict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)
        for one in localized.lists:
            assert one.probabilities is not None, "a localized list carries probabilities"
            for image_id, box, p in zip(one.image_ids.tolist(), one.boxes, one.probabilities):
                if p > 0:
                    wanted[image_id].append((one.query_id, box))
        masks = {}
        with inference_context(self._model), torch.no_grad():
            for item in self._items(list(wanted), "masks", 0):
                image_id = int(item["image_id"])
                query_ids = [query_id for query_id, _ in wanted[image_id]]
                kernels = torch.stack([self._kernel(pool[q], image_id, vectors) for q in query_ids])
                boxes = torch.from_numpy(np.stack([box for _, box in wanted[image_id]]))
                for query_id, mask in zip(query_ids, self._segment(item, kernels, boxes)):
                    masks[query_id, image_id] = mask
        return masks

    def _refine(self, item: dict, kernels: Tensor, boxes: Tensor) -> Tensor:
        """(Q, 4) boxes of a second pass, from boxes (Q, 4), both in pixels of the stored image."""
        model = self._model
        features, sizes = self._features.encode(item)
        scale = _network_scale(item, sizes[0])
        parts = zip(
            kernels.to(model.device).split(_QUERY_BATCH), (boxes * scale).split(_QUERY_BATCH)
        )
        refined = [model.refine(features, *part, sizes).cpu() for part in parts]
        moved = Boxes(torch.cat(refined) / scale)
        moved.clip((item["height"], item["width"]))
        return moved.tensor

    def _segment(self, item: dict, kernels: Tensor, boxes: Tensor) -> np.ndarray:
        """(Q, H, W) bool masks of boxes (Q, 4), both in pixels of the stored image."""
        model = self._model
        features, sizes = self._features.encode(item)
        scaled = boxes * _network_scale(item, sizes[0])
        soft = model.segment(features, kernels.to(model.device), scaled, sizes)
        masks = paste_masks_in_image(soft.cpu(), boxes, (item["height"], item["width"]))
        return masks.numpy()

    def _items(self, image_ids: Sequence[int], label: str, num_workers: int) -> Iterable[dict]:
        """Pictures one by one for `GalleryFeatures.encode`, with a bar."""
        records = [self._gallery[i] for i in image_ids]
        items = self._features.items(records, self._dataset, num_workers)
        return tqdm(items, label, total=len(records), disable=not comm.is_main_process())

    def _dataset(self, records: Sequence[dict]) -> GalleryDataset:
        settings = self._settings
        return GalleryDataset(records, settings.min_size, settings.max_size, settings.image_format)

    def _detect(self, item: dict, kernels: Tensor) -> list[Instances]:
        """One Instances a kernel, in pixels of the stored image; the picture is encoded once."""
        model = self._model
        features, sizes = self._features.encode(item)
        height, width = sizes[0]
        found: list[Instances] = []
        # A template that is shared is the mean over all queries of the picture.
        size = len(kernels) if model.shared_template else _QUERY_BATCH
        for batch in kernels.to(model.device).split(size):
            found += model.detect(features, batch, sizes, with_masks=False)
        for one in found:
            one.pred_boxes.scale(item["width"] / width, item["height"] / height)
            one.pred_boxes.clip((item["height"], item["width"]))
        return found

    def _kernel(self, one: QueryPool, image_id: int, vectors: VectorTable) -> Tensor:
        """The mean kernel for one query on one image (D14)."""
        settings = self._settings
        others = [
            i
            for i in one.support_view(settings.v_policy)
            if settings.kernel == "top5" or one.candidates[i].image_id != image_id
        ]
        rows = [QUERY]
        if settings.kernel == "leave_one_out":
            rows += others[: settings.num_crops - 1]
        elif settings.kernel == "top5":
            rows = others[: settings.num_crops] or rows
        return torch.stack([vectors[one.query_id, row] for row in rows]).mean(dim=0)


def _network_scale(item: dict, size: tuple[int, int]) -> Tensor:
    """(4,) factors of XYXY from pixels of the stored image to a network input (height, width)."""
    height, width = size
    return torch.tensor([width / item["width"], height / item["height"]] * 2)


def _replace_boxes(
    one: RankList, found: Mapping[tuple[int, int], tuple[list[float], float]]
) -> RankList:
    pairs = [
        found.get((one.query_id, image_id), (box, 0.0))
        for image_id, box in zip(one.image_ids.tolist(), one.boxes.tolist())
    ]
    return replace(
        one,
        boxes=np.array([box for box, _ in pairs], np.float32).reshape(-1, 4),
        probabilities=np.array([p for _, p in pairs], np.float32),
    )
