#!/usr/bin/env python3
"""Makes a pure-Python wheel called `detectron2` from the wheel sal-detectron2 0.7.2 of PyPI.

    python scripts/repack_detectron2.py [--out build/wheels] [--source WHEEL]

PyPI has no `detectron2`. sal-detectron2 is Detectron2's main branch of 2024, but it is tagged for
Python 3.10, wants numpy 1, brings a top-level package `tools` and a library `_C` that loads with
one version of torch only. The new wheel leaves the last two out, repairs three files for numpy 2
and setuptools 82, and states what it needs. Everything else is taken byte for byte. RoIAlign and
NMS come from torchvision, so that R-CNN models are complete without `_C`; deformable convolutions
and rotated boxes are not. Needs pip only; the source and the result are checked by their SHA-256.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SOURCE = "sal-detectron2==0.7.2"
SOURCE_SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
VERSION = "0.6+sal.0.7.2"
WHEEL_NAME = f"detectron2-{VERSION}-py3-none-any.whl"
WHEEL_SHA256 = "25d40d09edea2327f7ccee615c27f2ec8ec3c9413c8407e2b777cd10c3815ecc"
INFO = f"detectron2-{VERSION}.dist-info"
DATE = (2024, 11, 29, 0, 0, 0)

# file -> (text that occurs once, its replacement)
REPAIRS = {
    "detectron2/layers/mask_ops.py": (
        ("mask = np.array(mask, copy=False)", "mask = np.asarray(mask)"),
    ),
    "detectron2/evaluation/sem_seg_evaluation.py": (
        ("    copy: bool = False,\n", ""),
        (
            "np.array(Image.open(f), copy=copy, dtype=dtype)",
            "np.asarray(Image.open(f), dtype=dtype)",
        ),
    ),
    "detectron2/model_zoo/model_zoo.py": (
        ("import pkg_resources\n", ""),
        (
            "pkg_resources.resource_filename(\n"
            '        "detectron2.model_zoo", os.path.join("configs", config_path)\n'
            "    )",
            'os.path.join(os.path.dirname(__file__), "configs", config_path)',
        ),
    ),
}

REQUIRES = (
    "Pillow>=7.1",
    "black",
    "cloudpickle",
    "fvcore>=0.1.5,<0.1.6",
    "hydra-core>=1.1",
    "iopath>=0.1.7",
    "matplotlib",
    "numpy",
    "omegaconf>=2.1",
    "packaging",
    "pycocotools>=2.0.2",
    "tabulate",
    "tensorboard",
    "termcolor>=1.1",
    "tqdm>4.29.0",
    "yacs>=0.1.8",
)


def main() -> None:
    """Make the wheel where it is not there yet, and print its path."""
    parser = argparse.ArgumentParser(description="repack sal-detectron2 as a wheel `detectron2`")
    parser.add_argument(
        "--out", type=Path, default=Path("build/wheels"), help="folder of the wheel"
    )
    parser.add_argument(
        "--source", type=Path, help="the sal-detectron2 wheel; default: download it"
    )
    args = parser.parse_args()
    target = args.out / WHEEL_NAME
    if not (target.is_file() and sha256(target.read_bytes()) == WHEEL_SHA256):
        with tempfile.TemporaryDirectory() as folder:
            source = args.source or download(Path(folder))
            wheel = repack(source)
        args.out.mkdir(parents=True, exist_ok=True)
        # Written aside and renamed: a killed run leaves no half wheel.
        temporary = target.with_suffix(".tmp")
        temporary.write_bytes(wheel)
        temporary.replace(target)
    print(target)


def sha256(data: bytes) -> str:
    """Hexadecimal digest."""
    return hashlib.sha256(data).hexdigest()


def download(folder: Path) -> Path:
    """The source wheel from the package index; any Python may fetch it."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
    ]
    command += ["--only-binary=:all:", "--python-version=3.10", "--implementation=cp"]
    command += ["--abi=none", "--platform=any", SOURCE]
    if subprocess.run(command).returncode != 0:
        raise SystemExit(
            f"pip could not download {SOURCE}; without a network pass its wheel with --source"
        )
    return next(folder.glob("*.whl"))


def repack(source: Path) -> bytes:
    """The bytes of the new wheel.

    Raises:
        SystemExit: the source or the result is not the known one.
    """
    if sha256(source.read_bytes()) != SOURCE_SHA256:
        raise SystemExit(f"{source}: SHA-256 is not {SOURCE_SHA256}; download it again")
    with zipfile.ZipFile(source) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if is_kept(name)}
        licence = next(name for name in archive.namelist() if name.endswith(".dist-info/LICENSE"))
        files[f"{INFO}/licenses/LICENSE"] = archive.read(licence)
    for name, replacements in REPAIRS.items():
        files[name] = repair(name, files[name], replacements)
    files.update(metadata())
    wheel = pack(files)
    if sha256(wheel) != WHEEL_SHA256:
        raise SystemExit(
            f"the repacked wheel has SHA-256 {sha256(wheel)}, not {WHEEL_SHA256}: this script was "
            "changed; check the wheel and update WHEEL_SHA256"
        )
    return wheel


def is_kept(name: str) -> bool:
    """Whether a file of the source wheel is part of the new one: no compiled code."""
    return name.startswith("detectron2/") and not name.endswith(("/", ".so"))


def repair(name: str, content: bytes, replacements: tuple[tuple[str, str], ...]) -> bytes:
    """Content of a file with texts replaced, each of which must stand in it once."""
    text = content.decode()
    for old, new in replacements:
        if text.count(old) != 1:
            raise SystemExit(f"{name}: expected once, found {text.count(old)} times: {old!r}")
        text = text.replace(old, new)
    return text.encode()


def metadata() -> dict[str, bytes]:
    """Name and content of the files that describe the wheel."""
    lines = [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {VERSION}",
        f"Summary: Detectron2 (FAIR) without compiled code, repacked from {SOURCE}",
        "Home-page: https://github.com/facebookresearch/detectron2",
        "License: Apache-2.0",
        "Requires-Python: >=3.9",
        *(f"Requires-Dist: {requirement}" for requirement in REQUIRES),
    ]
    wheel = [
        "Wheel-Version: 1.0",
        "Generator: spil_d2",
        "Root-Is-Purelib: true",
        "Tag: py3-none-any",
    ]
    return {
        f"{INFO}/METADATA": "\n".join([*lines, ""]).encode(),
        f"{INFO}/WHEEL": "\n".join([*wheel, ""]).encode(),
        f"{INFO}/top_level.txt": b"detectron2\n",
    }


def pack(files: dict[str, bytes]) -> bytes:
    """A wheel with the same bytes on every machine: sorted, one date, not compressed.

    Compressed bytes differ between builds of zlib.
    """
    record = []
    for name in sorted(files):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=")
        record.append(f"{name},sha256={digest.decode()},{len(files[name])}")
    record += [f"{INFO}/RECORD,,", ""]
    with tempfile.TemporaryFile() as stream:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(files):
                archive.writestr(entry(name), files[name])
            archive.writestr(entry(f"{INFO}/RECORD"), "\n".join(record).encode())
        stream.seek(0)
        return stream.read()


def entry(name: str) -> zipfile.ZipInfo:
    """A file of the archive, of a fixed date and with fixed rights."""
    info = zipfile.ZipInfo(name, DATE)
    info.create_system = 3  # Unix, wherever this runs
    info.external_attr = 0o644 << 16
    return info


if __name__ == "__main__":
    main()
