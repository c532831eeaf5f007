"""Between files and the trees that `mutations.change_tree` changes."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
import yaml
from scipy.io import savemat

from .mutations import DEEP, change_bytes, change_lines, change_tree, random_value

Change = Callable[[bytes, Random], bytes]
"""(content of a valid file, generator) -> content of a mutant."""

_DEEP_JSON = "[" * 20_000 + "]" * 20_000


@dataclass(frozen=True)
class Evil:
    """What no reader may build: unpickled, it makes the directory `path`."""

    path: str = "fuzz-was-here"

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.mkdir, (self.path,)


def change_json(content: bytes, rng: Random) -> bytes:
    text = json.dumps(change_tree(json.loads(content), rng))
    return text.replace(json.dumps(DEEP), _DEEP_JSON).encode()


def change_gzipped_json(content: bytes, rng: Random) -> bytes:
    return gzip.compress(change_json(gzip.decompress(content), rng), 1, mtime=0)


def change_text(content: bytes, rng: Random) -> bytes:
    return change_lines(content.decode(), rng).encode("utf-8", "surrogatepass")


_YAML_LINES = (
    "EVIL: !!python/object/apply:os.mkdir [fuzz-was-here]",
    "EVIL: !!python/name:os.system",
    "_BASE_: config.yaml",
    "_BASE_: [base.yaml, config.yaml]",
    "_BASE_: /etc/passwd",
    "_BASE_: https://127.0.0.1:1/x.yaml",
    "A: &a [1, 1]",
    "SEED: *a",
    "<<: {MODEL: 1}",
    "a: &a {x: *a}",
    "? [1, 2]\n: 3",
    "VERSION: 1",
    "OUTPUT_DIR: '(((((((((('",
    "OUTPUT_DIR: '{[]: 1}'",
    "SEED: " + "9" * 5000,
    "SEED: 1:1:1:1",
    "SEED: 2001-01-01",
    "X: " + "[" * 1500,
    "\t- x",
    "%YAML 9.9",
    "--- a",
)


def change_yaml(content: bytes, rng: Random) -> bytes:
    if rng.random() < 0.3:
        lines = content.decode().split("\n")
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(_YAML_LINES))
        return "\n".join(lines).encode()
    tree = change_tree(yaml.safe_load(content), rng)
    text = yaml.safe_dump(tree, allow_unicode=True)
    return text.replace(DEEP, _DEEP_JSON).encode("utf-8", "surrogatepass")


def change_npz(content: bytes, rng: Random) -> bytes:
    with np.load(io.BytesIO(content), allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    if rng.random() < 0.15:
        return _odd_npz(arrays, rng)
    tree = change_tree(arrays, rng)
    if not isinstance(tree, dict):
        tree = {"arr": np.asarray(str(tree))}
    buffer = io.BytesIO()
    save = rng.choice((np.savez, np.savez_compressed))
    save(buffer, **{str(k).replace("\0", ""): _as_array(v) for k, v in tree.items()})
    return buffer.getvalue()


def _odd_npz(arrays: dict[str, np.ndarray], rng: Random) -> bytes:
    """Headers that claim other shapes and types, bombs, and odd kinds of zip."""
    buffer = io.BytesIO()
    odd = rng.choice(list(arrays))
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
        warnings.simplefilter("ignore")
        for name, array in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, array)
            data = part.getvalue()
            if name == odd:
                data = _odd_npy(array, data, rng)
            archive.writestr(f"{name}.npy", data)
            if rng.random() < 0.1:
                archive.writestr(rng.choice((f"{name}.npy", "../x", "/x")), data)
    return buffer.getvalue()


def _odd_npy(array: np.ndarray, data: bytes, rng: Random) -> bytes:
    start = len(data) - array.nbytes
    match rng.randrange(5):
        case 0:
            return b"\0" * (300 << 10)
        case 1:
            return pickle.dumps(Evil())
        case 2:
            return change_bytes(data, rng)
    shape = rng.choice(("(10**12,)", "(-1,)", "(1000000000000, 4)", "(2**63, 2**63)", "()", "(0,)"))
    descr = rng.choice((repr(array.dtype.str), "'|O'", "[('a', '|O')]", "'<f8'", "'<U99999999'"))
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data[start:]


def change_npy(content: bytes, rng: Random) -> bytes:
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if rng.random() < 0.4:
        return _odd_npy(array, content, rng)
    buffer = io.BytesIO()
    np.save(buffer, _as_array(change_tree({"a": array}, rng)))
    return buffer.getvalue()


def _as_array(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, (str, bool, float)):
        return np.array(str(value).encode() if isinstance(value, str) else value)
    return np.array(value if value is not None else Evil(), dtype=object)


def mat_change(make: Callable[[], dict[str, Any]]) -> Change:
    """The change of a MATLAB file whose variables `make` gives."""

    def change(content: bytes, rng: Random) -> bytes:
        if rng.random() < 0.05:
            return nested_mat(rng.choice((3, 40, 20_000)), next(iter(make())))
        tree = change_tree(make(), rng)
        if not isinstance(tree, dict):
            tree = {"x": 1}
        buffer = io.BytesIO()
        names = {_mat_name(k): _mat_value(v) for k, v in tree.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            savemat(buffer, names, do_compression=rng.random() < 0.5)
        return buffer.getvalue()

    return change


def _mat_name(name: str) -> str:
    return (
        "".join(one for one in name if one.isascii() and (one.isalnum() or one == "_")).lstrip(
            "_0123456789"
        )[:30]
        or "x"
    )


def _mat_value(value: Any) -> Any:
    return {} if value is None else value


def nested_mat(depth: int, name: str = "x", compressed: bool = False) -> bytes:
    """A MATLAB file of one variable: cells in cells, `depth` of them."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    def head(label: bytes, kind: int = 1) -> bytes:
        flags, dims = struct.pack("<II", kind, 0), struct.pack("<ii", 1, 1)
        return element(6, flags) + element(5, dims) + element(1, label)

    # From the inside out; a cell adds a tag, whose length is the only thing that is not constant.
    parts = [element(14, head(b"", 6) + element(9, struct.pack("<d", 1.0)))]
    size = len(parts[0])
    for level in range(depth):
        label = name.encode() if level == depth - 1 else b""
        inside = head(label)
        parts.append(struct.pack("<II", 14, len(inside) + size) + inside)
        size += len(parts[-1])
    body = b"".join(reversed(parts))
    if compressed:
        packed = zlib.compress(body)
        body = struct.pack("<II", 15, len(packed)) + packed
    return b"MATLAB 5.0".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + body


def change_torch(content: bytes, rng: Random) -> bytes:
    tree = torch.load(io.BytesIO(content), weights_only=True)
    changed = _change_state(tree, rng)
    buffer = io.BytesIO()
    torch.save(changed, buffer, _use_new_zipfile_serialization=rng.random() < 0.7)
    return buffer.getvalue()


def _change_state(tree: Any, rng: Random) -> Any:
    """Changes that know tensors; else those of any tree."""
    if rng.random() < 0.5:
        return change_tree(tree, rng)
    holder = rng.choice([tree, *(one for one in tree.values() if isinstance(one, dict))])
    if not holder:
        return tree
    key = rng.choice(list(holder))
    one = holder[key]
    tensor = one if isinstance(one, torch.Tensor) else torch.zeros(2)
    holder[key] = rng.choice(
        (
            Evil(),
            torch.zeros(1).expand(10**6, 10**5),
            tensor.to_sparse() if tensor.ndim else tensor,
            tensor.bool(),
            tensor.to(torch.complex64),
            tensor.reshape(-1)[:1].reshape(()) if tensor.numel() else tensor,
            tensor.reshape(-1)[:0],
            torch.full_like(tensor.float(), float("nan")),
            torch.empty(10**6, device="meta"),
            tensor.double(),
            print,
            {1: tensor},
            [tensor],
        )
    )
    if rng.random() < 0.2:
        holder[rng.choice((1, None, "", "x" * 5000, "\ud800", (1, 2)))] = one
    return tree


def pickle_change(make: Callable[[], dict[str, Any]]) -> Change:
    """The change of a pickle of what `make` gives."""

    def change(content: bytes, rng: Random) -> bytes:
        tree = change_tree(make(), rng)
        if rng.random() < 0.2 and isinstance(tree, dict):
            odd = (Evil(), print, np.array([Evil()], object), random_value(rng))
            tree["evil"] = rng.choice(odd)
        return pickle.dumps(tree, protocol=rng.choice((0, 1, 2, 3, 4, 5)))

    return change


def change_png(content: bytes, rng: Random) -> bytes:
    """Changes of the chunks of a PNG, with right checksums: decoders look further then."""
    chunks, place = [], 8
    while place + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, place)
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += 12 + size
    index = rng.randrange(len(chunks))
    kind, data = chunks[index]
    if kind == b"IHDR" or rng.random() < 0.3:
        sides = (0, 1, 9, 13_000, 65_535, 2**31 - 1, 2**32 - 1)
        head = struct.pack(">II", rng.choice(sides), rng.choice(sides))
        chunks[0] = b"IHDR", head + chunks[0][1][8:]
    elif rng.random() < 0.5:
        chunks[index] = kind, change_bytes(data, rng)
    else:
        chunks.insert(
            index, (rng.choice((b"tEXt", b"zTXt", b"iCCP", b"acTL", b"PLTE", kind)), data)
        )
    result = content[:8]
    for kind, data in chunks:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        result += struct.pack(">I", len(data)) + kind + data + checksum
    return result
