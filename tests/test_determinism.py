"""`python -m tests.determinism` sees every difference that matters, and no other."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from .determinism import compare_folders


def write(folder: Path, *, weight: float = 1.0, box: float = 2.0, label: str = "a") -> Path:
    (folder / "stages").mkdir(parents=True)
    torch.save({"model": {"w": torch.tensor([weight])}, "iteration": 3}, folder / "m.pth")
    np.savez(folder / "lists.npz", boxes=np.array([box, np.nan]), ids=np.arange(3))
    content = json.dumps({"targets": [label], "seconds_of_this": box})
    (folder / "stages" / "pool.json.gz").write_bytes(gzip.compress(content.encode()))
    chance = zlib.crc32(str(folder).encode())
    (folder / "summary.json").write_text(json.dumps({"mAP": weight, "seconds": chance}))
    (folder / "log.txt").write_text(str(folder))
    name = f"000001-{chance:08x}"
    (folder / "index.json").write_text(json.dumps({"segments": [name]}))
    (folder / name).mkdir()
    np.save(folder / name / "embeddings.npy", np.full(2, weight))
    return folder


def test_times_and_logs_do_not_count(tmp_path: Path) -> None:
    compared, different = compare_folders(write(tmp_path / "a"), write(tmp_path / "b"))
    own = ["index.json", "lists.npz", "m.pth", "stages/pool.json.gz", "summary.json"]
    assert compared == ["000001/embeddings.npy", *own]
    assert different == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"weight": 1.0000001}, ["000001/embeddings.npy", "m.pth", "summary.json"]),
        ({"box": np.nextafter(2.0, 3.0)}, ["lists.npz"]),
        ({"label": "b"}, ["stages/pool.json.gz"]),
    ],
)
def test_each_difference_is_named(tmp_path: Path, changes: dict, expected: list[str]) -> None:
    one, other = write(tmp_path / "a"), write(tmp_path / "b", **changes)
    assert compare_folders(one, other)[1] == expected
    (other / "more.npy").touch()
    assert compare_folders(one, other)[1] == sorted(["more.npy", *expected])
