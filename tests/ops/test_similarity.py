"""Cosines and their neighbours against loops."""

import math

import numpy as np

from spil_d2.ops.similarity import unit_rows


def test_rows_get_length_one_by_a_loop():
    rows = np.random.default_rng(0).normal(size=(5, 7)) * [[1], [5], [0.01], [1e-6], [1e6]]
    expected = [[v / math.sqrt(sum(x * x for x in row)) for v in row] for row in rows.tolist()]
    np.testing.assert_allclose(unit_rows(rows), expected, rtol=1e-12)


def test_a_zero_row_stays_zero():
    np.testing.assert_array_equal(unit_rows(np.zeros((1, 3))), np.zeros((1, 3)))
