"""Finds links of the Markdown files that point at nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .commands import without_blocks

_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^()\s>]+)>?\)")


def broken_links(path: Path) -> Iterator[str]:
    """ "line: target: what is missing" of each relative link of a Markdown file."""
    text = without_blocks(path.read_text(encoding="utf-8"))
    for found in _LINK.finditer(text):
        target, _, anchor = found[1].partition("#")
        if re.match(r"\w+:", target):
            continue
        line = text.count("\n", 0, found.start()) + 1
        file = (path.parent / target) if target else path
        if not file.exists():
            yield f"{line}: {found[1]}: there is no {target}"
        elif anchor and anchor not in anchors(file):
            near = ", ".join(sorted(anchors(file)))
            yield f"{line}: {found[1]}: {file.name} has no such heading, it has {near}"


def anchors(path: Path) -> set[str]:
    """Anchors that GitHub makes of the headings of a Markdown file."""
    seen: Counter[str] = Counter()
    found = set()
    for line in without_blocks(path.read_text(encoding="utf-8")).splitlines():
        if heading := re.match(r"#{1,6}\s+(.*?)\s*#*$", line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return found
