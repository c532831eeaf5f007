"""Pseudo masks and look-alikes for a whole stage: one principal direction for each query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data.detection_utils import read_image
from torch import Tensor
from tqdm import tqdm

from ..modeling.coattention import CoAttention
from ..structures import Candidate, Query, QueryPool, SamplePool, Target


class CoAttentionLabeler:
    """Adds masks and look-alikes to the targets of a pool (Section 3.2, offline form).

    Frozen maps (half precision) and superpixels of a picture do not change with the stages and are
    kept.
    """

    def __init__(
        self,
        coattention: CoAttention,
        gallery: Mapping[int, dict],
        queries: Sequence[Query],
        set_size: int,
    ):
        """
        Args:
            coattention: on a frozen backbone.
            gallery: image id -> Detectron2 dict.
            queries: of the pools to come.
            set_size: B, pictures of a co-attention set at the least: confident ones, filled up by
                the best ranked.
        """
        self._coattention = coattention
        self._gallery = gallery
        self._queries = {one.id: one for one in queries}
        self._set_size = set_size
        self._superpixels: dict[str, np.ndarray] = {}
        self._maps: dict[str, Tensor] = {}

    def label(self, pool: SamplePool) -> SamplePool:
        """The pool with a mask, and extras where there are any, for each target."""
        queries = tuple(self._label_query(one) for one in tqdm(pool.queries, "co-attention"))
        return replace(pool, queries=queries)

    def _label_query(self, one: QueryPool) -> QueryPool:
        reference = self._queries[one.query_id].primary
        members = one.by_confidence[: max(self._set_size - 1, len(one.confident))]
        files = [self._gallery[one.candidates[i].image_id]["file_name"] for i in members]
        files = [reference.file_name, *files]
        maps = [self._map(name) for name in files]
        principal = self._coattention.fit(maps[:1], maps[1:])
        labelled = self._mask(files[0], maps[0], one.reference, principal)
        candidates = list(one.candidates)
        for position, name, feature_map in zip(members, files[1:], maps[1:]):
            candidate = candidates[position]
            if candidate.target is not None:
                target = self._mask(name, feature_map, candidate.target, principal)
                candidates[position] = Candidate(candidate.image_id, candidate.box, target)
        return QueryPool(one.query_id, labelled, tuple(candidates))

    def _map(self, file_name: str) -> Tensor:
        if file_name not in self._maps:
            self._maps[file_name] = self._coattention.encode(read_image(file_name, "RGB")).half()
        return self._maps[file_name].float()

    def _mask(self, file_name: str, feature_map, target: Target, principal) -> Target:
        if file_name not in self._superpixels:
            labels = self._coattention.superpixels(read_image(file_name, "RGB"))
            self._superpixels[file_name] = labels.astype(
                np.uint16 if labels.max() < 65536 else np.int32
            )
        result = self._coattention.apply(
            feature_map, target.box, principal, self._superpixels[file_name].astype(np.int32)
        )
        mask = mask_util.encode(np.asfortranarray(result.mask.astype(np.uint8)))
        mask["counts"] = mask["counts"].decode("ascii")
        mask["size"] = [int(v) for v in mask["size"]]
        extras = tuple(
            (tuple(map(float, box)), float(min(weight, 1.0)))
            for box, weight in zip(result.extra_boxes, result.extra_weights)
        )
        return replace(target, mask=mask, extras=extras)
