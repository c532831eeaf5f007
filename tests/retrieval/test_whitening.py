"""PCA-whitening against covariances by loops."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2.retrieval import Whitening


def correlated(count: int = 200, size: int = 6) -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(count, size)) @ rng.normal(size=(size, size)) + 3
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def naive_covariance(rows: np.ndarray) -> np.ndarray:
    """Of the rows of (R, K), over R - 1."""
    count, size = rows.shape
    mean = [sum(float(row[i]) for row in rows) / count for i in range(size)]
    found = np.zeros((size, size))
    for row in rows.tolist():
        for i in range(size):
            for j in range(size):
                found[i, j] += (row[i] - mean[i]) * (row[j] - mean[j]) / (count - 1)
    return found


def test_whitened_components_are_uncorrelated_with_variance_1() -> None:
    rows = correlated()
    white = Whitening.fit(rows, 4)
    projected = (rows - rows.mean(axis=0)) @ white.projection
    np.testing.assert_allclose(naive_covariance(projected), np.eye(4), atol=1e-3)
    np.testing.assert_allclose(white.mean, rows.mean(axis=0), atol=1e-6)


def test_the_components_are_those_of_most_variance() -> None:
    rows = correlated()
    values = np.linalg.eigvalsh(naive_covariance(rows))[::-1]
    # A column of length 1 / deviation along an eigenvector.
    lengths = np.linalg.norm(Whitening.fit(rows, 4).projection, axis=0)
    np.testing.assert_allclose(lengths, values[:4] ** -0.5, rtol=1e-3)


def test_embeddings_are_centred_projected_and_of_unit_length() -> None:
    rows = correlated()
    white = Whitening.fit(rows, 3)
    for row, found in zip(rows[:10], white.apply(rows[:10])):
        by_hand = [
            sum((float(row[i]) - float(white.mean[i])) * float(white.projection[i, k])
                for i in range(6))
            for k in range(3)
        ]  # fmt: skip
        length = sum(x * x for x in by_hand) ** 0.5
        np.testing.assert_allclose(found, np.array(by_hand) / length, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dimension", [0, 7, 200])
def test_more_components_than_there_are_is_an_error(dimension: int) -> None:
    with pytest.raises(ValueError, match=f"whitening to {dimension} components"):
        Whitening.fit(correlated(), dimension)
