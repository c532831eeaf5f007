"""Checks a command without running it: its program, options, configuration and files exist."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.machinery
import io
import json
import re
import runpy
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import typer
from detectron2.config import CfgNode

from spil_d2 import get_cfg
from spil_d2.cli import app

from ..programs import ROOT, restored_loggers
from .commands import Statement, is_command, normalized

KEY = re.compile(r"(?:OUTPUT_DIR|SEED|[A-Z][A-Z0-9]*(?:\.[A-Z][A-Z0-9_]*)+)$")
# Variables of the documentation's synopses, by values that a parser takes.
PLACEHOLDERS = {
    r"tools/benchmark\.py NAME": "tools/benchmark.py dasr",
    r"spil-d2 COMMAND": "spil-d2 search",
    r"(--\S+) [NM]\b": r"\1 2",
    r"\{([\w]+)(,\w+)+\}": r"\1",
    r"[\[\]](?=-|\s|$)": "",
}
BUILTINS = {"cd", "."}
ELSEWHERE = {"wget", "unzip", "apt", "mutmut"}
INCOMPLETE = re.compile(r"Missing (argument|option)|arguments are required")
# Folders of the project whose files the documentation names.
NAMED_FILE = re.compile(
    r"(?<![\w/.])(?:configs|tools|docs|tests|scripts|spil_d2|demo|notebooks|requirements)/[\w./-]*\w\.\w+"
    r"|(?<![\w/.])datasets/\w+\.(?:py|md)"
)


class _Parsed(Exception):
    """A program has read its command line."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments


def problems(statement: Statement) -> Iterator[str]:
    """What is wrong with a statement; nothing where it could be run."""
    if statement.kind == "json":
        yield from _json_problems(statement.text)
    elif statement.kind == "python":
        yield from python_problems(statement.text)
    elif is_command(statement):
        for words in normalized(_filled(statement)).commands():
            found = command_problems(words, statement.heredoc)
            # Within a text an option may stand alone, without what the command needs beside it.
            is_part = statement.kind == "inline"
            yield from (one for one in found if not (is_part and INCOMPLETE.search(one)))
    elif statement.kind == "inline":
        yield from _key_problems(statement.text)
    for name in NAMED_FILE.findall(statement.text) if statement.kind != "python" else ():
        if not (ROOT / name).exists():
            yield f"there is no file {name}"


def _filled(statement: Statement) -> Statement:
    text = statement.text
    if statement.kind == "shell" and "<<'" in text:
        return statement
    for pattern, value in PLACEHOLDERS.items():
        text = re.sub(pattern, value, text)
    return Statement(statement.document, statement.line, statement.kind, text, statement.block)


def command_problems(words: Sequence[str], heredoc: str | None = None) -> Iterator[str]:
    """What is wrong with a simple command."""
    program, rest = Path(words[0]).name or words[0], list(words[1:])
    if program.startswith("python"):
        yield from _python_command_problems(rest, heredoc)
    elif program == "spil-d2":
        yield from spil_d2_problems(rest)
    elif program == "make":
        yield from _make_problems(rest)
    elif program == "bash":
        if rest and not rest[0].startswith("-") and not (ROOT / rest[0]).is_file():
            yield f"there is no script {rest[0]}"
    elif program not in BUILTINS | ELSEWHERE and not shutil.which(program):
        # pip, tensorboard and the like are beside the interpreter.
        if not Path(sys.executable).with_name(program).exists():
            yield f"there is no program {program}"


def _python_command_problems(rest: list[str], heredoc: str | None) -> Iterator[str]:
    if rest[:1] == ["-m"]:
        if not has_module(rest[1]):
            yield f"there is no module {rest[1]}"
    elif rest[:1] == ["-c"]:
        yield from python_problems(rest[1])
    elif rest == ["-"]:
        yield from python_problems(heredoc or "")
    elif rest and not (ROOT / rest[0].removeprefix("PROJECT/")).is_file():
        yield f"there is no program {rest[0]}"
    elif rest:
        yield from program_problems(rest[0].removeprefix("PROJECT/"), rest[1:])


def has_module(name: str) -> bool:
    """Whether `python -m` would find a module.

    Looked for along the path alone: setuptools' hook of the import system takes any other question
    for pip as a sign that pip runs, and no longer stands in for distutils.
    """
    path: Sequence[str] | None = [str(ROOT), *sys.path]
    parts = name.split(".")
    for i in range(len(parts)):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[: i + 1]), path)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    return True


def program_problems(program: str, words: Sequence[str]) -> Iterator[str]:
    """What is wrong with the command line of a program of the project.

    Args:
        program: its file, relative to the project.
        words: what follows it. Nothing: the program is only named.
    """
    if program == "tools/search.py" and words:
        yield from spil_d2_problems(words)
    if program == "tools/search.py" or not words:
        return
    said = io.StringIO()
    try:
        arguments = parsed(program, words, said)
    except SystemExit as end:
        if end.code:
            yield f"{program}: {said.getvalue().strip().splitlines()[-1]}"
        return
    opts = getattr(arguments, "opts", None) or ()
    for name in (getattr(arguments, "config_file", None), getattr(arguments, "tfa_config", None)):
        yield from config_problems(name or "", opts)


def parsed(program: str, words: Sequence[str], said: io.StringIO) -> argparse.Namespace:
    """The command line as a program of the project understands it; it does nothing more.

    Raises:
        SystemExit: the parser refuses it, for reasons that are written to `said`, or shows help.
    """
    read = argparse.ArgumentParser.parse_args

    def read_and_stop(parser, args=None, namespace=None):  # noqa: ANN001, ANN202
        raise _Parsed(read(parser, args, namespace))

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", read_and_stop),
        mock.patch.object(sys, "argv", [program, *words]),
        restored_loggers(),
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(said),
    ):
        try:
            runpy.run_path(str(ROOT / program), run_name="__main__")
        except _Parsed as stop:
            return stop.arguments
    raise AssertionError(f"{program} does not read its command line by argparse")


def config_problems(config_file: str | Path, opts: Sequence[str]) -> Iterator[str]:
    """What is wrong with a configuration file of the project and KEY VALUE pairs on top of it."""
    cfg: CfgNode = get_cfg()
    # Other files are the user's: the detector that an earlier command makes, or "...".
    if str(config_file).startswith("configs/"):
        if not (ROOT / config_file).is_file():
            yield f"there is no configuration {config_file}"
            return
        cfg.merge_from_file(str(ROOT / config_file))
    try:
        cfg.merge_from_list([word for word in opts if word != "..."])
    except (AssertionError, KeyError, ValueError) as error:
        yield f"{' '.join(opts)}: {error}"


def spil_d2_problems(words: Sequence[str]) -> Iterator[str]:
    """What is wrong with the command line of `spil-d2`; nothing but its name is right."""
    group: Any = typer.main.get_command(app)
    if not words:
        return
    if len(words) == 1 and not words[0].startswith("-"):
        if words[0] not in group.commands:
            yield f"spil-d2 has no command {words[0]}, it has {', '.join(group.commands)}"
        return
    for command in (group, *group.commands.values()):
        command.callback = None
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            group.main(list(words), prog_name="spil-d2", standalone_mode=False)
    except Exception as error:
        # The class is click's, of which newer releases of typer have a copy of their own.
        if not hasattr(error, "format_message"):
            raise
        yield f"spil-d2 {' '.join(words)}: {error.format_message()}"


def _make_problems(words: Sequence[str]) -> Iterator[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", text, re.MULTILINE))
    variables = set(re.search(r"^export (.*)$", text, re.MULTILINE)[1].split())  # type: ignore[index]
    for word in words:
        name, is_variable, _ = word.partition("=")
        if name not in (variables if is_variable else targets):
            yield f"the Makefile has no {name}, it has {', '.join(sorted(targets | variables))}"


def python_problems(source: str) -> Iterator[str]:
    """What is wrong with a piece of Python: its syntax, or a name that it imports."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        yield f"line {error.lineno}: {error.msg}"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            wanted = [(str(node.module), alias.name) for alias in node.names]
        else:
            continue
        for module, name in wanted:
            try:
                found = importlib.import_module(module)
            except ImportError as error:
                yield str(error)
                continue
            if name and not hasattr(found, name):
                yield f"{module} has no {name}"


def _json_problems(text: str) -> Iterator[str]:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        yield str(error)


def _key_problems(text: str) -> Iterator[str]:
    """What is wrong with keys of the configuration, alone or with values: `A.B` and `A.B 3`."""
    words = [word for word in text.split() if not word.startswith("--")]
    if len(words) >= 2 and all(KEY.match(word) for word in words[::2]):
        values = [word for word in words if word not in ("...",)]
        if len(values) == len(words) and len(words) % 2 == 0:
            yield from config_problems("", words)
            return
    for word in words:
        if KEY.match(word) and "." in word and not has_key(get_cfg(), word):
            yield f"the configuration has no key {word}"


def has_key(cfg: CfgNode, key: str) -> bool:
    """Whether a configuration has a key "A.B.C", or that section."""
    node = cfg
    for part in key.split("."):
        if not isinstance(node, CfgNode) or part not in node:
            return False
        node = node[part]
    return True
