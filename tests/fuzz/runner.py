"""Runs mutants in a child process, which may crash, hang or fill its memory, and counts.

Mutant i is a function of the format, the seed and i alone. The child stops a mutant that takes too
much processor time by a signal; where it hangs in a library, or dies, the parent notes the mutant
and goes on with the next one in another child.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import mmap
import os
import resource
import shutil
import signal
import struct
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from .formats import Format
from .mutations import change_bytes
from .verdict import Hang, complaint

CPU_SECONDS = 5
WALL_SECONDS = 120
GROWTH_LIMIT = 200 << 20
"""Memory that a run over many mutants may keep."""

INPUT_LIMIT = 1 << 30
"""Memory that one mutant may take."""

_HEADROOM = 2 << 30
_WARM_UP = 30
_COUNTERS = ("next", "accepted", "refused", "failed", "slowest_ns", "slowest", "rss", "peak")


@dataclass
class Failure:
    """A mutant that was neither accepted nor refused as it should be."""

    format: str
    seed: int
    index: int
    reason: str
    file: str
    trace: str = ""

    @property
    def command(self) -> str:
        """What repeats it."""
        return f"python -m tests.fuzz {self.format} --seed {self.seed} --only {self.index}"


@dataclass
class Result:
    """What became of the mutants of a format."""

    format: str
    mutants: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest_seconds: float = 0.0
    slowest: int = 0
    growth: int = 0
    failures: list[Failure] = field(default_factory=list)


class Case:
    """A folder with valid files, one of which is replaced by a mutant at a time."""

    def __init__(self, one: Format, folder: Path, seed: int):
        self._format = one
        self._seed = seed
        self.folder = folder
        folder.mkdir(parents=True)
        one.prepare(folder)
        self._valid = {name: (folder / name).read_bytes() for name in one.files}
        one.load(folder)

    def keep(self, index: int, folder: Path) -> str:
        """Write a mutant beside others that failed; the file says which one it is."""
        name, content, _ = self.mutate(index)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{self._format.name}-{self._seed}-{index}-{Path(name).name}"
        file.write_bytes(content)
        return str(file)

    def mutate(self, index: int) -> tuple[str, bytes, bool]:
        """File, content, and whether its structure was changed rather than its bytes."""
        rng = Random(f"{self._format.name}/{self._seed}/{index}")
        name = rng.choice(list(self._valid))
        change = self._format.files[name]
        if change is not None and rng.random() < self._format.structural:
            # What a library refuses to write is no mutant; its bytes are changed then.
            with contextlib.suppress(Exception):
                return name, change(self._valid[name], rng), True
        return name, change_bytes(self._valid[name], rng), False

    def run(self, index: int, note: Path | None = None) -> tuple[str, bool, BaseException | None]:
        """(complaint, accepted, error) of a mutant; `note` gets the name of its file before."""
        name, content, is_structural = self.mutate(index)
        path = self.folder / name
        if note is not None:
            note.write_text(name)
        _replace(path, content)
        record = self._format.record if is_structural else None
        try:
            with _watched():
                self._format.load(self.folder)
        except (Exception, Hang) as error:  # noqa: BLE001  any error at all is judged
            return complaint(error, self.folder, record), False, error
        finally:
            _replace(path, self._valid[name])
        evil = Path("fuzz-was-here")
        if evil.exists():
            evil.rmdir()
            return "the file ran code", True, None
        return "", True, None


def run_format(
    one: Format,
    mutants: int,
    seed: int,
    failed_folder: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> Result:
    """Run mutants 0 to `mutants` - 1 of a format; inputs that fail are kept in `failed_folder`."""
    shared = mmap.mmap(-1, 8 * len(_COUNTERS))
    result = Result(one.name)
    failed_folder = failed_folder.absolute()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        notes = Path(place) / "failures"
        while (start := _read(shared)["next"]) < mutants:
            job = _Job(one, seed, Path(place), notes, failed_folder)
            pid = _start(job, start, mutants, shared)
            end = _wait(pid, shared, progress)
            if end == "done":
                break
            trouble = Path(place) / "child-error"
            if trouble.exists():
                raise RuntimeError(f"the fuzzer itself failed: {trouble.read_text()}")
            job.note_the_dead(_read(shared)["next"], end)
            _write(shared, next=_read(shared)["next"] + 1)
            shutil.rmtree(Path(place) / "case", ignore_errors=True)
        if notes.exists():
            lines = notes.read_text().splitlines()
            result.failures = [Failure(**json.loads(line)) for line in lines]
    counters = _read(shared)
    result.seconds = time.perf_counter() - began
    result.mutants, result.growth = mutants, counters["rss"]
    result.accepted, result.refused = counters["accepted"], counters["refused"]
    result.slowest_seconds, result.slowest = counters["slowest_ns"] / 1e9, counters["slowest"]
    if result.growth > GROWTH_LIMIT:
        reason = f"memory grew by {result.growth >> 20} MiB over the run"
        result.failures.append(Failure(one.name, seed, mutants, reason, ""))
    return result


@dataclass(frozen=True)
class _Job:
    """What a child has to know.

    Attributes:
        format, seed: which mutants.
        place: its working folder.
        notes: file of failures, one JSON object a line.
        failed: folder of the inputs that failed.
    """

    format: Format
    seed: int
    place: Path
    notes: Path
    failed: Path

    @property
    def last(self) -> Path:
        """Names the file of the last mutant."""
        return self.place / "last"

    def note(self, index: int, reason: str, file: str, trace: str = "") -> None:
        failure = Failure(self.format.name, self.seed, index, reason, file, trace[-1500:])
        with open(self.notes, "a") as notes:
            notes.write(json.dumps(vars(failure)) + "\n")

    def note_the_dead(self, index: int, reason: str) -> None:
        """Note a mutant whose child has died; what it was is in the case's folder."""
        self.failed.mkdir(parents=True, exist_ok=True)
        name = self.last.read_text()
        file = self.failed / f"{self.format.name}-{self.seed}-{index}-{Path(name).name}"
        shutil.copyfile(self.place / "case" / name, file)
        self.note(index, reason, str(file))


def _start(job: _Job, start: int, stop: int, shared: mmap.mmap) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        _set_up_child(job.place)
        _work(job, Case(job.format, job.place / "case", job.seed), start, stop, shared)
        status = 0
    except BaseException:  # noqa: BLE001  a child of fork must not return
        with open(job.place / "child-error", "w") as file:
            traceback.print_exc(file=file)
    finally:
        os._exit(status)


def _set_up_child(place: Path) -> None:
    signal.signal(signal.SIGVTALRM, _raise_hang)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.chdir(place)


def _work(job: _Job, case: Case, start: int, stop: int, shared: mmap.mmap) -> None:
    base = 0
    for index in range(start, stop):
        before, peak = time.process_time_ns(), _peak()
        reason, is_accepted, error = case.run(index, job.last)
        spent = time.process_time_ns() - before
        counters = _read(shared)
        if not reason and _peak() - peak > INPUT_LIMIT:
            reason = f"took {(_peak() - peak) >> 20} MiB of memory"
        if reason:
            trace = "" if error is None else "".join(traceback.format_exception(error)[-6:])
            job.note(index, reason, case.keep(index, job.failed), trace)
            counters["failed"] += 1
        else:
            counters["accepted" if is_accepted else "refused"] += 1
        del error
        if spent > counters["slowest_ns"]:
            counters["slowest_ns"], counters["slowest"] = spent, index
        if index == start + _WARM_UP:
            gc.collect()
            base = _resident()
        _write(shared, **{**counters, "next": index + 1})
    gc.collect()
    grown = max(0, _resident() - base) if base else 0
    _write(shared, rss=max(grown, _read(shared)["rss"]))


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _raise_hang(*_: object) -> None:
    raise Hang


def _replace(path: Path, content: bytes) -> None:
    """Give a file another content; one that is mapped into memory stays as it was there."""
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    os.replace(new, path)


def _wait(pid: int, shared: mmap.mmap, progress: Callable[[int], None]) -> str:
    """ "done", or how the child came to its end."""
    seen, since = -1, time.monotonic()
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        counters = _read(shared)
        progress(counters["next"])
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return "done" if code == 0 else f"the process ended with {code}"
        if counters["next"] != seen:
            seen, since = counters["next"], time.monotonic()
        elif time.monotonic() - since > WALL_SECONDS:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return f"hang in a library ({WALL_SECONDS} s)"
        time.sleep(0.02)


def _read(shared: mmap.mmap) -> dict[str, int]:
    return dict(zip(_COUNTERS, struct.unpack_from(f"{len(_COUNTERS)}q", shared)))


def _write(shared: mmap.mmap, **changes: int) -> None:
    values = {**_read(shared), **changes}
    struct.pack_into(f"{len(_COUNTERS)}q", shared, 0, *values.values())


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
