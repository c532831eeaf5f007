"""Pseudo masks and look-alikes for a whole stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pycocotools.mask as mask_util
from tqdm import tqdm

from ..data.crops import CropGeometry
from ..modeling.coattention import CoAttention, Maps
from ..ops.coattention import SETS
from ..ops.principal_direction import PrincipalDirection
from ..structures import QUERY, Query, QueryPool, SamplePool, Target
from ..utils.picture_files import read_pixels

Principals = Sequence[PrincipalDirection | None]


class CoAttentionLabeler:
    """Adds masks and look-alikes to the targets of a pool (Section 3.2, offline form).

    A co-attention set is either that of a query, "pool": the pictures of its confident ones, B at
    the least; or that of a target, "pair": its picture Y and X_p, the B - 1 best crops of the
    others, which are the query's own crop, confident ones, then the search engine's. Training
    draws X_p at random; here it is always the best ones, so that a target has one mask a stage and
    a pool is the same whenever it is made.

    Frozen maps (half precision) and superpixels of a picture do not change with the stages and are
    kept.
    """

    def __init__(
        self,
        coattention: CoAttention,
        gallery: Mapping[int, dict],
        queries: Sequence[Query],
        set_size: int,
        *,
        crop: CropGeometry,
        kind: str = "pool",
        v_policy: str = "two_views",
    ):
        """
        Args:
            coattention: on a frozen backbone.
            gallery: image id -> Detectron2 dict.
            queries: of the pools to come.
            set_size: B, pictures of a co-attention set: exactly, or "pool" at the least.
            crop: geometry of the crops of "pair".
            kind: "pool" or "pair".
            v_policy: which candidates are in a set (D12).
        """
        if kind not in SETS:
            raise ValueError(f"COATTENTION.SET is {kind!r}: use one of {SETS}")
        self._coattention = coattention
        self._gallery = gallery
        self._queries = {one.id: one for one in queries}
        self._set_size = set_size
        self._kind = kind
        self._crop = crop
        self._v_policy = v_policy
        self._superpixels: dict[str, np.ndarray] = {}
        self._maps: dict[str, Maps] = {}

    def label(self, pool: SamplePool) -> SamplePool:
        """The pool with a mask, and extras where there are any, for each target."""
        queries = tuple(self._label_query(one) for one in tqdm(pool.queries, "co-attention"))
        return replace(pool, queries=queries)

    def _label_query(self, one: QueryPool) -> QueryPool:
        principals = self._principals(one)
        candidates = list(one.candidates)
        for position in one.confident:
            target = candidates[position].target
            assert target is not None, "confident ones have a target"
            labelled = self._mask(self._file(one, position), target, principals[position])
            candidates[position] = replace(candidates[position], target=labelled)
        reference = self._mask(self._file(one, QUERY), one.reference, principals[QUERY])
        return QueryPool(one.query_id, reference, tuple(candidates))

    def _principals(self, one: QueryPool) -> dict[int, Principals]:
        """The directions by which each target is masked; position QUERY is the query's own."""
        targets = (QUERY, *one.confident)
        view = one.support_view(self._v_policy)
        others = self._set_size - 1
        if self._kind == "pool":
            members = view[: max(others, len(one.confident))]
            maps = [self._map(self._file(one, i)) for i in (QUERY, *members)]
            return dict.fromkeys(targets, self._coattention.fit(maps[:1], maps[1:]))
        crops = self._crop_maps(one, (QUERY, *view[:others]))
        return {
            target: self._coattention.fit(
                [self._map(self._file(one, target))],
                [maps for i, maps in crops.items() if i != target][:others],
            )
            for target in targets
        }

    def _file(self, one: QueryPool, position: int) -> str:
        if position == QUERY:
            return self._queries[one.query_id].primary.file_name
        return self._gallery[one.candidates[position].image_id]["file_name"]

    def _crop_maps(self, one: QueryPool, positions: Sequence[int]) -> dict[int, Maps]:
        crops = []
        for i in positions:
            box = self._queries[one.query_id].primary.box if i == QUERY else one.candidates[i].box
            crops.append(self._crop.crop(read_pixels(self._file(one, i), "RGB"), box)[0])
        return dict(zip(positions, self._coattention.encode_crops(crops)))

    def _map(self, file_name: str) -> Maps:
        if file_name not in self._maps:
            maps = self._coattention.encode(read_pixels(file_name, "RGB"))
            self._maps[file_name] = tuple(one.half() for one in maps)
        return tuple(one.float() for one in self._maps[file_name])

    def _mask(self, file_name: str, target: Target, principals: Principals) -> Target:
        if file_name not in self._superpixels:
            labels = self._coattention.superpixels(read_pixels(file_name, "RGB"))
            self._superpixels[file_name] = labels.astype(
                np.uint16 if labels.max() < 65536 else np.int32
            )
        result = self._coattention.apply(
            self._map(file_name),
            target.box,
            principals,
            self._superpixels[file_name].astype(np.int32),
        )
        mask = mask_util.encode(np.asfortranarray(result.mask.astype(np.uint8)))
        mask["counts"] = mask["counts"].decode("ascii")
        mask["size"] = [int(v) for v in mask["size"]]
        extras = tuple(
            (tuple(map(float, box)), float(min(weight, 1.0)))
            for box, weight in zip(result.extra_boxes, result.extra_weights)
        )
        return replace(target, mask=mask, extras=extras)
