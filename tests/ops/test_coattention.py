"""Masks and look-alikes from indicator maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spil_d2.ops.coattention import (
    CoAttentionSettings,
    box_coverage,
    common_direction,
    find_extras,
    gate_indicator,
    limit_to_box,
    normalize_indicator,
    orient_indicator,
    pseudo_mask,
    rectangle,
    superpixel_means,
    upsample,
)
from spil_d2.ops.principal_direction import PrincipalDirection

SIZE = (64, 96)
BOX = (16.0, 16.0, 48.0, 48.0)
CELL = 8


def feature_map_with(*objects: tuple[int, int, int, int], seed: int = 0) -> torch.Tensor:
    """(16, 8, 12) map of a 64 x 96 picture: background A, objects (y0, x0, y1, x1 in cells) B."""
    generator = torch.Generator().manual_seed(seed)
    background, foreground = torch.randn(2, 16, generator=torch.Generator().manual_seed(99))
    feature_map = background[:, None, None].expand(16, 8, 12).clone()
    for y0, x0, y1, x1 in objects:
        feature_map[:, y0:y1, x0:x1] = foreground[:, None, None]
    return feature_map + 0.05 * torch.randn(16, 8, 12, generator=generator)


def cells_as_superpixels(side: int = CELL) -> np.ndarray:
    height, width = SIZE[0] // side, SIZE[1] // side
    labels = np.arange(height * width, dtype=np.int32).reshape(height, width)
    return labels.repeat(side, axis=0).repeat(side, axis=1)


def crop_maps() -> list[torch.Tensor]:
    return [feature_map_with((2, 2, 6, 9), seed=s)[:, 1:7, 1:10] for s in (1, 2)]


def run(feature_map: torch.Tensor, flip: bool = False, **settings: object):
    principal = common_direction([feature_map], crop_maps())
    if flip:
        principal = PrincipalDirection(principal.mean, -principal.direction)
    return pseudo_mask(
        feature_map, BOX, principal, cells_as_superpixels(), CoAttentionSettings(**settings)
    )


def test_the_mask_is_the_object_and_not_the_box() -> None:
    result = run(feature_map_with((2, 2, 6, 4)))
    expected = np.zeros(SIZE, bool)
    expected[16:48, 16:32] = True
    # Bilinear upsampling lets the indicator run over into half of the next cell.
    assert result.is_fallback is False
    assert result.mask[expected].all()
    assert result.mask.sum() <= 1.5 * expected.sum()
    assert result.extra_boxes.shape == (0, 4) and result.extra_weights.shape == (0,)


@pytest.mark.parametrize("is_fine", [False, True])
def test_the_steps_from_a_projection_to_a_mask(is_fine: bool) -> None:
    generator = torch.Generator().manual_seed(7)
    objects = ((2, 2, 6, 4), (2, 2, 6, 5))
    maps = [feature_map_with(one) + torch.randn(16, 8, 12, generator=generator) for one in objects]
    directions = [common_direction([one], crop_maps()) for one in maps]
    labels, masks = cells_as_superpixels(), []
    for normalize in ("relu_max", "minmax"):
        settings = CoAttentionSettings(threshold=0.4, normalize=normalize, extras="off")
        fine = (maps[1], directions[1]) if is_fine else None
        result = pseudo_mask(maps[0], BOX, directions[0], labels, settings, fine)
        deeper, finer = (
            orient_indicator(direction.project(one), BOX, SIZE)
            for direction, one in zip(directions, maps, strict=True)
        )
        indicator = normalize_indicator(deeper, normalize)
        if is_fine:
            indicator = gate_indicator(finer, deeper, normalize)
        selected = superpixel_means(labels, upsample(indicator, SIZE)) > 0.4
        np.testing.assert_array_equal(result.mask, selected & rectangle(BOX, SIZE))
        assert not result.is_fallback and result.extra_boxes.shape == (0, 4)
        masks.append(result.mask)
    assert not np.array_equal(*masks)


def test_threshold_0_leaves_out_what_has_no_indicator() -> None:
    mask = run(feature_map_with((2, 2, 6, 4)), threshold=0.0).mask
    assert mask[16:48, 16:32].all() and not mask[:, 40:].any()


def test_the_sign_of_the_direction_does_not_matter() -> None:
    feature_map = feature_map_with((2, 2, 6, 6), (1, 9, 5, 12))
    one, other = run(feature_map), run(feature_map, flip=True)
    np.testing.assert_array_equal(one.mask, other.mask)
    np.testing.assert_array_equal(one.extra_boxes, other.extra_boxes)
    np.testing.assert_array_equal(one.extra_weights, other.extra_weights)
    assert len(one.extra_boxes) == 1


def test_normalization_of_the_worked_example() -> None:
    # D18: in a map of [-40, 80] min-max lifts the background 0 to .33, over the threshold .1.
    indicator = torch.tensor([[-40.0, 0.0], [8.0, 80.0]])
    torch.testing.assert_close(
        normalize_indicator(indicator), torch.tensor([[0.0, 0.0], [0.1, 1.0]])
    )
    torch.testing.assert_close(
        normalize_indicator(indicator, "minmax"), torch.tensor([[0.0, 1 / 3], [0.4, 1.0]])
    )
    torch.testing.assert_close(
        normalize_indicator(0.001 * indicator), torch.tensor([[0.0, 0.0], [0.1, 1.0]])
    )
    assert not normalize_indicator(torch.full((2, 2), -1.0)).any()
    assert not normalize_indicator(torch.full((2, 2), 3.0), "minmax").any()


def test_orientation() -> None:
    indicator = torch.zeros(8, 12)
    indicator[2:6, 2:6] = -1
    oriented = orient_indicator(indicator, BOX, SIZE)
    assert oriented is not None
    torch.testing.assert_close(oriented, -indicator)
    assert orient_indicator(torch.ones(8, 12), BOX, SIZE) is None
    checkers = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).tile(4, 6)
    assert orient_indicator(checkers, BOX, SIZE) is None
    assert orient_indicator(indicator, (0, 0, 96, 64), SIZE) is None


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_the_inside_stands_out_by_a_tenth_of_the_standard_deviation(scale: float) -> None:
    # Means +d and -d of 8 cells each, which are 1 above or below them: d is the only contrast.
    checkers = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).tile(2, 2)
    halves = torch.tensor([1.0, 1.0, -1.0, -1.0]).expand(4, 4)
    # 2 d > 0.1 sqrt(1 + d^2) holds from d = 0.0501 on.
    for d, is_oriented in ((0.0497, False), (0.0505, True)):
        indicator = scale * (checkers + d * halves)
        assert (orient_indicator(indicator, (0, 0, 2, 4), (4, 4)) is not None) == is_oriented


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0, 0, 0.5, 0.5), (0, 0, 4, 3.75)])
def test_a_part_of_a_cell_inside_or_outside_is_enough(box: tuple[float, ...]) -> None:
    indicator = torch.full((4, 4), -1.0)
    indicator[3 if box[2] == 4 else 0] = 3.0
    sign = -1 if box[2] == 4 else 1
    oriented = orient_indicator(indicator, box, (4, 4))
    assert oriented is not None
    torch.testing.assert_close(oriented, sign * indicator)


def test_coverage_is_the_share_of_each_cell() -> None:
    coverage = box_coverage((4, 8, 24, 10), (2, 3), (16, 24))
    # Cells of 8 x 8 pixels; the box covers half of column 0 and a quarter of row 1.
    torch.testing.assert_close(coverage, torch.tensor([[0, 0, 0], [0.125, 0.25, 0.25]]))


def test_superpixel_means_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    labels, values = rng.integers(0, 5, (6, 7)), rng.random((6, 7))
    means = superpixel_means(labels, values)
    for y in range(6):
        for x in range(7):
            assert means[y, x] == pytest.approx(values[labels == labels[y, x]].mean())
    # Of one pixel each, and with numbers that no pixel has.
    np.testing.assert_allclose(superpixel_means(2 * np.arange(42).reshape(6, 7), values), values)


def test_fallback_when_the_mask_fills_too_little_of_the_box() -> None:
    selected = np.zeros(SIZE, bool)
    box_pixels = 32 * 32
    mask, is_fallback = limit_to_box(selected, BOX, 0.05)
    assert is_fallback and mask.sum() == box_pixels
    selected[20, 16:48] = True  # 32 of 1024 pixels: 3.1 percent
    assert limit_to_box(selected, BOX, 0.05)[1]
    selected[21, 16:48] = True  # 6.3 percent
    mask, is_fallback = limit_to_box(selected, BOX, 0.05)
    assert not is_fallback and mask.sum() == 64
    assert not limit_to_box(selected, BOX, 1 / 16)[1]  # just as much


def test_without_a_least_share_one_pixel_is_enough() -> None:
    selected = np.zeros(SIZE, bool)
    assert limit_to_box(selected, BOX, 0.0)[1]
    selected[20, 20] = True
    mask, is_fallback = limit_to_box(selected, BOX, 0.0)
    assert not is_fallback and mask.sum() == 1


def test_fallback_without_contrast_and_without_maps() -> None:
    flat = torch.ones(16, 8, 12)
    principal = common_direction([flat], [])
    for p in (principal, None):
        result = pseudo_mask(flat, BOX, p, cells_as_superpixels(), CoAttentionSettings())
        assert result.is_fallback and result.extra_boxes.shape == (0, 4)
        assert result.extra_weights.shape == (0,)
        assert result.extra_boxes.dtype == result.extra_weights.dtype == np.float32
        np.testing.assert_array_equal(result.mask, rectangle(BOX, SIZE))
    assert common_direction([flat], [], "crops") is None


def test_each_map_counts_the_same() -> None:
    small, large = torch.zeros(3, 1, 1), torch.ones(3, 10, 10)
    principal = common_direction([small], [large])
    assert principal is not None
    torch.testing.assert_close(principal.mean, torch.full((3,), 0.5))
    on_crops = common_direction([small], [large], "crops")
    assert on_crops is not None
    torch.testing.assert_close(on_crops.mean, torch.ones(3))
    by_location = common_direction([small], [large], weighted=False)
    assert by_location is not None
    torch.testing.assert_close(by_location.mean, torch.full((3,), 100 / 101))


def test_a_similar_instance_outside_the_box_is_an_extra() -> None:
    result = run(feature_map_with((2, 2, 6, 6), (1, 9, 5, 12)))
    assert len(result.extra_boxes) == 1
    # The object spans x 72-96, y 8-40; bilinear upsampling adds at most one cell around.
    box = result.extra_boxes[0]
    assert np.all(np.abs(box - [72, 8, 96, 40]) <= CELL)
    assert 0.5 <= result.extra_weights[0] <= 1
    assert result.extra_weights.dtype == np.float32
    feature_map = feature_map_with((2, 2, 6, 6), (1, 9, 5, 12))
    without = run(feature_map, extras="off")
    assert without.extra_boxes.shape == (0, 4)
    np.testing.assert_array_equal(without.mask, result.mask)
    np.testing.assert_array_equal(run(feature_map, extras="ignore").extra_boxes, [box])


def test_which_regions_are_extras() -> None:
    selected, indicator = np.zeros((40, 200), bool), np.full((40, 200), 0.2)
    for x0, width, height, value in (
        (60, 10, 10, 0.9),  # right size and high: an extra
        (80, 10, 10, 0.4),  # too low
        (100, 4, 4, 0.9),  # 16 < 100 / 4 pixels
        (120, 25, 20, 0.9),  # 500 > 4 x 100 pixels
        (150, 5, 5, 0.5),  # exactly at both limits: an extra
    ):
        selected[5 : 5 + height, x0 : x0 + width] = True
        indicator[5 : 5 + height, x0 : x0 + width] = value
    selected[20:36, 15:30], indicator[20:36, 15:30] = True, 1.0  # the instance, over its box
    boxes, weights = find_extras(selected, indicator, (10, 18, 25, 38), 100, 0.5)
    assert boxes.dtype == weights.dtype == np.float32
    np.testing.assert_array_equal(boxes, [[60, 5, 70, 15], [150, 5, 155, 10]])
    np.testing.assert_allclose(weights, [0.9, 0.5], rtol=1e-6)


def test_extras_at_the_limits_of_size_and_weight() -> None:
    selected, indicator = np.zeros((12, 12), bool), np.zeros((12, 12))
    selected[8, 8], indicator[8, 8] = True, 0.75  # one pixel
    selected[1:3, 6:8], indicator[1:3, 6:8] = True, 1.00001  # 4 x 1 pixel, and above 1 by rounding
    selected[5, 5], indicator[5, 5] = True, 0.6
    selected[6, 6], indicator[6, 6] = True, 0.6  # touches the one before at a corner
    boxes, weights = find_extras(selected, indicator, (0, 0, 2, 2), 1, 0.5)
    np.testing.assert_array_equal(boxes, [[6, 1, 8, 3], [5, 5, 7, 7], [8, 8, 9, 9]])
    np.testing.assert_allclose(weights, [1.0, 0.6, 0.75], rtol=1e-6)
    assert weights.max() == 1


def test_what_is_not_selected_is_no_extra() -> None:
    selected, ones = np.zeros((20, 20), bool), np.ones((20, 20))
    selected[5:15, 5:15] = True
    # 300 pixels remain, of the instance's order of size.
    assert len(find_extras(selected, ones, (5, 5, 15, 15), 100, 0.5)[0]) == 0
    assert len(find_extras(ones > 0, ones, (5, 5, 15, 15), 100, 0.5)[0]) == 0


def test_rectangle_takes_pixels_by_their_centre_and_at_least_one() -> None:
    expected = np.zeros((4, 6), bool)
    expected[1:3, 2:5] = True
    np.testing.assert_array_equal(rectangle((1.6, 0.6, 5.4, 2.6), (4, 6)), expected)
    assert rectangle((2.6, 1.6, 2.7, 1.7), (4, 6)).sum() == 1
    corner = rectangle((5.8, 3.8, 6.0, 4.0), (4, 6))
    assert corner[3, 5] and corner.sum() == 1
    assert rectangle((0, 0, 6, 4), (4, 6)).all()


def test_the_deeper_maps_positive_region_gates_the_finer_one() -> None:
    # Of equal size, so that nothing is interpolated.
    deep = torch.tensor([[2.0, -1.0], [0.5, 0.0]])
    fine = torch.tensor([[4.0, 9.0], [1.0, 9.0]])
    # max(A, 0) / max A, and (A - min) / (max - min), over the left column alone.
    expected = {"relu_max": [[1.0, 0.0], [0.25, 0.0]], "minmax": [[1.0, 0.0], [0.0, 0.0]]}
    for method, values in expected.items():
        torch.testing.assert_close(gate_indicator(fine, deep, method), torch.tensor(values))
    assert not gate_indicator(fine, -deep.abs(), "relu_max").any()
    # Cells of twice the size: 3, 2, 0, -1 from centre to centre.
    gated = gate_indicator(torch.ones(1, 4), torch.tensor([[3.0, -1.0]]), "relu_max")
    assert gated.tolist() == [[1, 1, 0, 0]]


def test_a_finer_map_sharpens_the_mask_and_adds_nothing_elsewhere() -> None:
    fine_map = feature_map_with((2, 2, 6, 4), (2, 8, 6, 10))
    # Cells of 16 x 16 pixels, in which the second object does not stand out.
    deep_map = torch.nn.functional.avg_pool2d(feature_map_with((2, 2, 6, 4))[None], 2)[0]
    deep, fine = common_direction([deep_map], crop_maps()), common_direction([], crop_maps())
    labels, settings = cells_as_superpixels(side=4), CoAttentionSettings()
    coarse = pseudo_mask(deep_map, BOX, deep, labels, settings)
    sharp = pseudo_mask(deep_map, BOX, deep, labels, settings, fine=(fine_map, fine))
    alone = pseudo_mask(fine_map, BOX, fine, labels, settings)
    truth = np.zeros(SIZE, bool)
    truth[16:48, 16:32] = True
    ious = [(one.mask & truth).sum() / (one.mask | truth).sum() for one in (coarse, sharp)]
    assert not sharp.is_fallback
    assert ious[1] > ious[0] + 0.1 and sharp.mask[truth].all()
    # The finer map alone takes the second object for another instance.
    assert len(alone.extra_boxes) == 1 and len(sharp.extra_boxes) == 0
    flat = (torch.ones_like(fine_map), fine)
    assert pseudo_mask(deep_map, BOX, deep, labels, settings, fine=flat).is_fallback


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalize": "max"}, "COATTENTION.NORMALIZE is 'max'.*relu_max"),
        ({"pca_on": "y"}, "COATTENTION.PCA_ON is 'y'.*crops"),
        ({"extras": "on"}, "COATTENTION.EXTRAS is 'on'.*extra_gt.*ignore"),
        ({"threshold": 1.5}, r"COATTENTION.THRESHOLD is 1.5.*\[0, 1\]"),
    ],
)
def test_bad_settings_name_the_key(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoAttentionSettings(**settings)


@pytest.mark.parametrize("name", ["threshold", "min_fill", "extra_min_mean"])
def test_both_ends_of_a_share_are_allowed(name: str) -> None:
    for end in (0.0, 1.0):
        assert getattr(CoAttentionSettings(**{name: end}), name) == end
    for outside in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"^COATTENTION.{name.upper()} is {outside}"):
            CoAttentionSettings(**{name: outside})
