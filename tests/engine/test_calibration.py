"""Scores as probabilities: the fit against closed forms, the meaning on data with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from spil_d2.data.pictures import Picture, UnreadablePictureError
from spil_d2.engine import calibration
from spil_d2.engine.calibration import (
    DEFAULT_WEIGHTS,
    Calibrator,
    fit_calibrator,
    fit_logistic,
    object_box,
    paste_view,
)
from spil_d2.retrieval import Regions
from spil_d2.retrieval.index import ExactIndex


def test_the_fit_finds_the_log_odds_of_two_gaussians(monkeypatch) -> None:
    """Of N(2, 1) against N(0, 1) the log odds are 2 x - 2; the other feature is noise."""
    monkeypatch.setattr(calibration, "_RIDGE", 0.0)
    rng = np.random.default_rng(0)
    positives = rng.normal([2, 0], 1, (40_000, 2))
    negatives = rng.normal([0, 0], 1, (20_000, 2))
    np.testing.assert_allclose(fit_logistic(positives, negatives), [2, 0, -2], atol=0.08)


def test_the_prior_moves_the_odds_alone(monkeypatch) -> None:
    """Where the log odds are linear, other odds of the classes add their own logarithm."""
    monkeypatch.setattr(calibration, "_RIDGE", 0.0)
    rng = np.random.default_rng(0)
    positives, negatives = rng.normal([2, 0], 1, (60_000, 2)), rng.normal(0, 1, (60_000, 2))
    found = fit_logistic(positives, negatives, 0.1)
    np.testing.assert_allclose(found, [2, 0, -2 + np.log(0.1 / 0.9)], atol=0.1)


def test_slopes_are_never_negative() -> None:
    low, high = np.zeros((50, 2)), np.ones((50, 2))
    a, b, c = fit_logistic(low, high)
    assert (a, b) == (0, 0) and c == pytest.approx(0, abs=1e-4)


def made(weights: tuple[float, float, float] = (0.0, 1.0, -2.0)) -> Calibrator:
    return Calibrator(weights, True, 100, np.zeros((1, 4), np.float16), np.array([0, 1]))


def test_the_probability_by_hand() -> None:
    """Median 0.1, deviation 1.4826 * 0.1; a prior of 10 / 1000 pictures."""
    background = np.array([0.0, 0.0, 0.1, 0.2, 0.2])
    z = (0.7 - 0.1) / 0.14826
    expected = expit(z - 2 + np.log(0.01 / 0.99))
    found = made().probabilities(np.array([0.7]), background, 1000)
    assert found == pytest.approx([expected])


def test_scores_grow_with_the_similarity_and_fall_with_the_gallery() -> None:
    background = np.random.default_rng(0).normal(0, 0.1, 128)
    similarities = np.linspace(-1, 1, 50)
    few = made((0.5, 1.0, -2.0)).probabilities(similarities, background, 100)
    many = made((0.5, 1.0, -2.0)).probabilities(similarities, background, 100_000)
    assert np.all(np.diff(few) >= 0) and np.all(many <= few)
    assert np.all((many >= 0) & (few <= 1))


def test_a_background_without_spread_does_not_divide_by_zero() -> None:
    assert np.isfinite(made().probabilities(np.array([0.5]), np.zeros(9), 10)).all()


def test_it_is_read_as_it_was_written(tmp_path) -> None:
    one = made()
    one.save(tmp_path / "c.npz")
    two = Calibrator.load(tmp_path / "c.npz")
    assert two.weights == one.weights and two.is_fitted and two.num_images == 100
    np.testing.assert_array_equal(two.embeddings, one.embeddings)
    (tmp_path / "c.npz").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"c\.npz is no calibration"):
        Calibrator.load(tmp_path / "c.npz")


def test_a_pasted_view_changes_only_where_it_is() -> None:
    rng = np.random.default_rng(3)
    source = np.zeros((60, 80, 3), np.uint8)
    source[20:40, 30:60] = 255
    host = np.full((200, 300, 3), 90, np.uint8)
    pasted = paste_view(source, (30, 20, 60, 40), host, rng)
    changed = (np.abs(pasted.astype(int) - 90) > 3).any(axis=2)
    part = changed.mean()
    assert pasted.shape == host.shape and 0.03 < part < 0.7
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    # One patch of the box's content, no background of the source.
    inside = pasted[rows[len(rows) // 2], columns[len(columns) // 2]]
    assert np.all(inside > 120)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1)])
def test_pictures_of_one_pixel_can_be_pasted_and_pasted_into(shape) -> None:
    rng = np.random.default_rng(0)
    thin, other = np.zeros((*shape, 3), np.uint8), np.zeros((50, 50, 3), np.uint8)
    boxes = np.array([[0, 0, shape[1], shape[0]], [0, 0, shape[1] / 2, shape[0] / 2]], np.float32)
    for _ in range(5):
        box = object_box(boxes, shape, rng)
        assert np.all(box[2:] > box[:2])
        assert paste_view(thin, box, other, rng).shape == other.shape
        assert paste_view(other, (5, 5, 20, 20), thin, rng).shape == thin.shape


class MeanColour:
    """An engine of one region: the centred mean colour of the picture, or of a box."""

    def regions(self, images):
        size = [(0, 0, one.shape[1], one.shape[0]) for one in images]
        return [
            Regions(
                np.array([box], np.float32),
                np.ones(1, np.float32),
                self.embed(one, np.array([box])),
            )
            for one, box in zip(images, size)
        ]

    def embed(self, image, boxes):
        rows = [
            image[int(b) : int(d), int(a) : int(c)].mean(axis=(0, 1)) - 128 for a, b, c, d in boxes
        ]
        rows = np.array(rows, np.float32) + 1e-3
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def plain_pictures(count: int) -> dict[int, Picture]:
    rng = np.random.default_rng(0)
    return {
        i: Picture(np.full((40, 50, 3), rng.integers(0, 256, 3), np.uint8), 50, 40)
        for i in range(1, count + 1)
    }


def fitted(count: int, unreadable: int = 0) -> Calibrator:
    pictures, engine = plain_pictures(count), MeanColour()
    index = ExactIndex.create(None)
    index.add(list(pictures), engine.regions([one.pixels for one in pictures.values()]))

    def read(image_id: int) -> Picture:
        if image_id <= unreadable:
            raise UnreadablePictureError("gone.jpg", "gone")
        return pictures[image_id]

    return fit_calibrator(engine, index, read, progress=False)


def test_pasted_colours_are_told_from_others() -> None:
    one = fitted(40)
    assert one.is_fitted and one.num_images == 40
    assert min(one.weights[:2]) >= 0 and max(one.weights[:2]) > 0
    same, other = np.array([1.0]), np.array([-0.5])
    background = np.random.default_rng(0).uniform(-1, 1, 128)
    high = one.probabilities(same, background, 40)
    assert high > 2 * one.probabilities(other, background, 40)


def test_the_same_index_gives_the_same_calibration() -> None:
    assert fitted(12).weights == fitted(12).weights


def test_too_few_pictures_have_the_default() -> None:
    one = fitted(5)
    assert not one.is_fitted and one.weights == DEFAULT_WEIGHTS
    assert fitted(1).weights == DEFAULT_WEIGHTS


def test_pictures_that_are_gone_are_passed_over() -> None:
    assert fitted(20, unreadable=5).is_fitted
    assert not fitted(20, unreadable=20).is_fitted


def test_the_background_is_the_largest_of_each_picture() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(6, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    one = Calibrator((0, 1, 0), True, 3, rows.astype(np.float16), np.array([0, 1, 4, 6]))
    index = ExactIndex.create(None)
    query = rows[:2]
    found = one.background(index, query)
    stored = rows.astype(np.float16).astype(np.float32)
    for q in range(2):
        for b, (start, stop) in enumerate([(0, 1), (1, 4), (4, 6)]):
            expected = max(float(query[q] @ stored[row]) for row in range(start, stop))
            assert found[q, b] == pytest.approx(expected, abs=1e-6)
