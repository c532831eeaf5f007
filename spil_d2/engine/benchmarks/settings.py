"""What all benchmarks are told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SIZES = ("small", "full")


@dataclass(frozen=True)
class BenchmarkSettings:
    """Where and how a benchmark runs.

    Attributes:
        device: "cpu", "cuda", ...
        size: "full" measures; "small" takes seconds and only shows that the outputs agree.
        repeats: how often each time is taken, after one run to warm up.
        threads: of both ways on a CPU.
        config_files: presets, for the benchmarks that measure a preset.
        options: KEY VALUE ... for all presets.
        num_queries: localized on one picture.
    """

    device: str = "cpu"
    size: str = "full"
    repeats: int = 5
    threads: int = 1
    config_files: tuple[Path, ...] = ()
    options: tuple[str, ...] = ()
    num_queries: int = 16

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"a benchmark's size is {self.size!r}: use one of {SIZES}")
        for name in ("repeats", "threads", "num_queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: use 1 or more")

    @property
    def is_small(self) -> bool:
        """Whether it is to take seconds, without figures that mean anything."""
        return self.size == "small"
