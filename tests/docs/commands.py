"""Finds the commands of the documentation: shell blocks, inline code, docstrings of programs."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..programs import ROOT

DOCUMENTS = (
    *("README.md", "INSTALL.md", "GETTING_STARTED.md", "MODEL_ZOO.md", "datasets/README.md"),
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
)
# Their docstrings hold examples; those of the command line are the help of its commands.
PROGRAMS = (
    *sorted(
        path.relative_to(ROOT).as_posix()
        for folder in ("tools", "demo", "datasets")
        for path in (ROOT / folder).glob("*.py")
    ),
    "spil_d2/cli/app.py",
)
# How a line starts that is a command, where nothing else tells.
COMMAND = re.compile(
    r"((\.venv/bin/)?(python3?|spil-d2|pip|tensorboard)|make|bash|cd|mkdir|ln|DETECTRON2_DATASETS=\S+"
    r"|(tools|demo)/\w+\.py) "
)
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
# Words of the shell around commands.
KEYWORDS = {"do", "done", "then", "fi", "{", "}"}


@dataclass(frozen=True)
class Statement:
    """A piece of documentation that is meant to be run.

    Attributes:
        document: its file, relative to the project.
        line: of its first character, from 1.
        kind: "shell", "inline" (code within a text), "python" or "json" (a whole block).
        text: shell: one logical line, without comments, with its here-document.
        block: number of the block within the document; shell variables live as long.
    """

    document: str
    line: int
    kind: str
    text: str
    block: int = 0

    @property
    def place(self) -> str:
        """ "README.md:12", for messages."""
        return f"{self.document}:{self.line}"

    @property
    def heredoc(self) -> str | None:
        """What is between `<<'EOF'` and `EOF`."""
        found = re.search(r"<<'(\w+)'\n(.*)\n\1$", self.text, re.DOTALL)
        return found and found[2]

    def commands(self) -> Iterator[list[str]]:
        """Words of each simple command, without assignments before it and redirections."""
        lexer = shlex.shlex(self.text.split("<<'")[0], posix=True, punctuation_chars="&;|<>\n")
        lexer.whitespace, lexer.whitespace_split = " \t", True
        words: list[str] = []
        for token in [*lexer, ";"]:
            if token[0] not in "&;|<>\n":
                words.append(token)
                continue
            while words and (words[0] in KEYWORDS or ASSIGNMENT.match(words[0])):
                del words[0]
            if words and words[0] != "for":
                yield words
            words = []


def find_statements(document: str) -> list[Statement]:
    """Everything in a document or program that is meant to be run, in its order."""
    source = (ROOT / document).read_text(encoding="utf-8")
    if document.endswith(".py"):
        return list(_in_docstrings(document, source))
    return sorted([*_in_blocks(document, source), *_inline(document, source)], key=_line)


def _line(statement: Statement) -> int:
    return statement.line


def blocks(source: str) -> Iterator[tuple[int, str, list[str]]]:
    """Line of the first line, language and lines of each fenced block of Markdown."""
    opened: tuple[int, str, int] | None = None
    lines = source.splitlines()
    for number, text in enumerate(lines, start=1):
        fence = re.match(r"( *)```(\w*)$", text)
        if fence and opened is None:
            opened = number + 1, fence[2], len(fence[1])
        elif fence and opened is not None:
            start, language, indent = opened
            yield start, language, [one[indent:] for one in lines[start - 1 : number - 1]]
            opened = None


def without_blocks(source: str) -> str:
    """Markdown whose fenced blocks are empty lines."""
    lines = source.splitlines()
    for start, _, block in blocks(source):
        lines[start - 2 : start + len(block)] = [""] * (len(block) + 2)
    return "\n".join(lines)


def _in_blocks(document: str, source: str) -> Iterator[Statement]:
    for block, (start, language, lines) in enumerate(blocks(source), start=1):
        if language in ("python", "json"):
            yield Statement(document, start, language, "\n".join(lines), block)
        elif language in ("bash", "sh") or (not language and COMMAND.match(lines[0])):
            for offset, text in split_shell(lines):
                yield Statement(document, start + offset, "shell", text, block)


def split_shell(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Place of the first line, and text, of each logical line of a shell script."""
    rest = iter(enumerate(lines))
    for place, line in rest:
        text = _uncommented(line)
        while text.endswith("\\"):
            text = text[:-1].rstrip() + " " + _uncommented(next(rest)[1]).lstrip()
        if opened := re.search(r"<<'(\w+)'", text):
            while not text.endswith(f"\n{opened[1]}"):
                text += "\n" + next(rest)[1]
        if text.startswith("for "):
            while not re.search(r"(^|\s)done$", text):
                text += "\n" + _uncommented(next(rest)[1])
        if text:
            yield place, text


def _uncommented(line: str) -> str:
    return re.sub(r"(^|\s)#.*$", "", line).rstrip()


def _inline(document: str, source: str) -> Iterator[Statement]:
    text = without_blocks(source)
    for found in re.finditer(r"`([^`]+)`", text):
        line = text.count("\n", 0, found.start()) + 1
        yield Statement(document, line, "inline", " ".join(found[1].split()))


def _in_docstrings(document: str, source: str) -> Iterator[Statement]:
    """Examples in the docstrings, which may be a program's help: lines that are commands."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.FunctionDef)):
            continue
        text = ast.get_docstring(node)
        first = node.body[0].lineno if node.body else 1
        for offset, statement in split_shell((text or "").splitlines()):
            # "for what:   python ...": a name may stand before the command.
            found = re.search(r"(?:^|:) *((?:python|spil-d2) .*)", statement)
            if found and not statement.endswith((".", ",")):
                yield Statement(document, first + offset, "shell", found[1], first)


def is_command(statement: Statement) -> bool:
    """Whether it is a shell command with all it needs, not the bare name of a program."""
    return statement.kind == "shell" or (
        statement.kind == "inline" and COMMAND.match(statement.text + " ") is not None
    )


def normalized(statement: Statement) -> Statement:
    """The statement as it runs where the environment is on the PATH; tools by `python`."""
    text = statement.text.replace(".venv/bin/", "")
    if re.match(r"(tools|demo)/\w+\.py", text):
        text = f"python {text}"
    return replace(statement, text=text)
