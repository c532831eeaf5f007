"""What all benchmarks are told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BenchmarkSettings:
    """Where and how a benchmark runs.

    Attributes:
        config_files: presets to measure.
        device: "cpu", "cuda", ...
        options: KEY VALUE ... for all presets.
        repeats: how often each time is taken, after one run to warm up.
        num_queries: localized on one picture.
    """

    config_files: tuple[Path, ...]
    device: str = "cpu"
    options: tuple[str, ...] = ()
    repeats: int = 5
    num_queries: int = 16

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.num_queries < 1 or not self.config_files:
            raise ValueError(
                f"{self.repeats} repeats of {self.num_queries} queries with "
                f"{len(self.config_files)} presets: use at least one of each"
            )
