"""Seconds and memory of a self-training's parts as the gallery grows, against linear growth."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import growth_parts
from .growth_parts import Gallery, MadeUp, Outputs, Pictures, Step
from .own_process import Measured, measure_in_own_process
from .pictures import picture_folder
from .settings import BenchmarkSettings

logger = logging.getLogger(__name__)

Way = Callable[[Any], Step]


def growth(settings: BenchmarkSettings) -> list[dict[str, Any]]:
    """Indexing, search, a self-paced stage and a CST round on 1, 2, 4 and 8 times the images.

    A query for every eighth image and a seed an image grow with the gallery, and their lists stay
    as long as they are; 200 queries of the search stay the same. Trainings are left out: their
    iterations do not depend on the gallery.

    Returns:
        A row for each part. "reference_seconds" are those of linear growth, the smallest gallery's
        times the factor; "our_seconds" those of the largest gallery. "max_abs_diff" is of what is
        found for the smallest gallery's images within both, "compared" says of how many things.
        Of all sizes: "images" (regions, where these are clustered), "seconds", "peak_mib" and
        "own_mib" of memory, the second without mapped files, and counts. "exponent" is the slope
        of log seconds over log images; "seconds_per_image" and "bytes_per_image" are the slopes of
        seconds and of the own memory over images.
    """
    with tempfile.TemporaryDirectory() as name, picture_folder(settings) as root:
        folder = Path(name)
        rows = _measure_pictures(root, folder, settings)
        return rows + _measure_made_up(folder, settings)


def _measure_pictures(
    root: Path, folder: Path, settings: BenchmarkSettings
) -> list[dict[str, Any]]:
    sizes = _sizes(settings, 4, 48)
    if len(settings.config_files) != 2:
        names = [path.name for path in settings.config_files]
        raise ValueError(
            f"growth has the presets {names}: give two, of SPIL's localizer and of a CST cycle"
        )
    spil, cst = settings.config_files
    parts = [
        Pictures(
            root=root,
            folder=folder / f"pictures-{count}",
            count=count,
            common=sizes[0],
            presets=(spil, cst),
            options=settings.options,
            device=settings.device,
            is_small=settings.is_small,
            threads=settings.threads,
        )
        for count in sizes
    ]
    return [
        _grow("index", growth_parts.index_pictures, parts, settings),
        _grow("self-paced stage", growth_parts.make_stage, parts, settings),
        _grow("CST round", growth_parts.make_round, parts, settings),
    ]


def _measure_made_up(folder: Path, settings: BenchmarkSettings) -> list[dict[str, Any]]:
    dimension = 128 if settings.is_small else 512

    def galleries(sizes: Sequence[int]) -> list[MadeUp]:
        return [
            MadeUp(
                source=folder / "regions.npy",
                folder=folder / f"regions-{count}",
                count=count,
                common=sizes[0],
                largest=sizes[-1],
                dimension=dimension,
                threads=settings.threads,
            )
            for count in sizes
        ]

    parts = galleries(_sizes(settings, 100, 4_000))
    measure_in_own_process(growth_parts.run, growth_parts.draw_regions, parts[-1])
    rows = [
        _grow("index, made-up regions", growth_parts.index_made_up, parts, settings),
        _grow("search, made-up regions", growth_parts.search_made_up, parts, settings),
    ]
    regions = galleries(_sizes(settings, 200, 2_500))
    return [*rows, _grow("DBSCAN", growth_parts.cluster_made_up, regions, settings)]


def _sizes(settings: BenchmarkSettings, small: int, full: int) -> list[int]:
    if settings.is_small:
        return [small, 2 * small]
    return [full, 2 * full, 4 * full, 8 * full]


def _grow(
    case: str, way: Way, parts: Sequence[Gallery], settings: BenchmarkSettings
) -> dict[str, Any]:
    measured = []
    for part in parts:
        one = _run(way, part, settings)
        logger.info("%s, %d: %.2f s, %.0f MiB", case, part.count, one.result.seconds, one.peak_mib)
        measured.append(one)
    return growth_row(case, [part.count for part in parts], measured, settings.device)


def _run(way: Way, part: Gallery, settings: BenchmarkSettings) -> Measured:
    if not settings.is_small:
        threads = settings.threads
        return measure_in_own_process(growth_parts.run, way, part, threads=threads)
    # A process takes longer to start than the small size to run, and says nothing of its memory.
    step = way(part)
    return Measured(step, step.seconds, step.seconds, step.own_mib, 0.0)


def growth_row(
    case: str, sizes: Sequence[int], measured: Sequence[Measured], device: str
) -> dict[str, Any]:
    """A row of `growth`.

    Args:
        case: its name.
        sizes: images of each gallery, growing.
        measured: what each process says; the results are `Step`s.
        device: that it ran on.

    Raises:
        ValueError: the largest gallery's outputs have nothing of the smallest one's.
    """
    steps: list[Step] = [one.result for one in measured]
    seconds = [one.seconds for one in steps]
    linear = seconds[0] * sizes[-1] / sizes[0]
    compared, difference = _compare(case, steps[0].outputs, steps[-1].outputs)
    own = [one.own_mib for one in steps]
    return {
        "case": case,
        "ratio": linear / seconds[-1],
        "reference_seconds": linear,
        "our_seconds": seconds[-1],
        "max_abs_diff": difference,
        "device": device,
        "exponent": _slope(np.log(sizes), np.log(seconds)),
        "seconds_per_image": _slope(np.asarray(sizes, np.float64), np.asarray(seconds)),
        "bytes_per_image": _slope(np.asarray(sizes, np.float64), np.asarray(own) * 2**20),
        "images": list(sizes),
        "seconds": [round(one, 3) for one in seconds],
        "peak_mib": [round(one.peak_mib) for one in measured],
        "own_mib": [round(one) for one in own],
        "compared": compared,
        **{key: [one.counts[key] for one in steps] for key in steps[0].counts},
    }


def _compare(case: str, first: Outputs, last: Outputs) -> tuple[int, float]:
    """How many outputs both have, and their largest difference."""
    both = first.keys() & last.keys()
    if not both:
        raise ValueError(
            f"{case}: the largest gallery has none of the {len(first)} outputs of the smallest one"
        )
    return len(both), max(float(np.abs(first[key] - last[key]).max()) for key in both)


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """Of the straight line with the least squared error."""
    return float(np.polyfit(x, y, 1)[0])
