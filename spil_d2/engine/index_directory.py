"""The layout of an index directory, and opening it for reading.

manifest.json    folder, engine, backend, counts, unreadable files
engine.yaml      the configuration that it was made with
files.sqlite     every file with its displayed size, or why it cannot be read
regions/         a RegionIndex
calibration.npz  from similarities to scores
segments/        work that is not in the regions yet
localizer/       what `adapt` has trained, if it has
features/        encoded gallery images, where a cache was asked for (`--cache-gb`)
"""

from __future__ import annotations

from pathlib import Path

from detectron2.config import CfgNode

from ..retrieval.index import RegionIndex, open_region_index
from ..utils.artifacts import file_sha256, read_manifest
from ..utils.reading import UnreadableFileError
from .file_table import FileTable
from .index_config import load_config

MANIFEST, CONFIG, FILES, REGIONS = "manifest.json", "engine.yaml", "files.sqlite", "regions"
SEGMENTS, CALIBRATION, LOCALIZER = "segments", "calibration.npz", "localizer"


class FolderIndex:
    """The files of an index directory, for reading."""

    def __init__(self, directory: str | Path):
        """Open the directory; regions are opened when they are first asked for.

        Raises:
            FileNotFoundError: there is no index.
            ValueError: a file of it is damaged.
        """
        self.directory = Path(directory)
        if not (self.directory / MANIFEST).is_file():
            raise FileNotFoundError(
                f"{self.directory} is no index: make one with `spil-d2 index FOLDER --out "
                f"{self.directory}`"
            )
        self.manifest = read_manifest(self.directory)
        if not isinstance(self.manifest.get("folder"), str):
            raise UnreadableFileError(self.directory / MANIFEST, "names no folder of pictures")
        self.config = read_config(self.directory)
        self.files = FileTable(self.directory / FILES, read_only=True)

    @property
    def folder(self) -> Path:
        """Of the pictures."""
        return Path(self.manifest["folder"])

    def open_regions(self) -> RegionIndex:
        """The regions as they were committed last.

        Raises:
            FileNotFoundError: nothing has been committed yet.
        """
        return open_region_index(self.directory / REGIONS)


def read_config(index_dir: Path) -> CfgNode:
    """The configuration that an index was made with.

    Raises:
        ValueError: its file was changed since, or is damaged.
    """
    path = index_dir / CONFIG
    if file_sha256(path) != read_manifest(index_dir).get("config_sha256"):
        raise ValueError(
            f"{path} is not what the index was made with: restore it, or make the index anew"
        )
    return load_config(path)
