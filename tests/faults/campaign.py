"""Many lives of a program: disturbed at random, started again until done, compared in the end."""

from __future__ import annotations

import contextlib
import shutil
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from .artefacts import Watch, differing, leftovers
from .forks import FILLER, FULL, MOMENT, OPERATION, Child, Ended, Fault, Journal
from .subjects import Subject

_SHOWN_LINES = 15
# What a program must say of a full disk, beside the name of the file.
_FULL_WORDS = ("cannot be written (No space left on device)", "Make room and run the same command")


@dataclass
class Tally:
    """What a campaign has seen.

    Attributes:
        name: of the program.
        faults: kind -> how many.
        starts, lives: how many; a life is a program from nothing to its end.
        phases: what was being done when a fault came -> how often.
        checks: files that were read, and facts compared.
        most_repeated: units of work that one fault has cost at most.
        differences: what was wrong, in words that say how to see it again.
        seconds: CPU time of all starts.
    """

    name: str
    faults: Counter = field(default_factory=Counter)
    starts: int = 0
    lives: int = 0
    phases: Counter = field(default_factory=Counter)
    checks: int = 0
    most_repeated: int = 0
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        order = sorted(self.phases.items(), key=lambda one: -one[1])
        rows = [
            ("faults", f"{self.faults.total()} ({_joined(self.faults.items())})"),
            ("starts, lives", f"{self.starts}, {self.lives}"),
            ("they came in", _joined(order)),
            ("checks", self.checks),
            ("work done again after one, at most", self.most_repeated),
            ("differences", len(self.differences)),
            ("CPU seconds of the program", f"{self.seconds:.0f}"),
        ]
        table = tabulate(rows, headers=(self.name, ""), tablefmt="pipe", disable_numparse=True)
        return "\n".join([table, *(f"- {one}" for one in self.differences)])


def _joined(pairs: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count}" for name, count in pairs)


@dataclass(frozen=True)
class _Reference:
    """An undisturbed life: CPU seconds, file operations and result of each step."""

    seconds: dict[str, float]
    operations: dict[str, int]
    results: dict[str, dict[str, str]]


class Campaign:
    """Disturbs a program so many times."""

    def __init__(self, subject: Subject, folder: Path, seed: int, small_disk: Path | None = None):
        """
        Args:
            subject: the program.
            folder: an empty one, for all lives; those with a difference stay there.
            seed: of the moments.
            small_disk: a file system of its own for the outputs: it is filled up now and then.
        """
        self._subject, self._folder, self._seed = subject, folder, seed
        self._disk = small_disk or folder
        self._kinds = (MOMENT, OPERATION) if small_disk is None else (FULL,)
        self._rng = np.random.default_rng([seed, zlib.crc32(subject.name.encode())])
        self._tally = Tally(subject.name)
        self._reference: _Reference | None = None

    def run(self, times: int, progress: bool = True) -> Tally:
        """Live until there were `times` faults and the last life has come to its end."""
        self._reference = self._undisturbed()
        with tqdm(total=times, desc=self._subject.name, unit="fault", disable=not progress) as bar:
            while self._tally.faults.total() < times:
                for _ in self._live(times):
                    bar.update()
        return self._tally

    def _undisturbed(self) -> _Reference:
        name = "undisturbed"
        self._make(name)
        reference = _Reference({}, {}, {})
        for step in self._subject.steps:
            self._subject.prepare(step, self._disk / name)
            ended = self._start(name, step, None)
            if ended.code:
                raise RuntimeError(f"{step} fails undisturbed: {self._tail(name)}")
            last = self._journal(name)[-1]
            reference.seconds[step] = ended.seconds
            reference.operations[step] = int(last.removeprefix("operations "))
            watch = Watch(self._output(name), self._subject.published)
            if wrong := watch.look():
                raise RuntimeError(f"{step} is wrong undisturbed: {wrong}")
            reference.results[step] = watch.digests()
        self._remove(name)
        return reference

    def _live(self, times: int) -> Iterator[None]:
        """A life; yields at each fault."""
        self._tally.lives += 1
        name = f"life{self._tally.lives:03d}"
        self._make(name)
        watch = Watch(self._output(name), self._subject.published)
        before = len(self._tally.differences)
        for step in self._subject.steps:
            self._subject.prepare(step, self._disk / name)
            fault = self._draw(step, times)
            ended = self._start(name, step, fault)
            while fault and self._is_disturbed(name, fault, ended):
                self._tally.faults[fault.kind] += 1
                self._tally.phases[self._subject.phase(self._output(name))] += 1
                self._report(watch.look(), name, step, fault)
                yield
                fault = self._draw(step, times)
                ended = self._start(name, step, fault)
            if ended.code:
                self._report([self._tail(name)], name, step, fault)
                break
            self._compare(name, step, watch)
        self._tally.checks += watch.num_checks
        if len(self._tally.differences) == before:
            self._remove(name)

    def _is_disturbed(self, name: str, fault: Fault, ended: Ended) -> bool:
        """Whether the fault has ended a start as it should; makes room on a full disk."""
        filler = self._output(name).with_name(FILLER)
        if not filler.exists():
            return ended.was_killed
        filler.unlink()
        said = self._tail(name)
        return bool(ended.code) and all(words in said for words in _FULL_WORDS)

    def _draw(self, step: str, times: int) -> Fault | None:
        """The next fault; an undisturbed run would meet with it."""
        if self._tally.faults.total() >= times:
            return None
        assert self._reference is not None
        kind = str(self._rng.choice(self._kinds))
        if kind == MOMENT:
            return Fault(kind, float(self._rng.uniform(0, self._reference.seconds[step])))
        return Fault(kind, int(self._rng.integers(self._reference.operations[step])) + 1)

    def _start(self, name: str, step: str, fault: Fault | None) -> Ended:
        place, output = self._folder / name, self._output(name)
        with contextlib.closing(Journal(place / "journal")) as journal:
            journal.note("start", step, fault)
            ended = Child(
                lambda: self._subject.start(step, output, journal),
                output,
                place / "log.txt",
                fault,
                lambda count: journal.note("operations", count),
            ).wait()
        self._tally.starts += 1
        self._tally.seconds += ended.seconds
        return ended

    def _compare(self, name: str, step: str, watch: Watch) -> None:
        """A step that has ended against the undisturbed one."""
        assert self._reference is not None
        output = self._output(name)
        wrong = watch.look()
        found, expected = watch.digests(), self._reference.results[step]
        wrong += [f"{path} is not as in an undisturbed run" for path in differing(found, expected)]
        wrong += [f"{path} was left behind" for path in leftovers(output)]
        repeated = self._subject.repeated(self._journal(name))
        self._tally.most_repeated = max(self._tally.most_repeated, *repeated)
        if max(repeated) > self._subject.most_repeated:
            wrong.append(f"{self._subject.unit}s done again, by start: {repeated}")
        self._tally.checks += len(expected) + 2
        self._report(wrong, name, step, None)

    def _report(self, wrong: list[str], name: str, step: str, fault: Fault | None) -> None:
        when = f"{step}, {fault or 'at the end'}, seed {self._seed}; see {self._folder / name}"
        self._tally.differences += [f"{one} ({when})" for one in wrong]

    def _make(self, name: str) -> None:
        (self._folder / name).mkdir()
        (self._disk / name).mkdir(exist_ok=True)

    def _remove(self, name: str) -> None:
        shutil.rmtree(self._folder / name)
        shutil.rmtree(self._disk / name, ignore_errors=True)

    def _output(self, name: str) -> Path:
        return self._disk / name / "output"

    def _journal(self, name: str) -> list[str]:
        return (self._folder / name / "journal").read_text().splitlines()

    def _tail(self, name: str) -> str:
        lines = (self._folder / name / "log.txt").read_text(errors="replace").splitlines()
        return "the program fails: " + "\n  ".join(lines[-_SHOWN_LINES:])
