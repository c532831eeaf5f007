"""Weights from anybody: what is taken, and that nothing in a file runs."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from spil_d2.utils import reading
from spil_d2.utils.checkpoints import SafeCheckpointer, read_state, read_torch, read_zoo_pickle
from spil_d2.utils.reading import UnreadableFileError
from spil_d2.utils.shared import find_shared


class Evil:
    """Unpickled, it makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2))


def test_a_checkpoint_is_loaded(tmp_path) -> None:
    torch.save({"model": net().state_dict(), "iteration": 7}, tmp_path / "m.pth")
    other = nn.Sequential(nn.Linear(3, 2))
    rest = SafeCheckpointer(other).load(str(tmp_path / "m.pth"))
    assert rest["iteration"] == 7
    torch.testing.assert_close(other[0].weight, net()[0].weight)
    torch.save(net().state_dict(), tmp_path / "s.pth")
    SafeCheckpointer(other).load(str(tmp_path / "s.pth"))
    assert set(read_state(tmp_path / "s.pth")) == {"0.weight", "0.bias"}


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_of_the_zoo_is_loaded(tmp_path, protocol: int) -> None:
    weight, bias = np.ones((2, 3), np.float16), np.float32([3, 4])
    zoo = {"model": {"0.weight": weight, "0.bias": bias}, "__author__": "D2"}
    for content in (zoo, {"blobs": {**zoo["model"], "0.bias_momentum": bias}}):
        (tmp_path / "m.pkl").write_bytes(pickle.dumps(content, protocol))
        model = net()
        SafeCheckpointer(model).load(str(tmp_path / "m.pkl"))
        assert model[0].bias.tolist() == [3, 4]


def test_the_resnet_of_the_zoo_is_read_as_by_pickle() -> None:
    shared = find_shared()
    path = shared / "weights" / "R-50-C4_msra_fp16.pkl" if shared else None
    if path is None or not path.is_file():
        pytest.skip("the shared folder holds no R-50-C4_msra_fp16.pkl")
    with open(path, "rb") as file:
        expected = pickle.load(file, encoding="latin1")
    found = read_zoo_pickle(path)
    assert found.keys() == expected.keys()
    for name, one in expected["model"].items():
        np.testing.assert_array_equal(found["model"][name], one)


@pytest.mark.parametrize("name", ["a.pth", "a.pkl", "a.pyth", "a"])
@pytest.mark.parametrize("place", ["top", "weight", "array"])
def test_a_file_that_would_run_code_is_refused(tmp_path, name: str, place: str) -> None:
    made = tmp_path / "made"
    evil = {"top": Evil(made), "weight": {"model": {"w": Evil(made)}}}.get(
        place, {"model": {"w": np.array([Evil(made)], object)}}
    )
    path = tmp_path / name
    if name.endswith("pkl"):
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path)
    with pytest.raises(UnreadableFileError, match=rf"{name} (holds more than|is a file of pycls)"):
        SafeCheckpointer(net()).load(str(path))
    assert not made.exists()


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "holds a list"),
        ({"model": {"w": 3}}, "'w' is a int, no tensor"),
        ({"model": {1: torch.ones(1)}}, "1 is a Tensor|no tensor"),
        ({"model": 3}, "holds no weights"),
        ({"w": torch.zeros(1).expand(10**6, 10**5)}, "bytes of memory, but has"),
        ({"w": torch.ones(3).to_sparse()}, "without plain numbers"),
        ({"w": torch.empty(10**12, device="meta")}, "without plain numbers"),
    ],
)
def test_what_holds_no_weights_is_refused(tmp_path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(UnreadableFileError, match=rf"m\.pth.*({message})"):
        SafeCheckpointer(net()).load(str(tmp_path / "m.pth"))


def test_a_bomb_is_not_opened(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(reading, "_FREE_BYTES", 1 << 20)
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(1 << 20)}, buffer)
    with zipfile.ZipFile(buffer) as plain:
        with zipfile.ZipFile(tmp_path / "m.pth", "w", zipfile.ZIP_DEFLATED) as packed:
            for one in plain.namelist():
                packed.writestr(one, plain.read(one))
    with pytest.raises(UnreadableFileError, match=r"m\.pth would take \d+ bytes of memory"):
        read_torch(tmp_path / "m.pth")


def test_a_pickle_of_a_few_bytes_takes_no_gigabytes(tmp_path) -> None:
    """LONG_BINPUT asks for place 2**31 of the memo, which C's reader then allocates."""
    (tmp_path / "m.pkl").write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")
    assert read_zoo_pickle(tmp_path / "m.pkl") == {}
