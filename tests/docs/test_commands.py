"""Every command, key, file and link of the documentation exists; a few commands run, too.

`python -m tests.docs` runs them all.
"""

from __future__ import annotations

import re

import pytest

from ..programs import ROOT
from .checks import problems
from .commands import (
    DOCUMENTS,
    PROGRAMS,
    Statement,
    find_statements,
    is_command,
    normalized,
    split_shell,
)
from .execution import NOT_HERE, SHORTER, reason_not_to_run
from .links import anchors, broken_links


def statement(text: str, kind: str = "shell") -> Statement:
    return Statement("README.md", 1, kind, text)


@pytest.mark.parametrize("document", [*DOCUMENTS, *PROGRAMS])
def test_what_the_documentation_says_can_be_run(document: str) -> None:
    found = [f"{one.place}: {text}" for one in find_statements(document) for text in problems(one)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name.endswith(".md")])
def test_links_point_at_something(document: str) -> None:
    found = [f"{document}:{text}" for text in broken_links(ROOT / document)]
    assert not found, "\n".join(found)


def test_commands_are_found_where_they_are() -> None:
    counts = {
        name: sum(is_command(one) for one in find_statements(name))
        for name in ("README.md", "GETTING_STARTED.md", "tools/train_net.py", "spil_d2/cli/app.py")
    }
    assert counts["README.md"] >= 15 and counts["GETTING_STARTED.md"] >= 40
    assert counts["tools/train_net.py"] >= 4 and counts["spil_d2/cli/app.py"] >= 10


BROKEN = {
    "python tools/train_ne.py --config-file configs/SPIL/tiny_instre_dev.yaml": "train_ne.py",
    "python tools/train_net.py --config configs/SPIL/tiny.yaml": "no file configs/SPIL/tiny.yaml",
    "python tools/train_net.py --config-fil x --nope": "--nope",
    "python tools/train_net.py --config-file configs/SPIL/tiny_demo.yaml SPIL.TAUS 1": "SPIL.TAUS",
    "python tools/train_net.py --config-file configs/SPIL/tiny_demo.yaml SPIL.NUM_STAGES x": (
        "SPIL.NUM_STAGES"
    ),
    "python tools/train_net.py --config-file ... SEED": "SEED",
    "tools/demo.py --outputs a": "--outputs",
    ".venv/bin/python tools/compare_engines.py --enginess dasr": "--enginess",
    "tools/benchmark.py speed": "speed",
    "spil-d2 find pictures.index": "find",
    "spil-d2 search pictures.index --query a.jpg --boxes 1,2,3,4": "--boxes",
    "spil-d2 index ~/Pictures": "--out",
    "python tools/search.py info --jso": "--jso",
    "make demoo": "demoo",
    "make setup PYTON=3": "PYTON",
    "bash scripts/no.sh": "scripts/no.sh",
    "python -m no_such_module": "no_such_module",
    "python - <<'EOF'\nfrom spil_d2 import Searchers\nEOF": "no Searchers",
    'python -c "import ("': "line 1",
    "cd here && no-such-program --x": "no-such-program",
}


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_wrong_with_a_command_is_named(text: str) -> None:
    found = list(problems(statement(text)))
    assert found and BROKEN[text] in " ".join(found)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("inline", "SPIL.TAUS", "SPIL.TAUS"),
        ("inline", "--resume SEARCH.RERANK_POWERS 0.25", "SEARCH.RERANK_POWERS"),
        ("inline", "SPIL.NUM_STAGES one SEED 1", "SPIL.NUM_STAGES"),
        ("inline", "docs/NOT_THERE.md", "docs/NOT_THERE.md"),
        ("json", '{"a": 1,}', "line 1"),
        ("python", "from spil_d2.structures import RankLost", "no RankLost"),
    ],
)
def test_what_is_wrong_with_other_code_is_named(kind: str, text: str, expected: str) -> None:
    assert expected in " ".join(problems(statement(text, kind)))


def test_a_shell_block_is_split_into_statements() -> None:
    block = [
        "# first",
        "a --x 1 \\",
        "    --y 2   # a comment",
        "for i in 1 2; do   # twice",
        "    b $i && c",
        "done",
        "",
        "D=/here  X=1 d \"('e',)\"; f | g",
        "python - <<'EOF'",
        "x = 1  # kept",
        "EOF",
    ]
    parts = dict(split_shell(block))
    assert list(parts) == [1, 3, 7, 8]
    words = [list(statement(text).commands()) for text in parts.values()]
    assert words[0] == [["a", "--x", "1", "--y", "2"]]
    assert words[1] == [["b", "$i"], ["c"]]
    assert words[2] == [["d", "('e',)"], ["f"], ["g"]]
    assert words[3] == [["python", "-"]]
    assert statement(parts[8]).heredoc == "x = 1  # kept"


def test_broken_links_are_found(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# The `first` heading, of [two](#again)\n## Again\n## Again\n"
        "```\n# no heading\n[a](no.md)\n```\n"
        "[a](#again-1) [b](#the-first-heading-of-two) [c](https://x.org/y.md) [d](page.md)\n"
        "[e](#no-heading) ![f](no.png)\n[g\nh](other.md#x)\n"
    )
    assert anchors(page) == {"the-first-heading-of-two", "again", "again-1"}
    found = list(broken_links(page))
    assert [text.split(": ")[:2] for text in found] == [
        ["9", "#no-heading"],
        ["9", "no.png"],
        ["10", "other.md#x"],
    ]


def test_each_exception_has_a_command() -> None:
    """What is not executed, or written shorter, still stands in the documentation."""
    everything = [
        one
        for document in (*DOCUMENTS, *PROGRAMS)
        for one in find_statements(document)
        if is_command(one)
    ]
    texts = [normalized(one).text for one in everything]
    unused = [p for p in (*NOT_HERE, *SHORTER) if not any(re.search(p, text) for text in texts)]
    assert not unused
    skipped = [one for one in everything if reason_not_to_run(one)]
    assert 0.2 < len(skipped) / len(everything) < 0.7
