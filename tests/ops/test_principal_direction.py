"""The principal direction against numpy's eigenvectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spil_d2.ops import principal_direction as module
from spil_d2.ops.principal_direction import location_weights, principal_direction


def random_descriptors(n: int, c: int, seed: int = 0) -> torch.Tensor:
    """(n, c) with a clear first direction and a mean far from 0."""
    generator = torch.Generator().manual_seed(seed)
    line = torch.randn(c, generator=generator, dtype=torch.float64)
    along = torch.randn(n, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, c, generator=generator, dtype=torch.float64)
    return 5 + 2 * along * line + 0.5 * noise


def naive(descriptors: torch.Tensor, weights: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    x, w = descriptors.numpy(), (weights / weights.sum()).numpy()
    mean = np.zeros(x.shape[1])
    for row, weight in zip(x, w):
        mean += weight * row
    covariance = np.zeros((x.shape[1], x.shape[1]))
    for row, weight in zip(x, w):
        covariance += weight * np.outer(row - mean, row - mean)
    return mean, np.linalg.eigh(covariance)[1][:, -1]


@pytest.mark.parametrize("max_exact", [1024, 1], ids=["exact", "iterated"])
@pytest.mark.parametrize(("n", "c"), [(12, 40), (40, 12), (30, 30), (1, 7)])
def test_against_the_covariance_by_a_loop(
    n: int, c: int, max_exact: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_EXACT", max_exact)
    descriptors = random_descriptors(n, c)
    weights = torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = principal_direction(descriptors, weights)
    mean, direction = naive(descriptors, weights)
    np.testing.assert_allclose(found.mean, mean, atol=1e-10)
    assert float(found.direction.norm()) == pytest.approx(1)
    if n > 1:
        assert abs(float(found.direction @ torch.from_numpy(direction))) == pytest.approx(
            1, abs=1e-6
        )


def test_iteration_gives_way_to_the_exact_way_when_it_does_not_converge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MAX_EXACT", 1)
    monkeypatch.setattr(module, "_MAX_ITERATIONS", 0)
    descriptors = random_descriptors(20, 30)
    found = principal_direction(descriptors)
    _, direction = naive(descriptors, torch.ones(20, dtype=torch.float64))
    assert abs(float(found.direction @ torch.from_numpy(direction))) == pytest.approx(1)


def test_a_weight_of_two_is_the_location_twice_and_of_zero_its_absence() -> None:
    descriptors = random_descriptors(6, 4)
    weights = torch.tensor([2.0, 1, 1, 0, 1, 1])
    repeated = descriptors[[0, 0, 1, 2, 4, 5]]
    a, b = principal_direction(descriptors, weights), principal_direction(repeated)
    torch.testing.assert_close(a.mean, b.mean)
    assert abs(float(a.direction @ b.direction)) == pytest.approx(1)


def test_location_weights_give_each_map_the_same_share() -> None:
    weights = location_weights([2, 8])
    torch.testing.assert_close(weights, torch.tensor([0.25] * 2 + [0.0625] * 8))
    torch.testing.assert_close(
        location_weights([2, 1], image_weights=[0, 5]), torch.tensor([0.0, 0, 1])
    )


@pytest.mark.parametrize(
    ("locations", "image_weights"),
    [([2, 8], [1.0, 1, 1]), ([2, 8], [2.0, -1]), ([2, 8], [0.0, 0]), ([], None)],
)
def test_wrong_weights_of_maps_are_named(
    locations: list[int], image_weights: list[float] | None
) -> None:
    with pytest.raises(ValueError, match=f"^{len(locations)} maps need as many weights >= 0 with"):
        location_weights(locations, image_weights)


def test_a_location_without_weight_may_hold_anything() -> None:
    descriptors = random_descriptors(6, 4)
    expected = principal_direction(descriptors[:5])
    descriptors[5] = torch.nan
    found = principal_direction(descriptors, torch.tensor([1.0, 1, 1, 1, 1, 0]))
    torch.testing.assert_close(found.mean, expected.mean)
    assert abs(float(found.direction @ expected.direction)) == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_descriptors_have_the_first_axis_as_direction(dtype: torch.dtype) -> None:
    # Of four, so that their weights have no rounding.
    found = principal_direction(torch.full((4, 3), 7.0, dtype=dtype))
    torch.testing.assert_close(found.mean, torch.full((3,), 7.0, dtype=dtype))
    assert found.direction.tolist() == [1, 0, 0] and found.direction.dtype == dtype


@pytest.mark.parametrize(("n", "c"), [(300, 40), (40, 300), (24, 24)])
def test_the_iteration_converges_and_no_large_matrix_is_decomposed(
    n: int, c: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_EXACT", 16)
    sides, eigh = [], torch.linalg.eigh

    def spy(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sides.append(len(matrix))
        return eigh(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", spy)
    descriptors = random_descriptors(n, c)
    # In single precision, as features are.
    found = principal_direction(descriptors.float())
    assert max(sides) <= 8 and len(sides) < 100
    _, direction = naive(descriptors, torch.ones(n, dtype=torch.float64))
    cosine = found.direction.double() @ torch.from_numpy(direction)
    assert abs(float(cosine)) == pytest.approx(1, abs=1e-4)


def test_half_precision_and_tiny_values() -> None:
    descriptors = random_descriptors(20, 8)
    exact = principal_direction(descriptors)
    half = principal_direction(descriptors.half())
    assert half.direction.dtype == torch.float32
    assert abs(float(half.direction.double() @ exact.direction)) > 0.999
    tiny = principal_direction((descriptors * 1e-25).float())
    assert abs(float(tiny.direction.double() @ exact.direction)) > 0.999


def test_project_is_the_signed_coordinate() -> None:
    found = principal_direction(random_descriptors(20, 3))
    feature_map = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(2))
    projected = found.project(feature_map)
    assert projected.shape == (2, 5)
    expected = sum(
        float(found.direction[c]) * (float(feature_map[c, 1, 4]) - float(found.mean[c]))
        for c in range(3)
    )
    assert float(projected[1, 4]) == pytest.approx(expected)
    single = module.PrincipalDirection(found.mean.float(), found.direction.float())
    of_double = single.project(feature_map.double())
    torch.testing.assert_close(of_double, projected.float())


def test_it_is_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_EXACT", 1)
    descriptors = random_descriptors(30, 20)
    first, second = principal_direction(descriptors), principal_direction(descriptors)
    assert torch.equal(first.direction, second.direction)


@pytest.mark.parametrize(
    ("descriptors", "weights", "message"),
    [
        (torch.zeros(0, 3), None, "N > 0"),
        (torch.zeros(3), None, "N > 0"),
        (torch.zeros(2, 3), torch.zeros(2), "sum 0"),
        (torch.zeros(2, 3), torch.tensor([2.0, -1.0]), ">= 0"),
        (torch.zeros(2, 3), torch.ones(3), r"shape \(3,\)"),
    ],
)
def test_bad_input(descriptors: torch.Tensor, weights: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        principal_direction(descriptors, weights)
