"""An index of a folder's pictures: made step by step, kept up to date, never lost halfway."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from tqdm import tqdm

from ..data.pictures import Picture, read_picture
from ..retrieval import build_search_engine
from ..retrieval.index import RegionIndex, create_region_index, open_region_index
from ..retrieval.index.segments import Head, remove_other_segments
from ..utils.artifacts import (
    SCHEMA_VERSION,
    file_sha256,
    is_published,
    lock_output_dir,
    read_manifest,
    remove_artefact,
    remove_leftovers,
    write_json_atomic,
)
from .calibration import Calibrator, fit_calibrator
from .file_table import INDEXED, LEAVING, NEW, UNREADABLE, FileTable, Outcome
from .folder_scan import scan_folder
from .index_config import (
    DEFAULT_ENGINE,
    build_index_config,
    engine_fingerprint,
    save_config,
)
from .index_directory import CALIBRATION, CONFIG, FILES, MANIFEST, REGIONS, SEGMENTS, read_config
from .parallel_index import WorkerDiedError, map_with_engine, num_index_workers
from .segments import (
    SEGMENT_IMAGES,
    STARTED,
    WORKING_SIDE,
    SegmentJob,
    make_segment,
    read_outcomes,
    read_segment,
    take_started,
)

logger = logging.getLogger(__name__)

BACKENDS = ("exact", "faiss", "milvus")
_DELETED_AT_ONCE = 1024
# Scores are calibrated anew when the number of pictures has changed by more than this part.
_CALIBRATION_DRIFT = 0.2


@dataclass(frozen=True)
class IndexSettings:
    """How a folder is indexed; None is what the index has, or the default for a new one.

    Attributes:
        engine: name of a file in `configs/search/`.
        backend: of the regions: "exact", "faiss" or "milvus".
        config_file: a yaml of the user's own instead.
        opts: KEY VALUE ... on top of either.
        num_workers: processes; -1: one a core on a CPU, none beside an accelerator.
        moved: the folder lies elsewhere now, with the same files.
        retry_unreadable: read unchanged files again that could not be read before.
        segment_images: pictures that are committed together.
    """

    engine: str | None = None
    backend: str | None = None
    config_file: str | Path | None = None
    opts: tuple[str, ...] = ()
    num_workers: int = -1
    moved: bool = False
    retry_unreadable: bool = False
    segment_images: int = SEGMENT_IMAGES

    def __post_init__(self) -> None:
        if self.backend is not None and self.backend not in BACKENDS:
            raise ValueError(f"there is no backend {self.backend!r}: use one of {BACKENDS}")
        if self.num_workers < -1 or self.segment_images < 1:
            raise ValueError(
                f"{self.num_workers} workers, segments of {self.segment_images} images; allowed "
                "are -1 or more, and 1 or more"
            )


@dataclass(frozen=True)
class IndexReport:
    """What a run has done.

    Attributes:
        added, removed: pictures that came into and left the index.
        images, regions: in the index now.
        unreadable: relative path and reason of each file that could not be read, in this run or
            before.
        seconds: that the run took.
    """

    added: int
    removed: int
    images: int
    regions: int
    unreadable: tuple[tuple[str, str], ...]
    seconds: float


def index_folder(
    folder: str | Path,
    index_dir: str | Path,
    settings: IndexSettings | None = None,
    progress: bool = True,
) -> IndexReport:
    """Bring the index of a folder up to date, or make it.

    What is new or changed (by size and time) is read, what is gone leaves. Work is committed in
    segments: a run that was killed goes on after the last one. The same files give the same index
    with any number of workers.

    Args:
        folder: with pictures, in subfolders too.
        index_dir: where the index is or will be.
        settings: see there.
        progress: show a bar.

    Returns:
        What was done; unreadable files are listed there and in the manifest.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the index is of another folder, engine or backend, or its files are damaged.
        RuntimeError: another run is writing to it, or the workers die again and again.
        DiskError: the disk is full or read-only; the next run goes on where this one was.
    """
    started = time.monotonic()
    folder, index_dir = Path(folder).resolve(), Path(index_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder")
    if index_dir.exists() and any(index_dir.iterdir()) and not _is_ours(index_dir):
        raise ValueError(f"{index_dir} holds other files: choose a new folder for the index")
    with lock_output_dir(index_dir):
        run = _Run(folder, index_dir, settings or IndexSettings(), progress)
        added, removed = run.update()
        run.calibrate()
        return run.finish(added, removed, started)


def _is_ours(index_dir: Path) -> bool:
    names = {one.name for one in index_dir.iterdir()}
    return bool(names & {MANIFEST, CONFIG}) or names <= {".run.lock"}


class _Run:
    """One run of the indexer, under the lock."""

    def __init__(self, folder: Path, index_dir: Path, settings: IndexSettings, progress: bool):
        self._folder, self._directory, self._settings = folder, index_dir, settings
        self._progress = progress
        self._cfg = self._agree_on_config()
        self._files = FileTable(index_dir / FILES)
        self._segments = index_dir / SEGMENTS
        self._segments.mkdir(exist_ok=True)
        self._regions = self._open_regions()

    def update(self) -> tuple[int, int]:
        """Do all there is to do; returns how many pictures came and went."""
        before = len(self._regions)
        for folder in (self._segments, self._directory / REGIONS / "segments"):
            remove_leftovers(folder)
        for marker in self._segments.glob(f"*{STARTED}"):
            marker.unlink()
        for directory in self._published():
            self._commit(directory, is_replay=True)
        scanned = scan_folder(self._folder, skipped=self._directory)
        self._files.update(scanned, self._settings.retry_unreadable)
        removed = self._delete_leaving()
        with tqdm(
            total=self._files.count(NEW), desc="indexing", unit="image", disable=not self._progress
        ) as bar:
            while self._files.count(NEW):
                try:
                    for directory in self._make_segments():
                        bar.update(self._commit(directory))
                except WorkerDiedError as error:
                    bar.update(self._survive(error))
        return len(self._regions) - before + removed, removed

    def calibrate(self) -> None:
        """Fit the calibration of scores, where there is none for about this many pictures."""
        path, count = self._directory / CALIBRATION, len(self._regions)
        if not count:
            path.unlink(missing_ok=True)
            return
        if path.is_file():
            known = Calibrator.load(path).num_images
            if abs(count - known) <= _CALIBRATION_DRIFT * known:
                return
        engine = build_search_engine(self._cfg)
        fit_calibrator(engine, self._regions, self._read, progress=self._progress).save(path)

    def _read(self, image_id: int) -> Picture:
        return read_picture(self._folder / self._files.by_id(image_id).path, WORKING_SIDE)

    def finish(self, added: int, removed: int, started: float) -> IndexReport:
        """Write the manifest as of now."""
        unreadable = tuple((one.path, one.error) for one in self._files.rows(UNREADABLE))
        report = IndexReport(
            added,
            removed,
            self._files.count(INDEXED),
            self._regions.num_regions,
            unreadable,
            time.monotonic() - started,
        )
        manifest = read_manifest(self._directory)
        manifest.update(
            images=report.images,
            regions=report.regions,
            dimension=self._regions.dimension,
            unreadable=[{"image": path, "reason": reason} for path, reason in unreadable],
            is_complete=True,
        )
        write_json_atomic(self._directory / MANIFEST, manifest)
        self._regions.close()
        return report

    def _agree_on_config(self) -> CfgNode:
        """The configuration of the index, new or there already; the manifest is on the disk."""
        settings, directory = self._settings, self._directory
        if not is_published(directory):
            cfg = build_index_config(settings.engine, settings.config_file, settings.opts)
            save_config(cfg, directory / CONFIG)
            file = settings.config_file
            manifest: dict[str, Any] = {
                "schema_version": SCHEMA_VERSION,
                "folder": str(self._folder),
                "engine": Path(file).stem if file else settings.engine or DEFAULT_ENGINE,
                "backend": settings.backend or BACKENDS[0],
                "config_sha256": file_sha256(directory / CONFIG),
            }
        else:
            manifest, cfg = read_manifest(directory), read_config(directory)
            self._check(manifest, cfg)
        manifest |= {"folder": str(self._folder), "is_complete": False}
        write_json_atomic(directory / MANIFEST, manifest)
        self._backend = str(manifest["backend"])
        cfg.SEARCH.NUM_WORKERS = settings.num_workers
        return cfg

    def _check(self, manifest: dict[str, Any], cfg: CfgNode) -> None:
        settings, directory = self._settings, self._directory
        if manifest["folder"] != str(self._folder) and not settings.moved:
            raise ValueError(
                f"{directory} is the index of {manifest['folder']}, not of {self._folder}: choose "
                "another --out, or say --moved if the same pictures lie there now"
            )
        if settings.engine or settings.config_file:
            wanted = build_index_config(settings.engine, settings.config_file, settings.opts)
        else:
            wanted = cfg.clone()
            wanted.merge_from_list(list(settings.opts))
        asked = settings.engine or settings.config_file or " ".join(settings.opts)
        is_other = engine_fingerprint(wanted) != engine_fingerprint(cfg)
        for name, seen, value, differs in (
            ("engine", manifest["engine"], asked, is_other),
            (
                "backend",
                manifest["backend"],
                settings.backend,
                settings.backend not in (None, manifest["backend"]),
            ),
        ):
            if differs:
                raise ValueError(
                    f"{directory} was made with the {name} {seen}, and {value} is asked for: "
                    f"choose another --out, or remove {directory} to make it anew"
                )

    def _open_regions(self) -> RegionIndex:
        place = self._directory / REGIONS
        try:
            regions = open_region_index(place)
            # What a killed run had written, or was about to remove.
            remove_other_segments(place, list(Head.read(place).segments))
            return regions
        except FileNotFoundError:
            # Nothing was committed; what a killed process left of it is made anew.
            shutil.rmtree(place, ignore_errors=True)
            centred = self._cfg.SEARCH.CENTRED
            return create_region_index(self._backend, place, is_centred=centred)

    def _published(self) -> list[Path]:
        return sorted(
            one
            for one in self._segments.iterdir()
            if is_published(one) and not one.name.startswith(".")
        )

    def _commit(self, directory: Path, is_replay: bool = False) -> int:
        """Take a published segment into the index.

        Args:
            directory: of the segment.
            is_replay: an earlier run may have been killed while it did the same.

        Returns:
            Pictures of the segment.
        """
        ids, regions = read_segment(directory)
        known = set(self._regions.image_ids.tolist()) if is_replay else set()
        missing = [place for place, image_id in enumerate(ids) if image_id not in known]
        if missing:
            self._regions.add([ids[i] for i in missing], [regions[i] for i in missing])
            self._regions.persist()
        outcomes = read_outcomes(directory)
        self._files.finish(outcomes)
        remove_artefact(directory)
        return len(outcomes)

    def _delete_leaving(self) -> int:
        known = set(self._regions.image_ids.tolist())
        leaving = [one.id for one in self._files.rows(LEAVING)]
        for start in range(0, len(leaving), _DELETED_AT_ONCE):
            some = leaving[start : start + _DELETED_AT_ONCE]
            there = [image_id for image_id in some if image_id in known]
            if there:
                self._regions.delete(there)
                self._regions.persist()
            self._files.forget(some)
        return len(leaving)

    def _make_segments(self) -> Iterator[Path]:
        """Directories of published segments, in order, until nothing is new."""
        workers = num_index_workers(self._cfg)
        # A process takes seconds to start: a single segment is done here meanwhile.
        if workers == 0 or self._files.count(NEW) <= self._settings.segment_images:
            engine = build_search_engine(self._cfg)
            return (make_segment(engine, job) for job in self._jobs())
        return map_with_engine(self._cfg, make_segment, self._jobs(), workers)

    def _jobs(self) -> Iterator[SegmentJob]:
        last = 0
        while rows := self._files.rows(NEW, last, self._settings.segment_images):
            last = rows[-1].id
            yield self._job([(one.id, one.path) for one in rows])

    def _job(self, files: Sequence[tuple[int, str]]) -> SegmentJob:
        return SegmentJob(self._segments / f"{files[0][0]:09d}", self._folder, tuple(files))

    def _survive(self, error: WorkerDiedError) -> int:
        """After a worker's death: find out whether a picture was the cause, and go on.

        What other workers had published is committed. The files of the segments that were being
        made are read one by one in a process of their own; one that ends it is noted as unreadable.

        Returns:
            Pictures that were committed.
        """
        files = take_started(self._segments)
        if not files:
            raise error
        logger.warning("%s; its segment is done again, picture by picture", error)
        done = sum(self._commit(directory) for directory in self._published())
        while files:
            try:
                jobs = [self._job([file]) for file in files]
                for directory in map_with_engine(self._cfg, make_segment, jobs, 1):
                    done += self._commit(directory)
                    files.pop(0)
            except WorkerDiedError:
                culprit, path = files.pop(0)
                logger.warning("reading %s ended the process", path)
                reason = "reading it ended the process, perhaps for want of memory"
                self._files.finish([Outcome(culprit, 0, 0, reason)])
                done += 1
        return done
