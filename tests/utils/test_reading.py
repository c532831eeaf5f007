"""Readers of files from anybody: what a file holds, or an error that names it."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from spil_d2.data.datasets.fields import DatasetError
from spil_d2.evaluation.ins_predictions import PredictionError
from spil_d2.utils import reading
from spil_d2.utils.picture_files import UnreadablePictureError
from spil_d2.utils.reading import (
    UnreadableFileError,
    map_array,
    open_arrays,
    printable,
    read_json,
    read_text,
    shown,
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read: 'utf-8' codec"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "cannot be read as JSON: Exceeds the limit"),
        (b'{"a": 1', "cannot be read as JSON"),
    ],
)
def test_what_is_no_json_names_the_file(tmp_path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UnreadableFileError, match=rf"a\.json {message}|a\.json .*{message}"):
        read_json(tmp_path / "a.json")


def test_json_is_read_packed_or_not(tmp_path) -> None:
    value = {"a": [1, 2.5, None, "é"]}
    (tmp_path / "a.json").write_text(json.dumps(value))
    (tmp_path / "a.gz").write_bytes(gzip.compress(json.dumps(value).encode()))
    assert read_json(tmp_path / "a.json") == value
    assert read_json(tmp_path / "a.gz", compressed=True) == value
    with pytest.raises(FileNotFoundError, match=r"b\.json"):
        read_json(tmp_path / "b.json")
    with pytest.raises(UnreadableFileError, match="cannot be read"):
        read_text(tmp_path)


def test_a_gzip_bomb_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(reading, "_FREE_BYTES", 1000)
    (tmp_path / "a.gz").write_bytes(gzip.compress(b" " * 10_000_000))
    with pytest.raises(UnreadableFileError, match=r"a\.gz would take \d+ bytes"):
        read_json(tmp_path / "a.gz", compressed=True)


def test_values_and_messages_stay_short_and_printable() -> None:
    nested: list = []
    for _ in range(50_000):
        nested = [nested]
    assert len(shown(nested)) < 200
    assert len(shown("x" * 10_000)) < 200
    assert printable("a\ud800\0") == "a\\ud800\\0"
    assert len(printable("x" * 10_000)) < 2100


def write(path, **arrays) -> None:
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"b": np.zeros(3)}, "lacks the array 'a'; it holds"),
        ({"a": np.zeros(3, np.int32)}, r"a is int32 \(3,\), must be numbers \(N,\)"),
        ({"a": np.zeros((3, 1))}, r"a is float64 \(3, 1\), must be numbers \(N,\)"),
        ({"a": np.array([1.0, np.nan])}, "a holds numbers that are not finite"),
    ],
)
def test_a_wrong_array_is_named(tmp_path, arrays: dict, message: str) -> None:
    write(tmp_path / "a.npz", **arrays)
    with pytest.raises(UnreadableFileError, match=rf"a\.npz is not a readable thing: .*{message}"):
        with open_arrays(tmp_path / "a.npz", "thing") as opened:
            opened.read("a", "f", None)


def npy(descr: str, shape: str, data: bytes = bytes(24)) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


@pytest.mark.parametrize(
    "content",
    [
        npy("'<f8'", "(10**12,)"),
        npy("'<f8'", "(1000000000000,)"),
        npy("'<f8'", "(-1,)"),
        npy("'|O'", "(3,)"),
        npy("'<f8'", "(((((((((("),
        npy("'<f8", "(3,)"),
        npy("[('a', '|O')]", "(3,)"),
        npy("'<U99999999'", "(3,)"),
        b"\x93NUMPY\x09\x00",
        pickle.dumps([1]),
        b"",
    ],
)
def test_a_header_that_claims_too_much_is_refused(tmp_path, content: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", content)
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UnreadableFileError, match=r"a\.npz is not a readable thing"):
        with open_arrays(tmp_path / "a.npz", "thing") as opened:
            opened.read("a", "f", None)
    with pytest.raises(UnreadableFileError, match=r"a\.npy (is no array|holds)"):
        map_array(tmp_path / "a.npy", "f8", ndim=3)


def test_an_npz_bomb_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(reading, "_FREE_BYTES", 1000)
    write(tmp_path / "a.npz", a=np.zeros(10**6))
    with pytest.raises(UnreadableFileError, match=r"a\.npz would take \d+ bytes"):
        with open_arrays(tmp_path / "a.npz", "thing"):
            pass


def test_an_encrypted_or_oddly_packed_npz_is_refused(tmp_path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", buffer.getvalue())
    with pytest.raises(UnreadableFileError, match="compressed in an unusual way"):
        with open_arrays(tmp_path / "a.npz", "thing"):
            pass


def test_an_error_of_the_block_names_the_file(tmp_path) -> None:
    write(tmp_path / "a.npz", a=np.zeros(3))
    with pytest.raises(UnreadableFileError, match=r"a\.npz is not a readable thing: too short"):
        with open_arrays(tmp_path / "a.npz", "thing"):
            raise ValueError("too short")


class Evil:
    """Unpickled, it makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "error",
    [
        UnreadableFileError(Path("a.json"), "is none"),
        UnreadablePictureError("a.jpg", "is none"),
        PredictionError("p.json: record 3: wrong"),
        DatasetError("a.json: images[1]: wrong"),
    ],
)
def test_errors_of_workers_arrive_as_they_are(error: ValueError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error)


def test_an_array_of_objects_runs_nothing(tmp_path) -> None:
    evil = np.array([Evil(tmp_path / "made")], object)
    np.save(tmp_path / "a.npy", evil, allow_pickle=True)
    write(tmp_path / "a.npz", a=evil)
    with pytest.raises(UnreadableFileError, match=r"a\.npz .*a is object"):
        with open_arrays(tmp_path / "a.npz", "thing") as opened:
            opened.read("a", "f", None)
    with pytest.raises(UnreadableFileError, match=r"a\.npy is no array file"):
        map_array(tmp_path / "a.npy", "f8", ndim=1)
    assert not (tmp_path / "made").exists()
