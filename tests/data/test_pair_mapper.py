"""Training items against pictures whose every pixel tells where it comes from."""

from __future__ import annotations

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import transforms as T

from spil_d2.data.crops import CropGeometry, WholePicture
from spil_d2.data.pair_mapper import PairMapper, read_crops
from spil_d2.structures import (
    QUERY,
    Candidate,
    Pair,
    Query,
    QueryPool,
    Reference,
    SamplePool,
    Target,
)

HEIGHT, WIDTH = 60, 80
CROP = CropGeometry(size=32, context=4)
QUERY_BOX = (10.0, 20.0, 30.0, 40.0)
PSEUDO_BOX = (40.0, 12.0, 72.0, 44.0)
EXTRA_BOX = (2.0, 3.0, 12.0, 9.0)


def _mask() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[15:40, 45:60] = 1
    return mask


def _rle(mask: np.ndarray) -> dict:
    rle = mask_util.encode(np.asfortranarray(mask))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pictures 0 to 3, RGB: column, row, 50 times the picture's number. PNG keeps them exact."""
    folder = tmp_path_factory.mktemp("pictures")
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    names = []
    for number in range(4):
        picture = np.stack([columns, rows, np.full_like(rows, 50 * number)], axis=2)
        names.append(str(folder / f"{number}.png"))
        cv2.imwrite(names[-1], picture[:, :, ::-1].astype(np.uint8))
    return names


@pytest.fixture
def make_mapper(files):
    """(keyword changes) -> a mapper; query 1 shows picture 0 and ranks 1 and 2, query 2 ranks 3.

    `extras` are those of query 1's label.
    """
    queries = {i: Query(i, (Reference(files[0], WIDTH, HEIGHT, QUERY_BOX),)) for i in (1, 2)}
    own = Target(QUERY_BOX, 1.0)
    gallery = {i: {"file_name": files[i], "image_id": i} for i in (1, 2, 3)}

    def make(extras=((EXTRA_BOX, 0.5),), **changes) -> PairMapper:
        label = Target(PSEUDO_BOX, 0.75, _rle(_mask()), extras)
        pool = SamplePool(
            1,
            (
                QueryPool(1, own, (Candidate(1, PSEUDO_BOX, label), Candidate(2, (5, 5, 25, 25)))),
                QueryPool(2, own, (Candidate(3, (8, 8, 40, 40)),)),
            ),
        )
        given = {
            "augmentations": [],
            "crop": CROP,
            "image_format": "RGB",
            "masks": True,
            "flip_probability": 0.0,
            **changes,
        }
        return PairMapper(pool, gallery, queries, **given)

    return make


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_candidate_is_the_target(make_mapper, files) -> None:
    item = make_mapper()(Pair(1, 0, (QUERY, 1)), _rng())
    assert (item["file_name"], item["height"], item["width"]) == (files[1], HEIGHT, WIDTH)
    assert item["image"].shape == (3, HEIGHT, WIDTH)
    assert item["image"][:, 30, 70].tolist() == [70, 30, 50]
    instances = item["instances"]
    assert instances.gt_boxes.tensor.tolist() == [list(PSEUDO_BOX), list(EXTRA_BOX)]
    assert instances.gt_weights.tolist() == [0.75, 0.5]
    assert instances.gt_classes.tolist() == [0, 0]
    np.testing.assert_array_equal(instances.gt_masks.tensor[0].numpy(), _mask().astype(bool))
    # A look-alike has no mask of its own: its box stands for it.
    extra = instances.gt_masks.tensor[1]
    assert extra.sum() == 10 * 6 and extra[3:9, 2:12].all()


def test_look_alikes_can_be_ignored_instead(make_mapper) -> None:
    resize = T.ResizeShortestEdge([120, 120], 1000)
    mapper = make_mapper(augmentations=[resize], ignore_extras=True, flip_probability=1.0)
    item = mapper(Pair(1, 0, (QUERY,)), _rng())
    x0, y0, x1, y1 = (2 * v for v in EXTRA_BOX)
    assert item["ignore_boxes"].tolist() == [[2 * WIDTH - x1, y0, 2 * WIDTH - x0, y1]]
    instances = item["instances"]
    assert len(instances) == len(instances.gt_masks.tensor) == 1
    assert instances.gt_weights.tolist() == [0.75]
    # The query's own label has no look-alikes.
    assert mapper(Pair(1, QUERY, (0,)), _rng())["ignore_boxes"].shape == (0, 4)
    assert "ignore_boxes" not in make_mapper()(Pair(1, 0, (QUERY,)), _rng())


def test_extras_of_no_weight_are_ignored_beside_look_alikes(make_mapper) -> None:
    ignored = (50.0, 4.0, 60.0, 9.0)
    extras = ((ignored, 0.0), (EXTRA_BOX, 0.5))
    item = make_mapper(extras)(Pair(1, 0, (QUERY,)), _rng())
    assert item["ignore_boxes"].tolist() == [list(ignored)]
    instances = item["instances"]
    assert instances.gt_boxes.tensor.tolist() == [list(PSEUDO_BOX), list(EXTRA_BOX)]
    assert instances.gt_weights.tolist() == [0.75, 0.5]
    assert instances.gt_masks.tensor[1, 3:9, 2:12].all()
    both = make_mapper(extras, ignore_extras=True)(Pair(1, 0, (QUERY,)), _rng())
    assert both["ignore_boxes"].tolist() == [list(ignored), list(EXTRA_BOX)]
    assert len(both["instances"]) == 1


def test_the_query_itself_is_the_target(make_mapper, files) -> None:
    item = make_mapper()(Pair(1, QUERY, (0, 1)), _rng())
    assert item["file_name"] == files[0]
    assert item["instances"].gt_boxes.tensor.tolist() == [list(QUERY_BOX)]
    assert item["instances"].gt_weights.tolist() == [1.0]
    assert item["instances"].gt_masks.tensor.sum() == 20 * 20


def test_crops_come_from_the_support_boxes(make_mapper, files) -> None:
    item = make_mapper()(Pair(1, 0, (QUERY, 1), 2, (0,)), _rng())
    assert item["query_crops"].shape == (2, 3, 32, 32)
    assert item["negative_crops"].shape == (1, 3, 32, 32)
    # Blue names the picture; the middle of the crop is the middle of the box.
    assert item["query_crops"][:, 2, 16, 16].tolist() == [0, 100]
    assert item["negative_crops"][:, 2, 16, 16].tolist() == [150]
    np.testing.assert_allclose(item["query_crops"][0, :2, 16, 16], [20, 30], atol=1)
    assert item["query_boxes"].tolist() == [[4, 4, 28, 28]] * 2


def test_a_flip_mirrors_picture_labels_and_crops_together(make_mapper) -> None:
    pair = Pair(1, 0, (QUERY,))
    straight = make_mapper()(pair, _rng())
    flipped = make_mapper(flip_probability=1.0)(pair, _rng())
    assert torch.equal(flipped["image"], straight["image"].flip(2))
    assert torch.equal(flipped["query_crops"], straight["query_crops"].flip(3))
    before, after = straight["instances"], flipped["instances"]
    x0, y0, x1, y1 = PSEUDO_BOX
    assert after.gt_boxes.tensor[0].tolist() == [WIDTH - x1, y0, WIDTH - x0, y1]
    assert torch.equal(after.gt_masks.tensor, before.gt_masks.tensor.flip(2))
    a0, b0, a1, b1 = straight["query_boxes"][0].tolist()
    assert flipped["query_boxes"][0].tolist() == [32 - a1, b0, 32 - a0, b1]


def test_labels_follow_the_resized_picture(make_mapper) -> None:
    resize = T.ResizeShortestEdge([120, 120], 1000)
    item = make_mapper(augmentations=[resize])(Pair(1, 0, (QUERY,)), _rng())
    assert item["image"].shape == (3, 2 * HEIGHT, 2 * WIDTH)
    assert (item["height"], item["width"]) == (HEIGHT, WIDTH)
    instances = item["instances"]
    assert instances.gt_boxes.tensor[0].tolist() == [2 * v for v in PSEUDO_BOX]
    assert instances.gt_masks.tensor[0].sum() == 4 * _mask().sum()


def test_vectors_stand_for_crops(make_mapper) -> None:
    table = {(1, QUERY): torch.ones(4), (1, 1): 2 * torch.ones(4), (2, 0): 3 * torch.ones(4)}
    item = make_mapper(vectors=table, flip_probability=1.0)(Pair(1, 0, (1, QUERY), 2, (0,)), _rng())
    assert item["query_vectors"].tolist() == [[2.0] * 4, [1.0] * 4]
    assert item["negative_vectors"].tolist() == [[3.0] * 4]
    assert not {"query_crops", "negative_crops", "query_boxes"} & set(item)


def test_without_a_foreign_query_nothing_is_negative(make_mapper) -> None:
    item = make_mapper(masks=False)(Pair(1, 0, (QUERY,)), _rng())
    assert not [key for key in item if key.startswith("negative")]
    assert not item["instances"].has("gt_masks")


def test_the_generator_alone_decides(make_mapper) -> None:
    random_parts = [T.RandomBrightness(0.5, 1.5), T.ResizeShortestEdge([48, 60, 72], 200, "choice")]
    mapper = make_mapper(augmentations=random_parts, flip_probability=0.5)
    pair = Pair(1, 0, (QUERY,))
    items = []
    for noise in (0, 1):
        np.random.seed(noise)
        items.append(mapper(pair, _rng()))
    assert torch.equal(items[0]["image"], items[1]["image"])
    others = [mapper(pair, np.random.default_rng(seed))["image"] for seed in range(1, 6)]
    assert any(other.shape != items[0]["image"].shape for other in others)


def test_channel_order(files) -> None:
    (rgb,), _ = read_crops([(files[2], QUERY_BOX)], CROP, "RGB")
    (bgr,), _ = read_crops([(files[2], QUERY_BOX)], CROP, "BGR")
    assert torch.equal(rgb, bgr.flip(0))
    assert rgb[2, 16, 16] == 100


def test_whole_pictures_stand_in_for_crops(make_mapper, files) -> None:
    pair = Pair(1, 0, (QUERY, 1))
    whole = WholePicture(2 * HEIGHT, 1000)
    straight = make_mapper(crop=whole)(pair, _rng())
    flipped = make_mapper(crop=whole, flip_probability=1.0)(pair, _rng())
    assert [tuple(one.shape) for one in straight["query_crops"]] == [(3, 120, 160)] * 2
    assert straight["query_boxes"][0].tolist() == [2 * v for v in QUERY_BOX]
    assert [int(one[2, 60, 80]) for one in straight["query_crops"]] == [0, 100]
    x0, y0, x1, y1 = (2 * v for v in QUERY_BOX)
    assert flipped["query_boxes"][0].tolist() == [160 - x1, y0, 160 - x0, y1]
    for before, after in zip(straight["query_crops"], flipped["query_crops"], strict=True):
        assert torch.equal(after, before.flip(2))
