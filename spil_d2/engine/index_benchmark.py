"""Speed, recall and size of the backends of the index of regions, on synthetic regions."""

from __future__ import annotations

import logging
import multiprocessing
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from ..retrieval import Regions, create_region_index, open_region_index
from ..utils.artifacts import write_json_atomic

logger = logging.getLogger(__name__)

REGIONS_PER_IMAGE = 10
_IMAGES_AT_ONCE = 2000
_SINGLE_QUERIES = 15
# Degrees of freedom of the synthetic regions: descriptors of pictures have a few dozen.
_LATENT = 40
_MIB = 1 << 20


@dataclass(frozen=True)
class SyntheticGallery:
    """Clustered unit vectors: noisy views of objects, each an object's place in a latent space.

    Attributes:
        num_regions: of the gallery; an image has 5 to 15.
        dimension: of an embedding.
        num_queries: other views of objects of the gallery.
    """

    num_regions: int = 1_000_000
    dimension: int = 512
    num_queries: int = 200

    def batches(self) -> Iterator[tuple[list[int], list[Regions]]]:
        """Image ids and regions, some thousand images at a time; always the same."""
        rng = np.random.default_rng(1)
        done, next_id = 0, 0
        while done < self.num_regions:
            counts = rng.integers(5, 2 * REGIONS_PER_IMAGE - 4, _IMAGES_AT_ONCE)
            ends = np.minimum(np.cumsum(counts), self.num_regions - done)
            counts = np.diff(ends, prepend=0)
            counts = counts[counts > 0]
            embeddings = self._views(rng, int(counts.sum()))
            boxes = rng.uniform(0, 1000, (len(embeddings), 4)).astype(np.float32)
            bounds = np.concatenate([[0], np.cumsum(counts)])
            regions = [
                Regions(boxes[a:b], boxes[a:b, 0], embeddings[a:b])
                for a, b in zip(bounds, bounds[1:])
            ]
            yield list(range(next_id, next_id + len(counts))), regions
            next_id += len(counts)
            done += int(counts.sum())

    def queries(self) -> np.ndarray:
        """(num_queries, dimension) float32."""
        return self._views(np.random.default_rng(2), self.num_queries)

    def _views(self, rng: np.random.Generator, count: int) -> np.ndarray:
        fixed = np.random.default_rng(0)
        objects = fixed.normal(size=(max(1, self.num_regions // 50), _LATENT)).astype(np.float32)
        axes = fixed.normal(size=(_LATENT, self.dimension)).astype(np.float32)
        views = objects[rng.integers(0, len(objects), count)]
        views += 0.7 * rng.standard_normal((count, _LATENT), np.float32)
        rows = views @ axes + rng.standard_normal((count, self.dimension), np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@dataclass(frozen=True)
class BackendResult:
    """What one backend did. Sizes are in MiB; memory is resident, of a process of its own.

    Times are passed time, and with `cpu` the processor time of all threads: where the machine has
    other work, or fewer cores than threads, only that says something of the backend.

    Attributes:
        backend: with its settings.
        regions: that were indexed.
        build_s, build_cpu_s: adding all and persisting.
        build_mb: the most memory meanwhile.
        disk_mb: of the index directory.
        open_s: opening the persisted index.
        single_ms, single_cpu_ms: a query alone, the median.
        batch_ms, batch_cpu_ms: for each of the queries in one call.
        filtered_ms, filtered_cpu_ms: a query alone, when a tenth of the images may be ranked.
        recall: part of the k images of the exact backend that are found.
        search_mb: memory for opening and searching, without what the program itself takes; pages
            of memory-mapped files that were read count, and the system may drop them.
        add_s: adding one image and persisting.
    """

    backend: str
    regions: int
    build_s: float
    build_cpu_s: float
    build_mb: float
    disk_mb: float
    open_s: float
    single_ms: float
    single_cpu_ms: float
    batch_ms: float
    batch_cpu_ms: float
    filtered_ms: float
    filtered_cpu_ms: float
    recall: float
    search_mb: float
    add_s: float


def benchmark_indexes(
    gallery: SyntheticGallery,
    backends: Sequence[tuple[str, Sequence[dict[str, Any]], int]],
    directory: Path,
    k: int = 128,
) -> list[BackendResult]:
    """Measure backends, and write `table.md` and `table.json` after each row.

    The exact backend is measured first at each size, as the others are compared with it.

    Args:
        gallery: what is indexed.
        backends: name, options that the index is opened with, one row each, and the most regions
            it is given, for those too slow for all.
        directory: for the results, and for the indexes while they are measured.
        k: length of the rank lists.
    """
    directory.mkdir(parents=True, exist_ok=True)
    results: list[BackendResult] = []
    exact: dict[int, np.ndarray] = {}
    for name, options, most in backends:
        part = replace(gallery, num_regions=min(most, gallery.num_regions))
        size = part.num_regions
        if size not in exact:
            ((row, exact[size]),) = _measure(part, "exact", [{}], directory, k, None)
            results.append(row)
            _write(results, gallery, k, directory)
        if name != "exact":
            for row, _ in _measure(part, name, options, directory, k, exact[size]):
                results.append(row)
                _write(results, gallery, k, directory)
    return results


def _measure(
    gallery: SyntheticGallery,
    name: str,
    options: Sequence[dict[str, Any]],
    directory: Path,
    k: int,
    exact: np.ndarray | None,
) -> Iterator[tuple[BackendResult, np.ndarray]]:
    """For each of the options a row, and the image ids (queries, k) that were found."""
    place = directory / f"index-{name}"
    built = _in_process(_build, gallery, name, place)
    for one in options:
        searched, found = _in_process(_search, gallery, place, one, k)
        pairs = zip(found, found if exact is None else exact)
        recall = float(np.mean([len(np.intersect1d(*pair)) / len(pair[1]) for pair in pairs]))
        label = " ".join([name, *(f"{key}={value}" for key, value in one.items())])
        row = BackendResult(
            backend=label, regions=gallery.num_regions, recall=recall, **built, **searched
        )
        logger.info("%s", row)
        yield row, found
    shutil.rmtree(place)


def _in_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call in a new process, whose memory is the function's own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def _build(gallery: SyntheticGallery, name: str, place: Path) -> dict[str, float]:
    shutil.rmtree(place, ignore_errors=True)
    before = _resident()
    seconds = np.zeros(2)
    with create_region_index(name, place) as index:
        for ids, regions in gallery.batches():
            seconds += _timed(index.add, ids, regions)[0]
        seconds += _timed(index.persist)[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    return {
        **_named("build", "s", seconds),
        "build_mb": peak - before,
        "disk_mb": size / _MIB,
    }


def _search(
    gallery: SyntheticGallery, place: Path, options: dict[str, Any], k: int
) -> tuple[dict[str, float], np.ndarray]:
    queries = gallery.queries()
    ids = list(range(len(queries)))
    before = _resident()
    start = time.perf_counter()
    index = open_region_index(place, **options)
    open_s = time.perf_counter() - start
    with index:
        index.search(ids[:2], queries[:2], k)
        alone = ids[:_SINGLE_QUERIES]
        single = [_timed(index.search, [i], queries[i : i + 1], k)[0] for i in alone]
        batch, lists = _timed(index.search, ids, queries, k)
        memory = _resident() - before
        some = index.image_ids[::10].tolist()
        filtered = [_timed(index.search, [i], queries[i : i + 1], k, None, some)[0] for i in alone]
        one = next(gallery.batches())[1][0]
        start = time.perf_counter()
        index.add([int(index.image_ids.max()) + 1], [one])
        index.persist()
        added = time.perf_counter() - start
    measured = {
        "open_s": open_s,
        **_named("single", "ms", 1000 * np.median(single, axis=0)),
        **_named("batch", "ms", 1000 * batch / len(ids)),
        **_named("filtered", "ms", 1000 * np.median(filtered, axis=0)),
        "search_mb": memory,
        "add_s": added,
    }
    return measured, np.stack([lists[i].image_ids for i in ids])


def _timed(function: Callable[..., Any], *args: Any) -> tuple[np.ndarray, Any]:
    """(2,) seconds that passed, and of the processor, and what the function returned."""
    start = time.perf_counter(), time.process_time()
    result = function(*args)
    return np.subtract((time.perf_counter(), time.process_time()), start), result


def _named(name: str, unit: str, times: np.ndarray) -> dict[str, float]:
    return {f"{name}_{unit}": float(times[0]), f"{name}_cpu_{unit}": float(times[1])}


def _resident() -> float:
    """MiB of this process in memory now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status says nothing of VmRSS: the benchmark needs Linux")


def _write(
    results: Sequence[BackendResult], gallery: SyntheticGallery, k: int, directory: Path
) -> None:
    facts = {"gallery": asdict(gallery), "k": k, "results": [asdict(one) for one in results]}
    write_json_atomic(directory / "table.json", facts)
    columns = {
        "backend": "backend",
        "regions": "regions",
        "single_ms": "ms/query, one",
        "single_cpu_ms": "CPU ms",
        "batch_ms": f"ms/query, {gallery.num_queries} at once",
        "batch_cpu_ms": "CPU ms",
        "filtered_ms": "ms/query, a tenth allowed",
        "filtered_cpu_ms": "CPU ms",
        "recall": f"recall@{k}",
        "search_mb": "memory, MiB",
        "disk_mb": "disk, MiB",
        "build_s": "build, s",
        "build_cpu_s": "CPU s",
        "build_mb": "memory to build, MiB",
        "open_s": "open, s",
        "add_s": "add an image, s",
    }
    rows = [[_shown(getattr(one, key)) for key in columns] for one in results]
    text = tabulate(rows, list(columns.values()), tablefmt="pipe", disable_numparse=True)
    (directory / "table.md").write_text(text + "\n", encoding="utf-8")


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
