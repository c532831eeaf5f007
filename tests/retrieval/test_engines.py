"""What the engines other than DASR promise; tiny random networks wherever weights do not matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import Tensor, nn

from spil_d2 import get_cfg
from spil_d2.backbones import TimmViT
from spil_d2.retrieval import Whitening, build_index, build_search_engine, search
from spil_d2.retrieval.engines import (
    CAM,
    RMAC,
    SEARCH_ENGINE_REGISTRY,
    CroW,
    Detector,
    GlobalPool,
    Grid,
    LocalizingEngine,
    SearchEngine,
    ViT,
)
from spil_d2.retrieval.engines.grid import grid_boxes
from spil_d2.retrieval.pooling import rmac_regions
from spil_d2.structures import Query, Reference

CHANNELS, STRIDE, SIDE = 12, 16, 128
LITE = {
    "SEARCH.BACKBONE": "build_efficientnet_lite_backbone",
    "MODEL.EFFICIENTNET.VARIANT": "lite0",
}


class Patches(Backbone):
    """A random but fixed rectified projection of 16-pixel patches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, CHANNELS, STRIDE, STRIDE)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"map": self.layer(x).relu()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"map": ShapeSpec(channels=CHANNELS, stride=STRIDE)}


def common(pooling: str = "mean", **changes: object) -> dict:
    return {
        "backbone": Patches(),
        "descriptor_layers": ["map"],
        "poolings": [pooling],
        "longer_side": SIDE,
        **changes,
    }


def cam(**changes: object) -> CAM:
    torch.manual_seed(1)
    weight, bias = torch.randn(9, CHANNELS), torch.randn(9)
    settings = {"weight": weight, "bias": bias, "num_classes": 4, **changes}
    return CAM(**common(), **settings)


class BrightBlocks(nn.Module):
    """A stand-in for a detector: the left and right halves, and a box of no area."""

    def __init__(self, scores: tuple[float, ...] = (0.9, 0.5, 0.8), masks: bool = True) -> None:
        super().__init__()
        self.scores, self.masks = scores, masks
        self.seen: list[Tensor] = []

    def forward(self, inputs: list[dict]) -> list[dict]:
        self.seen.append(inputs[0]["image"])
        height, width = inputs[0]["height"], inputs[0]["width"]
        found = Instances((height, width))
        half = width // 2
        found.pred_boxes = Boxes(
            torch.tensor([[0, 0, half, height], [half, 0, width, height], [5, 5, 5, 9]]).float()
        )
        found.scores = torch.tensor(self.scores)
        if self.masks:
            masks = torch.zeros(3, height, width, dtype=torch.bool)
            masks[0, : height // 2, :half] = True
            masks[1, :, half:] = True
            found.pred_masks = masks
        return [{"instances": found}]


ENGINES = {
    "GlobalPool": lambda: GlobalPool(**common("spoc")),
    "CroW": lambda: CroW(**common("crow")),
    "RMAC": lambda: RMAC(**common("max")),
    "CAM": cam,
    "Grid": lambda: Grid(**common("gem")),
    "Detector": lambda: Detector(detector=BrightBlocks(), **common()),
    "Detector masks": lambda: Detector(detector=BrightBlocks(), masks=True, **common()),
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> SearchEngine:
    return ENGINES[request.param]()


def picture(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(tiles).resize((width, height), Image.Resampling.NEAREST))


def test_regions_and_queries_live_in_one_space(engine: SearchEngine) -> None:
    images = [picture(1), picture(2, 128, 96), picture(3), picture(4, 50, 300)]
    for image, found in zip(images, engine.regions(images)):
        height, width = image.shape[:2]
        norms = np.linalg.norm(found.embeddings, axis=1)
        np.testing.assert_allclose(norms, 1, rtol=1e-4)
        assert found.boxes.dtype == found.saliency.dtype == np.float32
        assert (found.boxes[:, :2] >= 0).all()
        assert (found.boxes[:, 2:] <= [width, height]).all()
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
        alone = engine.regions([image])[0]
        np.testing.assert_allclose(found.embeddings, alone.embeddings, atol=1e-5)
        if not getattr(engine, "masks", False):
            embedded = engine.embed(image, found.boxes)
            np.testing.assert_allclose(embedded, found.embeddings, atol=1e-5)


def test_every_engine_of_the_issue_is_registered() -> None:
    names = {"DASR", "Grid", "GlobalPool", "CroW", "RMAC", "CAM", "Detector", "ViT"}
    assert names <= {name for name, _ in SEARCH_ENGINE_REGISTRY}


def write_gallery(folder: Path, count: int = 4) -> list[dict]:
    gallery = []
    for image_id in range(count):
        path = folder / f"{image_id}.png"
        Image.fromarray(picture(image_id)).save(path)
        gallery.append({"file_name": str(path), "image_id": image_id})
    return gallery


def test_an_equal_picture_ranks_first(engine: SearchEngine, tmp_path: Path) -> None:
    gallery = write_gallery(tmp_path)
    box = (0.0, 0.0, 128.0, 96.0)
    if getattr(engine, "masks", False):
        box = (64.0, 0.0, 128.0, 96.0)  # The mask of this half is all of it.
    query = Query(7, (Reference(gallery[2]["file_name"], 128, 96, box),))
    lists = search(
        engine,
        build_index(engine, gallery),
        [query],
        4,
        read_image=lambda image_id: picture(image_id),
    )
    assert lists[7].image_ids[0] == 2
    assert lists[7].similarities[0] == pytest.approx(1, abs=2e-3)
    assert (lists[7].boxes[:, 2:] > lists[7].boxes[:, :2]).all()


@pytest.mark.parametrize("name", ["RMAC", "CAM"])
def test_localizing_engines_are_asked_for_each_picture_once(name: str, tmp_path: Path) -> None:
    engine = ENGINES[name]()
    assert isinstance(engine, LocalizingEngine)
    gallery = write_gallery(tmp_path)
    boxes = [(0.0, 0.0, 64.0, 48.0), (32.0, 32.0, 112.0, 96.0)]
    queries = [
        Query(i, (Reference(gallery[0]["file_name"], 128, 96, box, image_id=0),))
        for i, box in enumerate(boxes)
    ]
    read: list[int] = []

    def read_image(image_id: int) -> np.ndarray:
        read.append(image_id)
        return picture(image_id)

    index = build_index(engine, gallery)
    with pytest.raises(ValueError, match="needs read_image"):
        search(engine, index, queries, 3)
    lists = search(engine, index, queries, 3, read_image=read_image)
    assert sorted(read) == [1, 2, 3]
    cues = engine.cues(picture(0), np.array(boxes, np.float32))
    for query, cue in zip(queries, cues):
        for image_id, box in zip(lists[query.id].image_ids.tolist(), lists[query.id].boxes):
            np.testing.assert_allclose(box, engine.localize(picture(image_id), [cue])[0])


def test_rmac_is_the_sum_of_whitened_maxima() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, CHANNELS)).astype(np.float32)
    whitening = Whitening.fit(rows / np.linalg.norm(rows, axis=1, keepdims=True), 6)
    engine = RMAC(**common("max", whitening=whitening))
    image = picture(5)
    feature_map = engine.backbone(engine._prepare(image))["map"][0].detach().numpy()
    assert feature_map.shape == (CHANNELS, 6, 8)
    total = np.zeros(6)
    for x0, y0, x1, y1 in rmac_regions(6, 8).tolist():
        vector = feature_map[:, y0:y1, x0:x1].max(axis=(1, 2))
        vector = (vector / np.linalg.norm(vector) - whitening.mean) @ whitening.projection
        total += vector / np.linalg.norm(vector)
    found = engine.regions([image])[0].embeddings[0]
    np.testing.assert_allclose(found, total / np.linalg.norm(total), rtol=1e-3, atol=1e-5)


class Colours(Patches):
    """The means of red, green and blue in 16-pixel patches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.AvgPool2d(STRIDE)
        self.unused = nn.Parameter(torch.zeros(1))

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"map": ShapeSpec(channels=3, stride=STRIDE)}


def test_rmac_finds_the_query_s_colour_in_a_picture_of_another_size() -> None:
    plain = {"pixel_mean": [0, 0, 0], "pixel_std": [1, 1, 1], "longer_side": 256}
    engine = RMAC(**common("max", **plain) | {"backbone": Colours()})
    query, target = (np.zeros(size, np.uint8) for size in ((192, 256, 3), (384, 512, 3)))
    query[:, :, 1] = target[:, :, 1] = 200
    query[32:128, 32:128] = (200, 0, 0)
    target[160:352, 288:480] = (200, 0, 0)
    cues = engine.cues(query, np.array([[32, 32, 128, 128], [140, 20, 236, 116]], np.float32))
    (x0, y0, x1, y1), green = engine.localize(target, cues)
    # Every window on the red square is as good as another; none may reach out of it.
    assert 288 <= x0 < x1 <= 480 and 160 <= y0 < y1 <= 352
    assert green[2] <= 288 or green[3] <= 160 or green[0] >= 480 or green[1] >= 352


def test_rmac_pools_one_map() -> None:
    engine = RMAC(
        **common(descriptor_layers=["map", "map"], layer_weights=[0.5, 0.5])
        | {"poolings": ["max", "max"]}
    )
    with pytest.raises(ValueError, match="RMAC pools one map"):
        engine.regions([picture(0)])


def test_cam_against_loops() -> None:
    engine, image = cam(), picture(6)
    feature_map = engine.backbone(engine._prepare(image))["map"][0].detach().double().numpy()
    weight, bias = engine.weight.double().numpy(), engine.bias.double().numpy()
    channels, height, width = feature_map.shape
    scores = [weight[c] @ feature_map.mean(axis=(1, 2)) + bias[c] for c in range(len(weight))]
    filled = (feature_map != 0).mean(axis=(1, 2))
    importance = [np.log(filled.sum() / q) if q else 0.0 for q in filled]
    total = np.zeros(channels)
    for c in sorted(range(len(weight)), key=lambda c: -scores[c])[:4]:
        activation = sum(weight[c, k] * feature_map[k] for k in range(channels))
        activation = (activation - activation.min()) / (activation.max() - activation.min())
        vector = np.array(
            [importance[k] * (activation * feature_map[k]).sum() for k in range(channels)]
        )
        total += vector / np.linalg.norm(vector)
    found = engine.regions([image])[0].embeddings[0]
    np.testing.assert_allclose(found, total / np.linalg.norm(total), rtol=1e-3, atol=1e-5)


def test_cam_refuses_more_classes_than_there_are() -> None:
    with pytest.raises(ValueError, match="1 ... 9"):
        cam(num_classes=10)


def test_cam_takes_the_classifier_of_its_backbone() -> None:
    cfg = get_cfg()
    cfg.merge_from_list([x for pair in LITE.items() for x in pair])
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "SEARCH.ENGINE", "CAM", "INPUT.FORMAT", "RGB"])
    engine = build_search_engine(cfg)
    assert engine.layer == "head" and engine.weight.shape == (1000, 1280)
    cfg.SEARCH.BACKBONE = "build_resnet_backbone"
    with pytest.raises(ValueError, match="hold no classifier"):
        build_search_engine(cfg)


@pytest.mark.parametrize(("fmt", "first"), [("RGB", 200), ("BGR", 20)])
def test_detector_sees_its_own_channels_and_size(fmt: str, first: int) -> None:
    detector = BrightBlocks()
    engine = Detector(detector=detector, detector_format=fmt, min_size=48, max_size=60, **common())
    image = np.zeros((96, 128, 3), np.uint8)
    image[:] = (200, 100, 20)
    engine.regions([image])
    assert detector.seen[0].shape == (3, 45, 60) and detector.seen[0][0, 0, 0] == first


def test_detections_are_cut_by_score_and_number_and_empty_ones_left_out() -> None:
    def boxes(**settings: object) -> np.ndarray:
        return Detector(detector=BrightBlocks(), **settings, **common()).regions([picture(0)])[0]

    assert len(boxes().boxes) == 3
    np.testing.assert_allclose(boxes().saliency, [0.9, 0.5, 0])
    assert len(boxes(max_regions=1).boxes) == 2
    assert len(boxes(score_threshold=0.95).boxes) == 1  # The whole picture stays.


def test_masks_leave_the_background_out() -> None:
    image = picture(9)
    engine = Detector(detector=BrightBlocks(), masks=True, **common())
    found = engine.regions([image])[0]
    top_left = engine.embed(image, np.array([[0, 0, 64, 48]], np.float32))
    np.testing.assert_allclose(found.embeddings[:1], top_left, atol=1e-5)
    with pytest.raises(ValueError, match="'mean' or 'gem'"):
        Detector(detector=BrightBlocks(), masks=True, **common("max"))
    with pytest.raises(ValueError, match="finds no masks"):
        Detector(detector=BrightBlocks(masks=False), masks=True, **common()).regions([image])


timm = pytest.importorskip("timm", reason="the ViT engine is an extra: pip install timm")
TINY_VIT = "test_vit"


def test_vit_pools_the_patch_tokens_under_the_windows() -> None:
    torch.manual_seed(0)
    backbone = TimmViT(TINY_VIT, weights=None)
    engine = ViT(
        backbone=backbone,
        descriptor_layers=["patches"],
        longer_side=128,
        scales=[(0.5, 2)],
        pixel_mean=backbone.pixel_mean,
        pixel_std=backbone.pixel_std,
    )
    image = picture(8)
    found = engine.regions([image])[0]
    assert len(found.boxes) == 5
    tokens = backbone.network.forward_features(engine._prepare(image))[0].detach().numpy()
    tokens = tokens[backbone.network.num_prefix_tokens :]
    patch = backbone.size_divisibility
    cells = tokens.reshape(96 // patch, 128 // patch, -1)
    for box, embedding in zip(found.boxes / patch, found.embeddings):
        x0, y0, x1, y1 = (*np.floor(box[:2]).astype(int), *np.ceil(box[2:]).astype(int))
        mean = cells[y0:y1, x0:x1].reshape(-1, cells.shape[-1]).mean(axis=0)
        np.testing.assert_allclose(embedding, mean / np.linalg.norm(mean), atol=1e-4)


def test_vit_reads_its_checkpoint_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = timm.create_model(TINY_VIT, num_classes=0)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "SEARCH.ENGINE", "ViT", "SEARCH.LONGER_SIDE", 128])
    cfg.merge_from_list(["SEARCH.VIT.MODEL", TINY_VIT, "SEARCH.GRID.SCALES", [[0.5, 2]]])
    cfg.SEARCH.VIT.WEIGHTS = str(tmp_path / "vit.pth")
    engine = build_search_engine(cfg)
    for name, value in engine.backbone.network.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name])
    cfg.SEARCH.VIT.WEIGHTS = str(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match=r"none\.pth.*or '' to download"):
        build_search_engine(cfg)
    cfg.SEARCH.VIT.WEIGHTS = ""

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(FileNotFoundError, match="copy the file here and set SEARCH.VIT.WEIGHTS"):
        build_search_engine(cfg)
    cfg.SEARCH.VIT.MODEL = "vit_that_is_not"
    with pytest.raises(ValueError, match="vit_that_is_not"):
        build_search_engine(cfg)


def test_grid_scales_are_checked_and_used() -> None:
    assert len(grid_boxes()) == 19
    assert len(grid_boxes([(2 / 3, 3), (1 / 2, 3), (1 / 3, 5)])) == 44
    with pytest.raises(ValueError, match="SEARCH.GRID.SCALES"):
        grid_boxes([(1.5, 2)])
