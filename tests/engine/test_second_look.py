"""Second pass and other boxes over many images, in the frame of the stored pictures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from spil_d2.data.crops import CropGeometry
from spil_d2.engine.localizer import Localizer, LocalizerSettings
from spil_d2.engine.second_look import find_other_boxes, refine_boxes
from spil_d2.structures import (
    Candidate,
    Query,
    QueryPool,
    RankList,
    RankLists,
    Reference,
    SamplePool,
    Target,
)

from .pixel_model import PixelModel

HEIGHT, WIDTH = 40, 60
BOX = (10.0, 10.0, 30.0, 30.0)


class Model(PixelModel):
    """Moves boxes by what the kernel says, and always finds three."""

    def refine(self, features, kernel, boxes, image_sizes) -> torch.Tensor:
        # The picture's value, and the kernel's, say whose box this is.
        return boxes + kernel + features["pixels"][0, 0, 0, 0]

    def detect(self, features, kernel, image_sizes, with_masks) -> list[Instances]:
        boxes = torch.tensor([[20.0, 20, 60, 60], [0, 0, 10, 10], [80, 40, 100, 60]])
        return [
            Instances(
                image_sizes[0], pred_boxes=Boxes(boxes + k), scores=torch.tensor([0.9, 0.6, p])
            )
            for k, p in ((float(k), 0.3 + 0.01 * float(k)) for k in kernel[:, 0])
        ]


@pytest.fixture(scope="module")
def localizer(tmp_path_factory) -> Localizer:
    """Of three pictures with the values 1, 2 and 3, seen at twice their size."""
    folder = tmp_path_factory.mktemp("pictures")
    gallery = []
    for i in (1, 2, 3):
        name = str(folder / f"{i}.png")
        cv2.imwrite(name, np.full((HEIGHT, WIDTH, 3), i, np.uint8))
        gallery.append({"image_id": i, "file_name": name})
    queries = [Query(q, (Reference(gallery[0]["file_name"], WIDTH, HEIGHT, BOX),)) for q in (7, 8)]
    settings = LocalizerSettings(
        CropGeometry(size=32, context=4), 3, "query_only", 2 * HEIGHT, 1000, "RGB", 0
    )
    return Localizer(Model(), gallery, queries, settings)


def _kernel(query_id: int, image_id: int) -> torch.Tensor:
    return torch.tensor([float(query_id)])


def _lists(*probabilities: tuple[float, ...]) -> RankLists:
    boxes = np.array([BOX] * 3, np.float32)
    falling = np.array([0.9, 0.8, 0.7], np.float32)
    return RankLists(
        tuple(
            RankList(q, np.array([3, 1, 2]), boxes, falling, np.array(p, np.float32))
            for q, p in zip((7, 8), probabilities)
        )
    )


def test_sure_boxes_are_looked_at_again(localizer) -> None:
    lists = _lists((0.9, 0.5, 0.8), (0.1, 0.7, 0.2))
    refined = refine_boxes(localizer, lists, _kernel, above=0.5)
    for one in lists.lists:
        after = refined[one.query_id]
        for name in ("image_ids", "similarities", "probabilities"):
            np.testing.assert_array_equal(getattr(after, name), getattr(one, name))
        for row, (image_id, p) in enumerate(zip(one.image_ids, one.probabilities)):
            # Half a pixel of the stored picture for one of the network's input.
            shift = (one.query_id + image_id) / 2 if p > 0.5 else 0
            expected = [min(v + shift, limit) for v, limit in zip(BOX, (WIDTH, HEIGHT) * 2)]
            np.testing.assert_allclose(after.boxes[row], expected, atol=1e-4)


def test_without_a_sure_box_nothing_is_looked_at(localizer) -> None:
    lists = _lists((0.1, 0.2, 0.3), (0.1, 0.2, 0.3))
    refined = refine_boxes(localizer, lists, _kernel, above=0.5)
    for q in (7, 8):
        np.testing.assert_array_equal(refined[q].boxes, lists[q].boxes)


def test_other_boxes_are_those_beside_the_best_in_labelled_images(localizer) -> None:
    label = Target(BOX, 0.9)
    pool = SamplePool(
        1,
        (
            QueryPool(7, label, (Candidate(3, BOX), Candidate(1, BOX, label))),
            QueryPool(8, label, (Candidate(1, BOX, label), Candidate(2, BOX, label))),
        ),
    )
    # The third box has p = .37 for query 7, and .38 for query 8.
    others = find_other_boxes(localizer, pool, _kernel, above=0.375)
    assert others[7].image_ids.tolist() == [1]
    np.testing.assert_allclose(others[7].boxes, [[3.5, 3.5, 8.5, 8.5]])
    np.testing.assert_allclose(others[7].localizer_scores, [0.6])
    assert others[8].image_ids.tolist() == [1, 2, 1, 2]
    np.testing.assert_allclose(others[8].localizer_scores, [0.6, 0.6, 0.38, 0.38])
    np.testing.assert_allclose(others[8].boxes[2], [44, 24, 54, 34])
