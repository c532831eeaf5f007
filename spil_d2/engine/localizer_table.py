"""Table 2 of CST: localizers on one test set, each with and without the ranker."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from detectron2.config import CfgNode
from tabulate import tabulate

from ..evaluation.ins_evaluator import evaluate_localizer, evaluate_regions
from ..evaluation.ins_metrics import CMC_RANKS
from ..evaluation.ins_protocol import Protocol
from ..structures import Query, RegionLists
from ..utils.artifacts import (
    file_sha256,
    fingerprint,
    is_published,
    publish_directory,
    read_manifest,
    write_json_atomic,
)
from .baselines import (
    Baseline,
    baseline_facts,
    build_baseline,
    shares_boxes,
)
from .cycle_data import CycleData
from .cycle_models import CycleConfigs
from .ranker_inference import EmbedderSettings, RegionEmbedder
from .ranker_trainer import load_ranker
from .region_search import best_boxes, lists_by_score, rank_regions

logger = logging.getLogger(__name__)

JUDGED_BOXES = 20
"""Boxes of an image that a localizer is judged on by itself (specification, 2.3)."""

_LISTS = "region_lists.npz"
# Boxes that all queries share have an IoU of 1; nothing else is to share an embedding.
_SAME_BOX_IOU = 0.999

_COLUMNS: Mapping[str, tuple[str, str]] = {
    "localizer": ("localizer", ""),
    "ranker": ("ranker", ""),
    "localizer/recall": (f"localizer Recall@{JUDGED_BOXES}", ".2f"),
    "localizer/mAP": ("mAP", ".2f"),
    **{f"system/rank-{k}": (f"system rank-{k}", ".2f") for k in CMC_RANKS},
    "system/mAP": ("mAP", ".2f"),
    "seconds_per_image": ("s/image", ".3f"),
}


def cycle_weights(cfg: CfgNode, part: str) -> Path:
    """The weights that a cycle in OUTPUT_DIR has come to.

    Args:
        cfg: of the cycle.
        part: "localizer" or "ranker".

    Returns:
        Those of the last round that was judged and has some, else the pretrained ones, else
        CST.LOCALIZER.WEIGHTS or CST.RANKER.WEIGHTS.

    Raises:
        FileNotFoundError: there are none.
    """
    output = Path(cfg.OUTPUT_DIR)
    judged = [path.parent for path in output.glob("rounds/*/metrics") if is_published(path)]
    judged.sort(key=lambda folder: int(folder.name), reverse=True)
    folders = [*judged, output / "pretrained"]
    places = [folder / part / f"{part}.pth" for folder in folders]
    key = f"CST.{part.upper()}.WEIGHTS"
    if cfg.CST[part.upper()].WEIGHTS:
        places.append(Path(cfg.CST[part.upper()].WEIGHTS))
    for path in places:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{output} holds no {part} of a cycle (rounds/*/{part}/{part}.pth or "
        f"pretrained/{part}/{part}.pth) and {key} names none: run tools/cycle_self_train.py with "
        f"this configuration, or give --{part}-weights"
    )


class LocalizerTable:
    """Rows of localizers on the test set of a cycle; what was measured is found again.

    `OUTPUT/found/NAME-FINGERPRINT/` holds the boxes of a localizer, which a run that was
    interrupted behind it goes on from, and `OUTPUT/rows/` the rows.
    """

    def __init__(
        self,
        cfg: CfgNode,
        data: CycleData,
        localizer_weights: Path,
        ranker_weights: Path,
        output_dir: Path,
    ):
        """
        Args:
            cfg: a configuration of configs/CST/.
            data: with the test set and its protocol.
            localizer_weights: of GlobalTrack.
            ranker_weights: of the ranker, the same for all localizers.
            output_dir: of the table.
        """
        self._cfg = cfg
        self._data = data
        self._localizer_weights = localizer_weights
        self._ranker_weights = ranker_weights
        self._output = output_dir
        judged = {query.query_id for query in data.protocol.queries}
        self._queries: Sequence[Query] = [one for one in data.queries if one.id in judged]

    def rows(self, name: str) -> list[dict]:
        """Without and with the ranker.

        Args:
            name: one of `BASELINES`.

        Returns:
            Two rows, or one with "reason" where the localizer cannot be built here.
        """
        found = self._output / "found" / f"{name}-{self._found_key(name)}"
        folders = {has_ranker: self._row_folder(found, has_ranker) for has_ranker in (False, True)}
        if not (is_published(found) or all(map(is_published, folders.values()))):
            try:
                baseline = build_baseline(name, self._cfg, self._localizer_weights, JUDGED_BOXES)
            except (ImportError, OSError, ValueError) as error:
                logger.warning("%s cannot be built here: %s", name, error)
                return [{"localizer": name, "reason": str(error)}]
            self._localize(baseline, found)
        for has_ranker, folder in folders.items():
            if not is_published(folder):
                row = {"localizer": name, **self._measure(name, found, has_ranker)}
                publish_directory(folder, lambda path: None, {"row": row})
        return [read_manifest(folder)["row"] for folder in folders.values()]

    def write(self, rows: Sequence[dict]) -> str:
        """Write `table.json` and `table.md` into the output folder, and return the latter's text.

        Args:
            rows: of one or several localizers.
        """
        done = [row for row in rows if "reason" not in row]
        body = [[format(row[key], form) for key, (_, form) in _COLUMNS.items()] for row in done]
        heads = [head for head, _ in _COLUMNS.values()]
        facts = {
            "protocol": self._data.protocol.key,
            "dataset": self._cfg.DATASETS.TEST[0],
            "images": len(self._data.test),
            "queries": len(self._queries),
            "boxes_per_image": self._cfg.CST.BOXES_PER_IMAGE,
            "localizer_weights": str(self._localizer_weights),
            "ranker_weights": str(self._ranker_weights),
        }
        text = (
            "Localizers on {dataset} by {protocol}: {images} images, {queries} queries; the best "
            "{boxes_per_image} boxes of an image are ranked. In percent; seconds an image are for "
            "all queries together.\n\n".format(**facts)
            + tabulate(body, heads, tablefmt="pipe", disable_numparse=True)
            + "\n\nglobaltrack: {localizer_weights}; ranker: {ranker_weights}\n".format(**facts)
        )
        for row in rows:
            if "reason" in row:
                text += f"\nNot measured: {row['localizer']}: {row['reason']}\n"
        self._output.mkdir(parents=True, exist_ok=True)
        write_json_atomic(self._output / "table.json", {**facts, "rows": list(rows)})
        (self._output / "table.md").write_text(text, encoding="utf-8")
        return text

    def _localize(self, baseline: Baseline, folder: Path) -> None:
        start = time.perf_counter()
        found = baseline.find(self._queries, self._data.test)
        seconds = time.perf_counter() - start
        lists = lists_by_score(found, self._queries)
        publish_directory(folder, lambda path: lists.save(path / _LISTS), {"seconds": seconds})

    def _measure(self, name: str, found: Path, has_ranker: bool) -> dict:
        lists = RegionLists.load(found / _LISTS)
        seconds = read_manifest(found)["seconds"]
        ranked = best_boxes(lists, self._cfg.CST.BOXES_PER_IMAGE)
        if has_ranker:
            embedder = self._embedder
            start = time.perf_counter()
            ranked = rank_regions(
                ranked,
                embedder,
                self._queries,
                self._data.test,
                _SAME_BOX_IOU if shares_boxes(name) else self._cfg.CST.SHARE_IOU,
            )
            seconds += time.perf_counter() - start
        protocol = self._data.protocol
        metrics = {
            **evaluate_localizer(protocol, lists, JUDGED_BOXES),
            **evaluate_regions(protocol, ranked),
        }
        return {
            "ranker": "yes" if has_ranker else "no",
            **_summarize(metrics, protocol),
            "seconds_per_image": seconds / len(self._data.test),
            "metrics": metrics,
        }

    @cached_property
    def _configs(self) -> CycleConfigs:
        return CycleConfigs.from_config(self._cfg)

    @cached_property
    def _embedder(self) -> RegionEmbedder:
        cfg = self._configs.ranker_round
        model = load_ranker(cfg, self._ranker_weights)
        return RegionEmbedder(model, EmbedderSettings.from_config(cfg))

    @cached_property
    def _pictures(self) -> list:
        files = [Path(one["file_name"]) for one in self._data.test]
        ids = [int(one["image_id"]) for one in self._data.test]
        places = [one.primary for one in self._queries]
        return [
            [(i, str(path), path.stat().st_mtime_ns) for i, path in zip(ids, files)],
            [(one.id, at.file_name, at.box) for one, at in zip(self._queries, places)],
        ]

    def _found_key(self, name: str) -> str:
        facts = baseline_facts(name, self._cfg, self._localizer_weights, JUDGED_BOXES)
        return fingerprint([facts, self._pictures])

    def _row_folder(self, found: Path, has_ranker: bool) -> Path:
        facts: list = [_truth(self._data.protocol), self._cfg.CST.BOXES_PER_IMAGE]
        if has_ranker:
            cfg = self._configs.ranker_round
            keys = [cfg[name].dump() for name in ("INPUT", "MODEL", "RANKER")]
            facts += [keys, file_sha256(self._ranker_weights), self._cfg.CST.SHARE_IOU]
        order = "ranker" if has_ranker else "own"
        return self._output / "rows" / f"{found.name}-{order}-{fingerprint(facts)}"


def _summarize(metrics: Mapping[str, float], protocol: Protocol) -> dict[str, float]:
    """The numbers of the table out of metrics under their own keys."""
    threshold = f"IoU{protocol.rules.iou_threshold:g}"
    localizer = f"{protocol.positives_only().key}/localizer"
    return {
        "localizer/recall": metrics[f"{localizer}/Recall@{JUDGED_BOXES}@{threshold}"],
        "localizer/mAP": metrics[f"{localizer}/mAP@{threshold}"],
        **{f"system/rank-{k}": metrics[f"{protocol.key}/rank-{k}@{threshold}"] for k in CMC_RANKS},
        "system/mAP": metrics[f"{protocol.key}/mAP_retrieval@{threshold}"],
    }


def _truth(protocol: Protocol) -> list:
    """Everything that a protocol judges by, for a fingerprint."""
    return [
        protocol.key,
        protocol.rules.iou_threshold,
        list(protocol.image_names),
        [
            [
                one.query_id,
                one.gt_images.tolist(),
                one.gt_boxes.tolist(),
                one.ignored.tolist(),
                None if one.searched is None else one.searched.tolist(),
            ]
            for one in protocol.queries
        ],
    ]
