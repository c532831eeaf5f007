"""Which crops a kernel is made of, and masks in the frame of the stored pictures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from spil_d2.data.crops import CropGeometry, WholePicture
from spil_d2.engine.localizer import Localizer, LocalizerSettings
from spil_d2.structures import (
    QUERY,
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
NUM_IMAGES = 6


class Recorder(PixelModel):
    """The vector of a crop is its colour; remembers what it is asked."""

    def __init__(self, has_masks: bool = True) -> None:
        super().__init__()
        self.has_masks = has_masks
        self.asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def encode_query(self, crops: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        return crops[:, :, crops.shape[2] // 2, crops.shape[3] // 2].float()

    def segment(self, features, kernel, boxes, image_sizes) -> torch.Tensor:
        self.asked.append((kernel, boxes))
        # The left half of every box.
        mask = torch.zeros(len(boxes), 28, 28)
        mask[:, :, :14] = 1
        return mask


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """Picture i has the red value 2 ** i, so that a kernel tells whose mean it is."""
    folder = tmp_path_factory.mktemp("pictures")
    names = [str(folder / f"{number}.png") for number in range(NUM_IMAGES)]
    for number, name in enumerate(names):
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        picture[:, :, 2] = 2**number
        cv2.imwrite(name, picture)
    return names


def _localizer(files: list[str], model: Recorder, **settings) -> Localizer:
    given = {
        "crop": CropGeometry(size=32, context=4),
        "num_crops": 3,
        "kernel": "leave_one_out",
        "min_size": 2 * HEIGHT,
        "max_size": 1000,
        "image_format": "RGB",
        "num_workers": 0,
        **settings,
    }
    gallery = [{"image_id": i, "file_name": files[i]} for i in range(1, NUM_IMAGES)]
    query = Query(7, (Reference(files[0], WIDTH, HEIGHT, BOX),))
    return Localizer(model, gallery, [query], LocalizerSettings(**given))


def _pool(*confident: int) -> SamplePool:
    """Query 7 on picture 0 ranks the pictures 1, 2, ..."""
    target = Target(BOX, 0.9)
    candidates = tuple(
        Candidate(i, BOX, target if i in confident else None) for i in range(1, NUM_IMAGES)
    )
    return SamplePool(1, (QueryPool(7, Target(BOX, 1.0), candidates),))


def _lists(*image_ids: int, probability: float = 0.8) -> RankLists:
    ids = np.array(image_ids)
    boxes = np.array([BOX] * len(ids), np.float32)
    similarities = np.linspace(1, 0.5, len(ids)).astype(np.float32)
    return RankLists((RankList(7, ids, boxes, similarities, np.full(len(ids), probability)),))


@pytest.mark.parametrize(
    ("settings", "confident", "image_id", "members"),
    [
        # n = 3: the query's crop and the two best candidates other than the image at hand.
        ({}, (), 1, (0, 2, 3)),
        ({}, (3, 5), 1, (0, 3, 5)),
        ({}, (3, 5), 3, (0, 5, 1)),
        ({"v_policy": "confident_only"}, (3, 5), 3, (0, 5)),
        ({"v_policy": "confident_only"}, (3,), 3, (0,)),
        ({"v_policy": "confident_only"}, (), 3, (0, 1, 2)),
        ({"kernel": "query_only"}, (3, 5), 3, (0,)),
        ({"kernel": "top5"}, (3, 5), 3, (3, 5, 1)),
        ({"kernel": "top5", "v_policy": "confident_only"}, (3, 5), 3, (3, 5)),
    ],
)
def test_whose_crops_make_the_kernel(files, settings, confident, image_id, members) -> None:
    model = Recorder()
    _localizer(files, model, **settings).segment(_lists(image_id), _pool(*confident))
    ((kernel, _),) = model.asked
    assert kernel[0, 0].item() == pytest.approx(np.mean([2.0**i for i in members]))


def test_masks_are_in_the_stored_pictures_frame(files) -> None:
    model = Recorder()
    masks = _localizer(files, model).segment(_lists(2, 4), _pool())
    assert set(masks) == {(7, 2), (7, 4)}
    # The model saw the picture at twice its size.
    assert model.asked[0][1].tolist() == [[2 * v for v in BOX]]
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[10:30, 10:20] = True
    assert masks[7, 2].dtype == bool
    # A border of one pixel is interpolation.
    assert (masks[7, 2] != expected).sum() <= 20


def test_no_masks_without_a_mask_head_or_a_detection(files) -> None:
    assert _localizer(files, Recorder(has_masks=False)).segment(_lists(2), _pool()) == {}
    assert _localizer(files, Recorder()).segment(_lists(2, probability=0.0), _pool()) == {}


def test_settings_name_what_is_allowed(files) -> None:
    with pytest.raises(ValueError, match="TEST_KERNEL 'all'.*query_only"):
        _localizer(files, Recorder(), kernel="all")
    with pytest.raises(ValueError, match="SPIL.V_POLICY is 'all'.*confident_only"):
        _localizer(files, Recorder(), v_policy="all")


@pytest.mark.parametrize(("is_shared", "batches"), [(False, [16, 4]), (True, [20])])
def test_a_shared_template_is_of_all_queries_at_once(files, is_shared, batches) -> None:
    model = Recorder()
    model.shared_template = is_shared
    asked = []

    def detect(features, kernel, image_sizes, with_masks):
        asked.append(len(kernel))
        one = Instances(image_sizes[0], pred_boxes=Boxes(torch.tensor([[2.0, 4.0, 8.0, 10.0]])))
        return [one[:] for _ in kernel]

    model.detect = detect
    item = {"image": torch.zeros(3, 2 * HEIGHT, 2 * WIDTH), "height": HEIGHT, "width": WIDTH}
    found = _localizer(files, model)._detect(item, torch.zeros(20, 3))
    assert asked == batches and len(found) == 20
    assert found[0].pred_boxes.tensor.tolist() == [[1, 2, 4, 5]]


def test_whole_pictures_are_encoded_one_by_one(files) -> None:
    model = Recorder()
    localizer = _localizer(files, model, crop=WholePicture(2 * HEIGHT, 1000), num_crops=2)
    batches = []

    def encode_query(crops, boxes):
        batches.append([tuple(one.shape) for one in crops])
        return torch.stack([crop[:, 0, 0].float() for crop in crops])

    model.encode_query = encode_query
    vectors = localizer.encode_pool(_pool(), 1, progress=False)
    assert batches == [[(3, 2 * HEIGHT, 2 * WIDTH)]] * 2
    assert [vectors[7, row][0].item() for row in (QUERY, 0)] == [1, 2]
