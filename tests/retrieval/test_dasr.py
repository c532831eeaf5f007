"""DASR and the grid: regions, what they find, and how they are cut out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torchvision.ops import box_iou

from spil_d2.backbones import EfficientNetLite
from spil_d2.retrieval import DASR, Grid, SearchEngine, build_index, embed_queries, search
from spil_d2.retrieval.engines import DASRFast
from spil_d2.retrieval.engines import dasr as dasr_module
from spil_d2.retrieval.engines.dasr import PeakResponse
from spil_d2.structures import Query, Reference

SIZE = (160, 224)  # height, width
_COLOURS = [(220, 40, 30), (30, 60, 210), (240, 220, 40), (250, 250, 250), (20, 160, 60)]


@pytest.fixture(scope="module")
def dasr() -> DASR:
    features = ("stem", "c2", "c3", "c5", "head")
    backbone = EfficientNetLite(variant="lite0", out_features=features)
    return DASR(
        backbone=backbone, response_layer="head", descriptor_layers=["head"], longer_side=448
    )


@pytest.fixture(scope="module")
def grid() -> Grid:
    backbone = EfficientNetLite(variant="lite0", out_features=("c5",))
    return Grid(backbone=backbone, descriptor_layers=["c5"], longer_side=224)


def plant(seed: int, box: tuple[int, int, int, int], shade: int = 120) -> np.ndarray:
    """A plain grey picture with a bright square-tiled object, the same for the same seed."""
    rng = np.random.default_rng(seed)
    tiles = np.array(_COLOURS, np.uint8)[rng.integers(0, len(_COLOURS), (4, 4))]
    x0, y0, x1, y1 = box
    image = np.full((*SIZE, 3), shade, np.uint8)
    image[y0:y1, x0:x1] = np.asarray(Image.fromarray(tiles).resize((x1 - x0, y1 - y0), 0))
    return image


def write_gallery(folder: Path) -> list[dict]:
    boxes = [(20, 30, 90, 100), (120, 60, 190, 130), (60, 50, 130, 120), (130, 20, 200, 90)]
    gallery = []
    for image_id, (seed, box) in enumerate(zip((1, 2, 3, 4), boxes), 10):
        file_name = str(folder / f"{image_id}.png")
        Image.fromarray(plant(seed, box)).save(file_name)
        gallery.append({"file_name": file_name, "image_id": image_id, "box": box})
    return gallery


def as_query(item: dict, image_id: int | None) -> Query:
    return Query(5, (Reference(item["file_name"], SIZE[1], SIZE[0], item["box"], image_id),))


@pytest.mark.parametrize(("stop_at", "least"), [("input", 0.5), ("c2", 0.3)])
def test_finds_a_planted_object(dasr: DASR, stop_at: str, least: float) -> None:
    engine = DASR(
        backbone=dasr.backbone,
        response_layer="head",
        descriptor_layers=["head"],
        longer_side=448,
        stop_at=stop_at,
    )
    box = (60, 40, 140, 120)
    regions = engine.regions([plant(3, box)])[0]
    ious = box_iou(torch.from_numpy(regions.boxes), torch.tensor([box]).float())
    assert ious.max() > least
    assert (regions.boxes[:, 2:] <= np.array(SIZE[::-1])).all() and (regions.boxes >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(regions.embeddings, axis=1), 1, rtol=1e-4)


@pytest.mark.parametrize("name", ["coffee", "chelsea"])
def test_detail_of_the_stem_brings_boxes_near_those_of_the_pixels(dasr: DASR, name: str) -> None:
    settings = {"backbone": dasr.backbone, "response_layer": "head", "descriptor_layers": ["head"]}
    coarse = DASR(**settings, longer_side=448, stop_at="c3")
    fast = DASRFast(**settings, longer_side=448, stop_at="c3", detail_layer=DASRFast.DETAIL_LAYER)
    found = dasr.respond(getattr(skimage.data, name)())
    exact = dasr.trace(found)
    coarse_iou, fast_iou = (
        float(box_iou(exact, engine.trace(found)).diagonal().mean()) for engine in (coarse, fast)
    )
    assert fast_iou > 0.85
    assert fast_iou > coarse_iou + 0.1


def test_detail_is_for_relevance_that_stops_early(dasr: DASR) -> None:
    with pytest.raises(ValueError, match="stops early"):
        DASRFast(
            backbone=dasr.backbone,
            response_layer="head",
            descriptor_layers=["head"],
            detail_layer="stem",
        )


@pytest.mark.parametrize("name", ["dasr", "grid"])
def test_identical_picture_ranks_first_unless_it_is_the_query_s_own(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    engine: SearchEngine = request.getfixturevalue(name)
    gallery = write_gallery(tmp_path)
    done: list[tuple[int, int]] = []
    index = build_index(engine, gallery, lambda *counts: done.append(counts))
    assert done[-1] == (4, 4)
    assert search(engine, index, [as_query(gallery[2], None)], 4)[5].image_ids[0] == 12
    own = search(engine, index, [as_query(gallery[2], 12)], 4)[5]
    assert sorted(own.image_ids.tolist()) == [10, 11, 13]


def test_permuting_the_gallery_keeps_the_rank_list(grid: Grid, tmp_path: Path) -> None:
    gallery = write_gallery(tmp_path)
    query = as_query(gallery[0], None)
    straight = search(grid, build_index(grid, gallery), [query], 4)[5]
    turned = search(grid, build_index(grid, gallery[::-1]), [query], 4)[5]
    np.testing.assert_array_equal(straight.image_ids, turned.image_ids)
    np.testing.assert_allclose(straight.similarities, turned.similarities, atol=1e-3)


def test_several_references_are_averaged(grid: Grid, tmp_path: Path) -> None:
    gallery = write_gallery(tmp_path)
    single = [as_query(item, None) for item in gallery[:2]]
    both = Query(1, tuple(query.references[0] for query in single))
    one, two, mean = embed_queries(grid, [*single, both])
    np.testing.assert_allclose(mean, (one + two) / np.linalg.norm(one + two), atol=1e-5)


def test_nms_variant_has_no_overlap(dasr: DASR) -> None:
    engine = DASR(
        backbone=dasr.backbone,
        response_layer="head",
        descriptor_layers=["c5"],
        longer_side=448,
        stop_at="c2",
        nms_variant=True,
    )
    boxes = torch.from_numpy(engine.regions([plant(1, (20, 20, 90, 90))])[0].boxes)
    ious = box_iou(boxes, boxes) - torch.eye(len(boxes))
    assert ious.max() <= 0.3 + 1e-5


def test_grid_has_19_regions_and_batches_are_single_pictures(grid: Grid) -> None:
    images = [
        plant(1, (20, 30, 90, 100)),
        plant(2, (20, 30, 90, 100))[:, :160],
        plant(3, (9, 9, 80, 80)),
    ]
    together = grid.regions(images)
    for image, found in zip(images, together):
        assert found.boxes.shape == (19, 4)
        np.testing.assert_allclose(found.embeddings, grid.regions([image])[0].embeddings, atol=1e-4)


def test_unreadable_picture_is_named(grid: Grid, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="broken.jpg"):
        build_index(grid, [{"file_name": str(broken), "image_id": 1}])


def test_unknown_layer_is_named(grid: Grid) -> None:
    with pytest.raises(ValueError, match="no feature 'res9'"):
        Grid(backbone=grid.backbone, descriptor_layers=["res9"])


def test_a_box_is_the_mean_and_two_deviations_of_the_top_pixels_by_loops(
    dasr: DASR, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the sum over channels, where it is > 0, in a map of 12 x 20 cells."""
    generator = torch.Generator().manual_seed(0)
    relevance = torch.randn(4, 3, 12, 20, generator=generator)
    monkeypatch.setattr(dasr_module, "peak_relevance", lambda *_, **__: relevance)
    found = PeakResponse(SIZE, torch.zeros(0), {}, torch.zeros(1, 4, 4), torch.zeros(4, 2))
    for box, maps in zip(dasr.trace(found), relevance.double()):
        saliency = (maps[0] + maps[1] + maps[2]).tolist()
        # 12 of 240 cells are 5 %.
        least = sorted(value for row in saliency for value in row)[-12]
        kept = [
            (y, x)
            for y, row in enumerate(saliency)
            for x, value in enumerate(row)
            if value >= least and value > 0
        ]
        sides = []
        for axis, length, pixels in ((1, 20, SIZE[1]), (0, 12, SIZE[0])):
            centres = [cell[axis] + 0.5 for cell in kept]
            mean = sum(centres) / len(centres)
            # A cell is as wide as it is: uniform over 1, it has the variance 1 / 12 itself.
            variance = sum((c - mean) ** 2 for c in centres) / len(centres) + 1 / 12
            low, high = mean - 2 * variance**0.5, mean + 2 * variance**0.5
            scale = pixels / length
            sides.append((max(low, 0.0) * scale, min(high, float(length)) * scale))
        by_loops = [sides[0][0], sides[1][0], sides[0][1], sides[1][1]]
        np.testing.assert_allclose(box.numpy(), by_loops, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_dasr_star_keeps_the_highest_peaks_by_a_greedy_loop(
    dasr: DASR, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    engine = DASR(
        backbone=dasr.backbone,
        response_layer="head",
        descriptor_layers=["head"],
        nms_variant=True,
    )
    generator = torch.Generator().manual_seed(seed)
    corners = 30 * torch.rand(16, 2, generator=generator)
    boxes = torch.cat([corners, corners + 10 + 30 * torch.rand(16, 2, generator=generator)], dim=1)
    response = torch.rand(1, 4, 4, generator=generator)
    peaks = torch.tensor([[i // 4, i % 4] for i in range(16)])
    found = PeakResponse(SIZE, torch.zeros(0), {}, response, peaks)
    monkeypatch.setattr(engine, "respond", lambda image: found)
    monkeypatch.setattr(engine, "trace", lambda one: boxes)
    monkeypatch.setattr(engine, "_pool", lambda *given: np.ones((len(given[2]), 1), np.float32))
    values = response.flatten().tolist()
    kept: list[int] = []
    for i in sorted(range(16), key=lambda i: -values[i]):
        if all(float(box_iou(boxes[i][None], boxes[j][None])) <= 0.3 for j in kept):
            kept.append(i)
    assert 1 < len(kept) < 16
    (regions,) = engine.regions([np.zeros((*SIZE, 3), np.uint8)])
    np.testing.assert_array_equal(regions.boxes, boxes[kept].numpy())
    np.testing.assert_array_equal(regions.saliency, np.array(values, np.float32)[kept])
