"""MATLAB files that SciPy's reader takes too much on trust of."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io.matlab
from scipy.io import loadmat, savemat

from spil_d2.data.datasets.fields import DatasetError
from spil_d2.data.datasets.matlab import matlab_numbers, read_matlab
from spil_d2.utils import reading

from ..fuzz.codecs import nested_mat


@pytest.mark.parametrize("compressed", [False, True])
def test_deep_cells_do_not_end_the_process(tmp_path, compressed: bool) -> None:
    """SciPy 1.16 runs out of stack on a file of 240 KB."""
    path = tmp_path / "deep.mat"
    path.write_bytes(nested_mat(20, "x", compressed))
    assert read_matlab(path)["x"].shape == (1, 1)
    path.write_bytes(nested_mat(5000, "x", compressed))
    with pytest.raises(DatasetError, match=r"deep\.mat: cannot be read.*nested deeper than 32"):
        read_matlab(path)


@pytest.mark.parametrize(("value", "place"), [(0x4010, "type"), (14, "type"), (99, "class")])
def test_numbers_that_end_scipys_process_are_refused(tmp_path, value: int, place: str) -> None:
    """SciPy 1.16 takes a type that there is not as a place in a table, and reads beyond it."""
    path = tmp_path / "a.mat"
    content = bytearray(nested_mat(1, "x"))
    # The tag of the number inside, or the flags of its array.
    spot = len(content) - 16 if place == "type" else content.rindex(struct.pack("<II", 6, 8)) + 8
    content[spot : spot + 4] = struct.pack("<I", value)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"a\.mat: cannot be read.*at byte .* {place}"):
        read_matlab(path)


def test_a_bomb_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(reading, "_FREE_BYTES", 1000)
    savemat(tmp_path / "a.mat", {"x": np.zeros(10**6)}, do_compression=True)
    with pytest.raises(DatasetError, match=r"a\.mat: cannot be read.*would take"):
        read_matlab(tmp_path / "a.mat")


@pytest.mark.parametrize("compressed", [False, True])
def test_ordinary_files_are_read(tmp_path, compressed: bool) -> None:
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = "a.jpg", np.arange(3)
    content = {"cells": cells, "s": {"a": [1.5, 2.5], "b": {"c": "x"}}, "n": np.eye(3)}
    savemat(tmp_path / "a.mat", content, do_compression=compressed)
    found = read_matlab(tmp_path / "a.mat", simplify=True)
    assert found["s"]["b"]["c"] == "x" and found["cells"][0] == "a.jpg"
    np.testing.assert_array_equal(matlab_numbers(found["n"], "x"), np.eye(3).ravel())


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0", b"\0" * 200, zlib.compress(b"x" * 500)])
def test_what_is_no_matlab_file_is_named(tmp_path, content: bytes) -> None:
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.mat: cannot be read as a MATLAB file"):
        read_matlab(tmp_path / "a.mat")


@pytest.mark.parametrize("value", [["a"], None, np.array([np.nan]), np.array([1e30]), {"a": 1}])
def test_what_is_no_number_names_the_record(value: object) -> None:
    with pytest.raises(DatasetError, match=r"a\.mat: gnd\(1\)"):
        matlab_numbers(value, "a.mat: gnd(1)")


def test_files_of_matlab_itself_are_read(tmp_path) -> None:
    """SciPy's own examples of the versions 6 to 7.4, those of functions left out."""
    folder = Path(scipy.io.matlab.__file__).parent / "tests" / "data"
    paths = sorted(folder.glob("test*_[67]*_GLNX86.mat"))
    if not paths:
        pytest.skip("this SciPy comes without its tests")
    for path in paths:
        if "func" not in path.name and "hdf5" not in path.name:
            assert read_matlab(path).keys() == loadmat(path).keys()
