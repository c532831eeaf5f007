"""A start of a program in a forked child that meets with a fault at a chosen moment.

The parent has imported everything: a start costs what the program itself does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from tqdm import tqdm

MOMENT, OPERATION, FULL = "moment", "operation", "full disk"
FILLER = "filler"
_POLL_SECONDS = 0.002
_HANGING_SECONDS = 600
# Of Python's audit events, what changes something on the disk.
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Fault:
    """What happens to a start, and when.

    Attributes:
        kind: MOMENT: it is killed after `at` seconds of its CPU time. OPERATION: it is killed right
            before the `at`-th time (from 1) that it opens for writing, renames, makes or removes a
            file in its folder. FULL: a file `FILLER` beside its folder takes all room then.
        at: see there.
    """

    kind: str
    at: float

    def __str__(self) -> str:
        if self.kind == MOMENT:
            return f"killed after {self.at:.3f} s of CPU time"
        what = "the disk is full from" if self.kind == FULL else "killed before"
        return f"{what} file operation {self.at:.0f}"


@dataclass(frozen=True)
class Ended:
    """How a start has ended.

    Attributes:
        code: of its end; -9 where it was killed.
        seconds: of CPU time.
    """

    code: int
    seconds: float

    @property
    def was_killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Journal:
    """Lines that outlive a kill: what the starts of a program have done."""

    def __init__(self, path: Path):
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, *words: object) -> None:
        """Add a line."""
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())

    def close(self) -> None:
        """Take no more lines from this process."""
        os.close(self._file)


class Child:
    """A forked process that runs a job."""

    def __init__(
        self,
        job: Callable[[], None],
        folder: Path,
        log: Path,
        fault: Fault | None = None,
        counted: Callable[[int], None] | None = None,
    ):
        """
        Args:
            job: what is run; an exception of it ends the child with code 1 and goes to the log.
            folder: file operations below it count.
            log: gets the child's output.
            fault: what happens to it; None: nothing.
            counted: is told, in the child, how many file operations the job has done.
        """
        self._fault = fault
        self.pid = os.fork()
        if self.pid == 0:
            _run(job, folder, log, fault, counted)

    @property
    def is_immortal(self) -> bool:
        """Whether no fault is meant for it."""
        return self._fault is None

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended; any thread may ask."""
        with contextlib.suppress(ChildProcessError):
            return not self._has_ended()
        return False

    def _has_ended(self) -> bool:
        return bool(os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))

    def kill(self) -> None:
        """End it now."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    @property
    def seconds(self) -> float:
        """CPU time so far; only while the process has not been waited for."""
        # Linux: the clock of another process is known by its number (clock_getcpuclockid).
        return time.clock_gettime((~self.pid << 3) | 2)

    def wait(self) -> Ended:
        """Wait for its end, and kill it when it is time to."""
        wanted = self._fault.at if self._fault and self._fault.kind == MOMENT else float("inf")
        deadline = time.monotonic() + _HANGING_SECONDS
        while not self._has_ended():
            if self.seconds >= wanted:
                os.kill(self.pid, signal.SIGKILL)
                wanted = float("inf")
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"a start has not ended within {_HANGING_SECONDS} s")
            time.sleep(_POLL_SECONDS)
        seconds = self.seconds
        return Ended(os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), seconds)


class Operations:
    """Counts the file operations of this process; one of them may meet with a fault."""

    def __init__(self, folder: Path, fault: Fault | None = None):
        self._folder = str(folder) + os.sep
        self._fault = fault if fault and fault.kind != MOMENT else None
        self.count = 0
        sys.addaudithook(self._see)

    def _see(self, event: str, values: tuple[Any, ...]) -> None:
        if event == "open":
            changes = bool((values[2] or 0) & _WRITING)
        else:
            changes = event in _CHANGES
        # A path relative to a descriptor: `shutil.rmtree`.
        if changes and (str(values[0]).startswith(self._folder) or _is_relative(values[0])):
            self.count += 1
            if self._fault and self.count == self._fault.at:
                self._meet(self._fault)

    def _meet(self, fault: Fault) -> None:
        if fault.kind == OPERATION:
            os.kill(os.getpid(), signal.SIGKILL)
        filler = Path(self._folder).with_name(FILLER)
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(filler.parent).free)


def _is_relative(path: object) -> bool:
    return isinstance(path, (str, bytes)) and not os.path.isabs(path)


def _run(
    job: Callable[[], None],
    folder: Path,
    log: Path,
    fault: Fault | None,
    counted: Callable[[int], None] | None,
) -> None:
    """In the child; does not return."""
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for number, target in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
            os.dup2(number, target)
        sys.stdout = open(1, "w", buffering=1, closefd=False)
        sys.stderr = open(2, "w", buffering=1, closefd=False)
        # Threads of pools do not live on in a fork.
        cv2.setNumThreads(0)
        torch.set_num_threads(1)
        # Else a kill in the middle of drawing a bar would leave the parent's locked for ever.
        tqdm.set_lock(threading.RLock())
        operations = Operations(folder, fault)
        code = _call(job)
        if counted is not None:
            counted(operations.count)
    finally:
        # Nothing of the parent's may be run here: not its finally blocks, nor what it does at exit.
        if error := sys.exc_info()[1]:
            traceback.print_exception(error)
        sys.stderr.flush()
        os._exit(code)


def _call(job: Callable[[], None]) -> int:
    """The exit code: command lines end by an exception, also when all is well."""
    try:
        job()
    except SystemExit as end:
        return int(end.code or 0)
    return 0
