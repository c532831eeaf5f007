"""What a cycle runs on: unlabeled images, and a test set with its protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.data import DatasetCatalog

from ..data.datasets.identity_split import split_dataset
from ..data.datasets.instance_search import get_queries
from ..data.datasets.official import get_protocol_facts
from ..evaluation.ins_protocol import PRESETS, Protocol
from ..evaluation.protocol_sources import dataset_protocol
from ..structures import Query
from .ranker_inference import held_out_split


@dataclass(frozen=True)
class CycleData:
    """The images of a cycle.

    Attributes:
        unlabeled: Detectron2 dicts without annotations.
        test: Detectron2 dicts of the test gallery.
        queries: of the test set.
        protocol: by which the search is judged.
    """

    unlabeled: Sequence[dict]
    test: Sequence[dict]
    queries: Sequence[Query]
    protocol: Protocol

    @classmethod
    def from_config(cls, cfg) -> CycleData:
        """Images of RANKER.TEST_IDENTITIES of CST.UNLABELED and DATASETS.TEST.

        Raises:
            ValueError: another number of test sets than one, image ids that two unlabeled datasets
                share, or an unknown protocol.
        """
        if len(cfg.DATASETS.TEST) != 1:
            raise ValueError(
                f"DATASETS.TEST is {cfg.DATASETS.TEST}: a cycle is judged on one dataset"
            )
        if cfg.CST.PROTOCOL not in PRESETS:
            raise ValueError(f"CST.PROTOCOL is {cfg.CST.PROTOCOL!r}: use one of {sorted(PRESETS)}")
        split = held_out_split(cfg)
        unlabeled: dict[int, dict] = {}
        for name in cfg.CST.UNLABELED or cfg.DATASETS.TEST:
            records, _ = split_dataset(DatasetCatalog.get(name), get_queries(name), split)
            for record in records:
                image_id = int(record["image_id"])
                if image_id in unlabeled:
                    raise ValueError(f"CST.UNLABELED: image {image_id} of {name} is there twice")
                unlabeled[image_id] = {**record, "annotations": []}
        if not unlabeled:
            raise ValueError(f"CST.UNLABELED {cfg.CST.UNLABELED} has no image to train on")
        (name,) = cfg.DATASETS.TEST
        test, queries = split_dataset(DatasetCatalog.get(name), get_queries(name), split)
        rules = PRESETS[cfg.CST.PROTOCOL]
        facts = get_protocol_facts(name).arguments(test, rules.gallery_range)
        protocol = dataset_protocol(rules, test, queries, **facts)
        return cls(list(unlabeled.values()), test, queries, protocol)
