"""Localizers of Table 2 on pictures whose truth is known by construction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import BoxMode
from torch.nn import functional as F

from spil_d2 import get_cfg
from spil_d2.data.region_crops import Region
from spil_d2.engine.baselines import (
    BASELINES,
    FeatureMaps,
    LocalSearch,
    SharedProposals,
    build_baseline,
)
from spil_d2.engine.localizer_table import cycle_weights
from spil_d2.engine.region_search import Found, lists_by_score, rank_regions
from spil_d2.evaluation.ins_evaluator import evaluate_localizer, evaluate_regions
from spil_d2.evaluation.ins_protocol import PRESETS, Protocol
from spil_d2.evaluation.protocol_sources import dataset_protocol
from spil_d2.retrieval.proposals import ProposalSource, WholeImage
from spil_d2.retrieval.search import read_rgb
from spil_d2.structures import Query, Reference
from spil_d2.utils.artifacts import publish_directory

HEIGHT, WIDTH, SIDE = 96, 128, 32
COLORS = ((220, 40, 40), (40, 60, 220))
# Instance and left upper corner on each picture.
PLACES = ((0, 16, 16), (0, 80, 48), (1, 32, 0), (1, 96, 64), (0, 48, 24))


@dataclass
class World:
    """Squares of two colours with a texture of their own, on noise."""

    gallery: list[dict]
    queries: list[Query]
    protocol: Protocol


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    patches = [np.clip(rng.normal(one, 30, (SIDE, SIDE, 3)), 0, 255) for one in COLORS]
    gallery = []
    for image_id, (instance, x, y) in enumerate(PLACES):
        picture = rng.integers(100, 156, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        picture[y : y + SIDE, x : x + SIDE] = patches[instance]
        path = folder / f"{image_id}.png"
        cv2.imwrite(str(path), picture[:, :, ::-1])
        box = {"bbox": [x, y, x + SIDE, y + SIDE], "bbox_mode": BoxMode.XYXY_ABS}
        size = {"file_name": str(path), "image_id": image_id, "width": WIDTH, "height": HEIGHT}
        gallery.append({**size, "annotations": [{**box, "instance_id": instance}]})
    queries = []
    for query_id, image_id in ((7, 0), (3, 2)):
        instance, x, y = PLACES[image_id]
        box = (float(x), float(y), float(x + SIDE), float(y + SIDE))
        shown = Reference(gallery[image_id]["file_name"], WIDTH, HEIGHT, box, image_id)
        queries.append(Query(query_id, (shown,), instance))
    return World(gallery, queries, dataset_protocol(PRESETS["ins"], gallery, queries))


class Colors:
    """In place of the ranker: the mean colour of a region, without the grey in it."""

    def embed(self, regions: list[Region]) -> np.ndarray:
        rows = []
        for file_name, box in regions:
            x0, y0, x1, y1 = (round(one) for one in box)
            mean = read_rgb(file_name)[y0:y1, x0:x1].mean(axis=(0, 1))
            rows.append(mean - mean.mean())
        array = np.array(rows, np.float32).reshape(-1, 3)
        return array / np.linalg.norm(array, axis=1, keepdims=True)


class Perfect(ProposalSource):
    """The annotated box of a picture, which it knows by its pixels; and a worse one."""

    def __init__(self, gallery: list[dict]) -> None:
        super().__init__()
        self.num_calls = 0
        self._known = [(read_rgb(one["file_name"]), one["annotations"][0]) for one in gallery]

    def _propose(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.num_calls += 1
        (box,) = (one["bbox"] for pixels, one in self._known if np.array_equal(pixels, image))
        return np.array([[0, 0, 20, 20], box], np.float32), np.array([0.1, 0.6])


class Blocks(Backbone):
    """The pixels, averaged over blocks of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"blocks": F.avg_pool2d(x, 8)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"blocks": ShapeSpec(channels=3, stride=8)}


def _local_search(reach: float | None, max_boxes: int = 1) -> LocalSearch:
    maps = FeatureMaps(
        backbone=Blocks(),
        descriptor_layers=["blocks"],
        longer_side=WIDTH,
        pixel_mean=(128, 128, 128),
        pixel_std=(50, 50, 50),
    )
    return LocalSearch(maps, reach=reach, max_boxes=max_boxes)


def _rows(found: Found) -> list[tuple]:
    return [
        (query, image, *box, score)
        for query, image, box, score in zip(
            found.query_ids.tolist(),
            found.image_ids.tolist(),
            found.boxes.tolist(),
            found.scores.tolist(),
        )
    ]


@pytest.mark.parametrize("max_boxes", [1, 20])
def test_all_queries_get_the_boxes_of_an_image(world, max_boxes) -> None:
    source = Perfect(world.gallery)
    found = SharedProposals(source, max_boxes).find(world.queries, world.gallery)
    assert source.num_calls == len(world.gallery)
    expected = set()
    for record in world.gallery:
        boxes, scores = source(read_rgb(record["file_name"]))
        for query in world.queries:
            for box, score in list(zip(boxes.tolist(), scores.tolist()))[:max_boxes]:
                expected.add((query.id, record["image_id"], *box, score))
    assert set(_rows(found)) == expected
    assert len(found) == len(world.queries) * len(world.gallery) * min(max_boxes, 2)


def test_perfect_boxes_give_100(world) -> None:
    found = SharedProposals(Perfect(world.gallery), 1).find(world.queries, world.gallery)
    own = lists_by_score(found, world.queries)
    alone = evaluate_localizer(world.protocol, own)
    assert alone["ins/pos/localizer/Recall@20@IoU0.5"] == 100
    assert alone["ins/pos/localizer/mAP@IoU0.5"] == 100
    # Scores that do not look at the query rank by image id: right boxes at 1, 4 and at 4.
    assert evaluate_regions(world.protocol, own)["ins/global/mAP_retrieval@IoU0.5"] == (
        pytest.approx(100 * ((1 / 1 + 2 / 4) / 2 + 1 / 3) / 2)
    )
    ranked = rank_regions(own, Colors(), world.queries, world.gallery, 0.999)
    metrics = evaluate_regions(world.protocol, ranked)
    assert metrics["ins/global/mAP_retrieval@IoU0.5"] == 100
    assert metrics["ins/global/rank-1@IoU0.5"] == 100


def test_the_whole_image_finds_no_small_box(world) -> None:
    found = SharedProposals(WholeImage(), 20).find(world.queries, world.gallery)
    assert found.boxes.tolist() == [[0, 0, WIDTH, HEIGHT]] * 10
    alone = evaluate_localizer(world.protocol, lists_by_score(found, world.queries))
    assert set(alone.values()) == {0.0}


def test_correlation_finds_the_pasted_patch(world) -> None:
    found = _local_search(None, max_boxes=20).find(world.queries, world.gallery)
    for query in world.queries:
        for image_id, (instance, x, y) in enumerate(PLACES):
            if instance != query.instance_id:
                continue
            rows = (found.query_ids == query.id) & (found.image_ids == image_id)
            best = found.boxes[rows][found.scores[rows].argmax()]
            # Even kernels have their centre between cells: half a cell is the precision.
            assert np.abs(best - [x, y, x + SIDE, y + SIDE]).max() <= 8
    metrics = evaluate_regions(world.protocol, lists_by_score(found, world.queries))
    assert metrics["ins/global/rank-1@IoU0.5"] == 100


def test_a_local_search_stays_near_the_place_of_the_query(world) -> None:
    found = _local_search(0.5).find(world.queries, world.gallery)
    assert len(found) == len(world.queries) * len(world.gallery)
    by_id = {one.id: one.primary.box for one in world.queries}
    for query_id, box in zip(found.query_ids.tolist(), found.boxes):
        x0, y0, x1, y1 = by_id[query_id]
        distance = np.array([(x0 + x1) / 2, (y0 + y1) / 2]) - (box[:2] + box[2:]) / 2
        # Half of 32 pixels, a cell for its centre, and what the border cuts off.
        assert np.abs(distance).max() <= 16 + 8 + 8


def test_lists_by_score_are_those_of_a_loop(world) -> None:
    rng = np.random.default_rng(1)
    corner = rng.integers(0, 50, (40, 2))
    found = Found(
        rng.choice([3, 7], 40),
        rng.integers(0, 5, 40),
        np.concatenate([corner, corner + 9], axis=1).astype(np.float32),
        rng.integers(0, 4, 40).astype(np.float32) / 4,
    )
    nobody = Query(11, world.queries[0].references)
    lists = lists_by_score(found, [*world.queries, nobody])
    assert list(lists) == [7, 3, 11] and len(lists[11]) == 0
    for query_id in (3, 7):
        rows = [row[1:] for row in _rows(found) if row[0] == query_id]
        expected = sorted(rows, key=lambda row: (-row[-1], row[0], row[1:-1]))
        one = lists[query_id]
        got = zip(one.image_ids.tolist(), one.boxes.tolist(), one.localizer_scores.tolist())
        assert [(image, *box, score) for image, box, score in got] == expected
        assert np.array_equal(one.similarities, one.localizer_scores)


def test_what_cannot_be_built_says_what_is_missing(tmp_path) -> None:
    cfg = get_cfg()
    with pytest.raises(ValueError, match="SEARCH.DETECTOR.CONFIG_FILE is not set"):
        build_baseline("detector", cfg, tmp_path / "none.pth", 20)
    with pytest.raises(ValueError, match="'magic' is no localizer"):
        build_baseline("magic", cfg, tmp_path / "none.pth", 20)
    assert {"edge_boxes", "selective_search", "detector", "whole_image"} < set(BASELINES)


def test_weights_are_those_of_the_last_judged_round(tmp_path) -> None:
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)

    def put(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    with pytest.raises(FileNotFoundError, match="--ranker-weights"):
        cycle_weights(cfg, "ranker")
    cfg.CST.RANKER.WEIGHTS = str(put(tmp_path / "given.pth"))
    assert cycle_weights(cfg, "ranker") == tmp_path / "given.pth"
    pretrained = put(tmp_path / "pretrained" / "localizer" / "localizer.pth")
    assert cycle_weights(cfg, "localizer") == pretrained
    first, _ = (put(tmp_path / f"rounds/0{r}/localizer/localizer.pth") for r in (1, 2))
    # Round 2 is still running.
    publish_directory(tmp_path / "rounds" / "01" / "metrics", lambda path: None, {})
    assert cycle_weights(cfg, "localizer") == first
    assert cycle_weights(cfg, "ranker") == tmp_path / "given.pth"
