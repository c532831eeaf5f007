"""Proposals: what every source keeps to, and that the sources find something."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from skimage import data
from torch import nn

from spil_d2.config import get_cfg
from spil_d2.ops.numpy_boxes import paired_iou
from spil_d2.retrieval.proposals import (
    PROPOSAL_REGISTRY,
    DetectorProposals,
    EdgeBoxes,
    Grid,
    ProposalSource,
    SelectiveSearch,
    SlidingWindow,
    WholeImage,
    build_proposal_source,
)
from spil_d2.retrieval.proposals.edge_boxes import thinned_gradients
from spil_d2.retrieval.proposals.selective_search import coarse_first

needs_ximgproc = pytest.mark.skipif(
    not hasattr(cv2, "ximgproc"), reason="this OpenCV has no ximgproc (opencv-contrib)"
)


class FakeDetector(nn.Module):
    """Two boxes wherever it looks; it remembers what it was given."""

    def forward(self, inputs: list[dict]) -> list[dict]:
        self.seen = inputs[0]
        found = Instances((inputs[0]["height"], inputs[0]["width"]))
        found.pred_boxes = Boxes(torch.tensor([[5.0, 5, 25, 35], [1, 1, 500, 20], [0, 0, 9, 9]]))
        found.scores = torch.tensor([0.3, 0.9, 0.01])
        return [{"instances": found}]


def _picture() -> np.ndarray:
    return cv2.resize(data.astronaut(), (160, 120), interpolation=cv2.INTER_AREA)


def _square() -> np.ndarray:
    """A red square on grey, at x 60 to 110 and y 30 to 80."""
    image = np.full((120, 160, 3), 128, np.uint8)
    image[30:80, 60:110] = (200, 30, 30)
    return image


SOURCES: dict[str, ProposalSource] = {
    "whole_image": WholeImage(),
    "grid": Grid(),
    "sliding_window": SlidingWindow(),
    "detector": DetectorProposals(detector=FakeDetector()),
}
if hasattr(cv2, "ximgproc"):
    SOURCES["edge_boxes"] = EdgeBoxes(max_boxes=30)
    SOURCES["selective_search"] = SelectiveSearch(max_boxes=30, min_side=12.0)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_keeps_to_the_contract(name: str) -> None:
    source, image = SOURCES[name], _picture()
    boxes, scores = source(image)
    assert boxes.dtype == scores.dtype == np.float32
    assert 0 < len(boxes) == len(scores) <= source.max_boxes and boxes.shape[1] == 4
    assert (np.diff(scores) <= 0).all() and (scores > 0).all()
    assert boxes.min() >= 0 and (boxes <= [160, 120, 160, 120]).all()
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= (12 if name == "selective_search" else 10)
    for _ in range(2):
        again = source(image)
        assert np.array_equal(again[0], boxes) and np.array_equal(again[1], scores)


@pytest.mark.parametrize("image", [np.zeros((8, 9), np.uint8), np.zeros((8, 9, 3))])
def test_another_array_than_a_picture_is_an_error(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        WholeImage()(image)


@needs_ximgproc
@pytest.mark.parametrize(
    "source",
    [
        EdgeBoxes(max_boxes=10, min_box_area=100.0),
        EdgeBoxes(max_boxes=10, min_box_area=100.0, longer_side=100),
        SelectiveSearch(max_boxes=10),
        SelectiveSearch(max_boxes=10, longer_side=80),
    ],
)
def test_an_object_that_stands_out_is_found(source: ProposalSource) -> None:
    boxes, _ = source(_square())
    truth = np.tile(np.array([60, 30, 110, 80], np.float32), (len(boxes), 1))
    assert paired_iou(boxes, truth).max() > 0.75


@needs_ximgproc
@pytest.mark.parametrize("source", [EdgeBoxes(), SelectiveSearch()])
def test_an_even_picture_is_no_failure(source: ProposalSource) -> None:
    boxes, scores = source(np.full((60, 80, 3), 77, np.uint8))
    assert len(boxes) == len(scores) <= 1


def test_gradient_edges_are_thin_and_point_across_the_edge() -> None:
    strength, orientation = thinned_gradients(_square())
    assert strength.dtype == orientation.dtype == np.float32
    assert strength.min() == 0 and strength.max() == 1
    assert orientation.min() >= 0 and orientation.max() < np.pi
    # The left border runs down, so the direction across it is 0 (or pi); the upper one's is pi/2.
    assert 1 <= (strength[55, 50:70] > 0.1).sum() <= 2
    x = 50 + int(strength[55, 50:70].argmax())
    assert abs(np.sin(orientation[55, x])) < 0.05 and abs(x - 60) <= 1
    y = 20 + int(strength[20:40, 85].argmax())
    assert abs(np.cos(orientation[y, 85])) < 0.05 and abs(y - 30) <= 1


def test_the_order_of_selective_search_ignores_the_order_it_is_given() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (200, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 50, (200, 2))], axis=1)
    first = coarse_first(boxes, 0)
    assert np.array_equal(first, coarse_first(boxes[::-1], 0))
    assert not np.array_equal(first, coarse_first(boxes, 1))
    assert sorted(map(tuple, first)) == sorted(map(tuple, boxes))
    area = (first[:, 2:] - first[:, :2]).prod(axis=1)
    assert area[:50].mean() > 1.5 * area[150:].mean()


def test_a_missing_ximgproc_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "ximgproc", raising=False)
    for source in (EdgeBoxes(), SelectiveSearch()):
        with pytest.raises(ImportError, match="pip install opencv-contrib-python-headless"):
            source(_picture())


def test_a_missing_forest_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="EDGE_BOXES.MODEL 'nowhere.yml.gz'"):
        EdgeBoxes(model="nowhere.yml.gz")


def test_the_whole_image_is_one_box() -> None:
    boxes, scores = WholeImage()(np.zeros((1, 7, 3), np.uint8))
    assert boxes.tolist() == [[0, 0, 7, 1]] and scores.tolist() == [1]


def test_sliding_windows_cover_the_picture_and_fit_into_it() -> None:
    source = SlidingWindow(sizes=(40,), ratios=(1.0, 4.0), stride=0.5, max_boxes=1000)
    boxes, scores = source(np.zeros((90, 130, 3), np.uint8))
    sides = {tuple(side) for side in (boxes[:, 2:] - boxes[:, :2]).round(3).tolist()}
    assert sides == {(40, 40), (20, 80)}
    squares = boxes[np.isclose(boxes[:, 2] - boxes[:, 0], 40)]
    assert sorted(set(squares[:, 0].tolist())) == [0, 20, 40, 60, 80, 90]
    assert sorted(set(squares[:, 1].tolist())) == [0, 20, 40, 50]
    assert scores.tolist() == pytest.approx([1600 / 11700] * len(scores))
    assert len(np.unique(boxes, axis=0)) == len(boxes)


def test_windows_larger_than_the_picture_are_left_out() -> None:
    boxes, _ = SlidingWindow(sizes=(20, 500), ratios=(1.0,))(np.zeros((20, 20, 3), np.uint8))
    assert boxes.tolist() == [[0, 0, 20, 20]]


def test_detections_are_cut_by_score_and_clipped() -> None:
    detector = FakeDetector()
    source = DetectorProposals(detector=detector, min_size=240, max_size=400)
    image = _picture()
    image[..., 0] = 255
    boxes, scores = source(image)
    assert boxes.tolist() == [[1, 1, 160, 20], [5, 5, 25, 35]]
    assert scores.tolist() == pytest.approx([0.9, 0.3])
    # BGR: red comes last.
    assert detector.seen["image"].shape == (3, 240, 320)
    assert detector.seen["image"][2].min() == 255


def test_the_registry_builds_what_the_configuration_says() -> None:
    cfg = get_cfg()
    cfg.CST.PROPOSALS.MAX_BOXES = 7
    cfg.CST.PROPOSALS.SLIDING_WINDOW.SIZES = [30]
    assert {name for name, _ in PROPOSAL_REGISTRY} == {
        "detector",
        "edge_boxes",
        "grid",
        "selective_search",
        "sliding_window",
        "whole_image",
    }
    kinds = {"edge_boxes": EdgeBoxes, "selective_search": SelectiveSearch, "grid": Grid}
    for name, kind in kinds.items():
        source = build_proposal_source(cfg, name)
        assert type(source) is kind and source.max_boxes == 7
    boxes, _ = build_proposal_source(cfg, "sliding_window")(_picture())
    assert len(boxes) == 7 and (boxes[:, 2] - boxes[:, 0]).max() < 45
    with pytest.raises(ValueError, match="'edges' is no source.*selective_search"):
        build_proposal_source(cfg, "edges")
    with pytest.raises(ValueError, match="SEARCH.DETECTOR.CONFIG_FILE"):
        build_proposal_source(cfg, "detector")
