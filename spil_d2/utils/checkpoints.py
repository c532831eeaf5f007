"""Weights from files that somebody else may have written; no code in a file is ever run."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor

from .reading import DAMAGED, UnreadableFileError, check_expansion, reason_of, shown

_SUFFIX_OF_ZOO = ".pkl"


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, on files that may come from anybody.

    It reads PyTorch files of tensors and plain values, and .pkl files of Detectron2's zoo, of which
    it takes arrays, numbers and texts alone.
    """

    def _load_file(self, filename: str) -> dict[str, Any]:
        path = Path(filename)
        if path.suffix == ".pyth":
            raise UnreadableFileError(path, "is a file of pycls: save its 'model_state' as .pth")
        is_zoo = path.suffix == _SUFFIX_OF_ZOO
        loaded = _read_zoo_weights(path) if is_zoo else super()._load_file(filename)
        if loaded.get("matching_heuristics") and not loaded["model"]:
            raise UnreadableFileError(path, "holds no weights whose names could be matched")
        return loaded

    def _torch_load(self, f: str) -> dict[str, Any]:
        content = read_torch(Path(f))
        holder = content if "model" in content else {"model": content}
        holder["model"] = check_weights(Path(f), holder["model"])
        return holder


def _read_zoo_weights(path: Path) -> dict[str, Any]:
    """What Detectron2's checkpointer makes of a .pkl file."""
    content = read_zoo_pickle(path)
    if "model" in content and "__author__" in content:
        content["model"] = check_weights(path, content["model"])
        return content
    blobs = content.get("blobs", content)
    kept = {k: one for k, one in blobs.items() if not str(k).endswith("_momentum")}
    state = check_weights(path, kept)
    return {"model": state, "__author__": "Caffe2", "matching_heuristics": True}


def read_torch(path: str | Path) -> dict[str, Any]:
    """What `torch.save` has written: a dict of tensors and plain values, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFileError: it is damaged, holds anything else, or is much smaller than what it
            says it holds.
    """
    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                check_expansion(path, sum(one.file_size for one in archive.infolist()))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, UnreadableFileError):
        raise
    except pickle.UnpicklingError as error:
        raise UnreadableFileError(path, _unsafe_reason(error)) from error
    except DAMAGED as error:
        raise UnreadableFileError(path, f"is no readable checkpoint: {reason_of(error)}") from error
    if not isinstance(content, dict):
        raise UnreadableFileError(path, f"holds a {type(content).__name__}, no dict of weights")
    check_expansion(path, _bytes_of(path, content))
    return content


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file of `torch.save`.

    Raises:
        FileNotFoundError, UnreadableFileError: see `read_torch` and `check_weights`.
    """
    return check_weights(Path(path), read_torch(path))


def check_weights(path: Path, state: Any) -> dict[str, Any]:
    """A state dict, if it is one.

    Args:
        path: of the file, for the error.
        state: what should be a mapping of names to tensors or arrays.

    Raises:
        UnreadableFileError: it is something else, naming the entry.
    """
    if not isinstance(state, Mapping):
        raise UnreadableFileError(path, f"holds no weights, but {shown(state)}")
    for name, one in state.items():
        if not isinstance(name, str) or not isinstance(one, (Tensor, np.ndarray)):
            raise UnreadableFileError(
                path, f"is no file of weights: {shown(name)} is a {type(one).__name__}, no tensor"
            )
        if isinstance(one, np.ndarray) and one.dtype.kind not in "fiub":
            raise UnreadableFileError(path, f"holds {one.dtype} as {shown(name)}, no numbers")
    return dict(state)


def read_zoo_pickle(path: str | Path) -> dict[str, Any]:
    """The dict in a .pkl file of Detectron2's or Caffe2's zoo.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFileError: it is damaged, or asks for anything but arrays, numbers and texts.
    """
    path = Path(path)
    try:
        content = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except (FileNotFoundError, UnreadableFileError):
        raise
    except _ForbiddenName as error:
        raise UnreadableFileError(
            path,
            f"holds more than arrays, numbers and texts ({error}), and is not opened for safety: "
            "save its arrays as tensors with torch.save where you trust it",
        ) from error
    except (pickle.UnpicklingError, *DAMAGED) as error:
        raise UnreadableFileError(path, f"is no readable .pkl: {reason_of(error)}") from error
    if not isinstance(content, dict) or not isinstance(content.get("blobs", {}), dict):
        raise UnreadableFileError(path, f"holds a {type(content).__name__}, no dict of weights")
    check_expansion(path, _bytes_of(path, content))
    return content


class _ForbiddenName(pickle.UnpicklingError):
    """A pickle asks for something that is not on the list."""


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes the bytes of arrays for Python 2."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


# What arrays and their numbers ask for when they are unpickled.
_ARRAY: Any = np.zeros(0).__reduce__()[0]
_NUMBER: Any = np.float64(0).__reduce__()[0]
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
    **{(one, "_reconstruct"): _ARRAY for one in _MULTIARRAY},
    **{(one, "scalar"): _NUMBER for one in _MULTIARRAY},
}


# The Python class: in C's, a file of a few bytes can ask for a memo of gigabytes.
class _ArrayUnpickler(pickle._Unpickler):
    """Builds containers, numbers, texts and numpy arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in _ALLOWED:
            raise _ForbiddenName(f"{module}.{name}")
        return _ALLOWED[module, name]


def _unsafe_reason(error: pickle.UnpicklingError) -> str:
    found = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line]
    asked = f" ({found[0][:120]})" if found else ""
    return (
        f"holds more than tensors and plain values{asked}, and is not opened for safety: save its "
        "'state_dict' alone where you trust it"
    )


def _bytes_of(path: Path, content: Any) -> int:
    """Bytes that the tensors and arrays would take if each were copied."""
    total, waiting, seen = 0, [content], set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, Tensor):
            if one.layout != torch.strided or one.is_quantized or one.device.type != "cpu":
                raise UnreadableFileError(path, "holds a tensor without plain numbers")
            total += one.numel() * one.element_size()
        elif isinstance(one, np.ndarray):
            total += one.nbytes
        elif isinstance(one, (dict, list, tuple, set)) and id(one) not in seen:
            seen.add(id(one))
            waiting += [*one.keys(), *one.values()] if isinstance(one, dict) else one
    return total
