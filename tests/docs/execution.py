"""Runs the statements of the documentation one after the other in a work folder."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .commands import Statement, is_command, normalized

LIMIT = 900
"""Seconds that a statement may take."""
OUT_OF_TIME = 124
_KEEP_STATE = "status=$?; pwd >{0}; env -0 >>{0}; exit $status"
# What is not executed, and why; the first that is found in a statement counts.
NOT_HERE = {
    r"\.\.\.|\b(CONFIG|COMMAND|FOLDER|DIR|FILE|ins_NAME)\b|benchmark\.py NAME|index OUTPUT "
    r"|benchmark_index\.py OUTPUT|--[a-z-]+ [NM]\b|NAME/": "an outline with words to fill in",
    r"^make (setup|test|lint|types)|^make$|scripts/setup|^\.ci/": (
        "changes the environment or runs this suite: .ci/run does it"
    ),
    r"\bpip3? |^python3?(\.11)? -m (venv|pip)|repack_detectron2|lock\.sh": (
        "installs from a package index"
    ),
    r"^python3?$|^python3\.1\d$|spil-d2 (index|serve|search)$|^spil-d2$": "the name of a program",
    r"\bwget\b": "downloads COCO",
    r"--num-machines": "needs two machines",
    r"--num-gpus [48]|DEVICE cuda|--device cuda": "needs GPUs",
    r"--split coco|_coco\.yaml|coco_few_shot_": "needs COCO",
    r"convert_globaltrack": "needs the public GlobalTrack checkpoint",
    r"--fiftyone|spil-d2 export": "needs FiftyOne, an optional package",
    r"^tensorboard": "shows a page until it is stopped",
    r"--weights localizer\.pth": "needs the weights of a base training of hours",
    r"another_cycle": "needs a second cycle",
    r"perfect_order": "needs groceries25",
    r"mutmut|tests\.mutation": "needs mutmut, and an hour",
}
# What is written differently for the sake of time, pattern -> replacement.
SHORTER = {
    r"(SOLVER\.MAX_ITER) \d+": r"\1 8",
    r"tools/benchmark\.py (\w+)": r"tools/benchmark.py \1 --size small --repeats 1",
    r"tools/benchmark_index\.py (\S+)": (
        r"tools/benchmark_index.py \1 --regions 2000 --queries 20 --milvus-regions 500"
    ),
    r"compare_engines\.py(?!.*--engines)": "compare_engines.py --engines tiny",
    r"--count 5000": "--count 30 --large 0 --scikit-only",
    r"--rows base,together,together_qe *--shots 5": "--rows base,together --shots 1 --seeds 0",
    r"--shots 1,5,10 --seeds 0,1,2": "--shots 1 --seeds 0 --rows tfa,base,stages",
    r"(few_shot\.py(?!.*--shots).*)$": r"\1 --shots 1 --seeds 0 --rows tfa,base,stages",
    r"--rounds 6": "--rounds 3",
    r"--rounds 4": "--rounds 1",
    r"(spil-d2 adapt .*?)( --iterations \d+)?$": r"\1 --iterations 8",
    r"(spil-d2 fewshot .*)$": r"\1 --iterations 10",
    # A demo of two instances.
    r"^make demo$": "make demo RUN=scripts/small_demo.sh",
    r"(tools/demo\.py .*)$": r"\1 --instances 2",
    r"--queries 3 40": "--queries 3 4",
    r"--split (test|all)": r"--split \1 --tracks 3 --frames 3",
    r"ln -s /path/to/shared/data/": r"ln -sfn $PWD/path/to/shared/data/",
    # The page is asked for once, then the server is stopped.
    r"^(spil-d2 serve .*)$": (
        r"\1 --port 18763 & pid=$!; curl -sf --retry 60 --retry-connrefused --retry-delay 1 "
        r"http://127.0.0.1:18763/ | grep -q '<html'; found=$?; kill $pid; wait $pid; (exit $found)"
    ),
}
# The block of Python that is a program with arguments of its own.
ARGUMENTS = {
    "my_train": "--config-file configs/SPIL/tiny_instre_dev.yaml SEARCH.ENGINE ColourHistogram "
    "OUTPUT_DIR output/my_engine"
}


@dataclass(frozen=True)
class Outcome:
    """What became of a statement.

    Attributes:
        statement: the statement.
        how: "executed", or why it was not.
        seconds: of the clock.
        status: exit status; None where it did not run.
        output: the end of what it wrote.
    """

    statement: Statement
    how: str
    seconds: float = 0.0
    status: int | None = None
    output: str = ""


def reason_not_to_run(statement: Statement) -> str | None:
    """Why a statement cannot run in a work folder; None where it can."""
    if statement.kind == "json":
        return "a file's content"
    if statement.kind == "python":
        return None
    text = normalized(statement).text
    if re.match(r"(python )?\S*\.py$", text) and statement.kind == "inline":
        return "the name of a program"
    return next((why for pattern, why in NOT_HERE.items() if re.search(pattern, text)), None)


class Shell:
    """Runs statements as a reader would type them: a block's variables and folder stay."""

    def __init__(self, folder: Path, environment: dict[str, str], log: Path) -> None:
        """
        Args:
            folder: a work folder.
            environment: variables on top of this process's.
            log: file to which all that the commands write is appended.
        """
        self._folder, self._log = folder, log
        beside = str(Path(sys.executable).parent)
        path = f"{beside}{os.pathsep}{os.environ['PATH']}"
        self._clean = {**os.environ, **environment, "PATH": path}
        self._block: tuple[str, int] | None = None
        self._done: dict[str, str] = {}

    def run(self, statements: Sequence[Statement]) -> Iterator[Outcome]:
        """Run what can run; a shell statement that stood before is not repeated."""
        for statement in statements:
            if statement.kind == "inline" and not is_command(statement):
                continue
            key = normalized(statement).text
            if why := reason_not_to_run(statement):
                yield Outcome(statement, why)
            elif key in self._done and not key.startswith(("cd ", "D=")):
                yield Outcome(statement, f"as {self._done[key]}")
            else:
                self._done[key] = statement.place
                yield self._run(statement)

    def _run(self, statement: Statement) -> Outcome:
        if statement.kind == "inline" or (statement.document, statement.block) != self._block:
            self._environment, self._cwd = dict(self._clean), self._folder
        self._block = statement.document, statement.block
        script = self._script(statement)
        state = self._folder / ".state"
        start = time.monotonic()
        with open(self._log, "ab+") as log:
            log.write(f"\n=== {statement.place}: {script}\n".encode())
            log.flush()
            before = log.tell()
            status = self._bash(f"{script}\n{_KEEP_STATE.format(state)}", log)
            log.seek(before)
            output = log.read().decode(errors="replace")
        if status != OUT_OF_TIME:
            self._remember(state)
        return Outcome(statement, "executed", time.monotonic() - start, status, output[-2000:])

    def _bash(self, script: str, log: IO[bytes]) -> int:
        """Exit status of a script, `OUT_OF_TIME` where it and all that it started was stopped."""
        bash = subprocess.Popen(
            ["bash", "-ac", script],
            cwd=self._cwd,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return bash.wait(LIMIT)
        except subprocess.TimeoutExpired:
            return OUT_OF_TIME
        finally:
            if bash.poll() is None:
                os.killpg(bash.pid, signal.SIGKILL)
                bash.wait()

    def _script(self, statement: Statement) -> str:
        if statement.kind == "python":
            name = re.match(r"# (\w+)\.py,", statement.text)
            stem = name[1] if name else f"block_{statement.line}"
            (self._folder / f"{stem}.py").write_text(statement.text + "\n", encoding="utf-8")
            return f"python {stem}.py {ARGUMENTS.get(stem, '')}"
        text = normalized(statement).text
        for pattern, replacement in SHORTER.items():
            text = re.sub(pattern, replacement, text)
        return text.replace("PROJECT/", f"{shlex.quote(str(self._folder))}/")

    def _remember(self, state: Path) -> None:
        folder, _, rest = state.read_text().partition("\n")
        self._cwd = Path(folder)
        self._environment = dict(entry.split("=", 1) for entry in rest.split("\0") if "=" in entry)
