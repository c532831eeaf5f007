"""What commands print, and the files that `search` writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from tabulate import tabulate

from ..structures import SearchHit

if TYPE_CHECKING:
    from ..engine.folder_index import IndexReport
    from ..engine.searcher import QueryImage, Searcher

_STDOUT = Path("-")
_SHOWN_FILES = 40


@dataclass(frozen=True)
class Outputs:
    """Where `search` writes its results; None where it does not, "-" for stdout."""

    json: Path | None
    coco: Path | None
    csv: Path | None
    html: Path | None

    def write(
        self, searcher: Searcher, references: Sequence[QueryImage], hits: Sequence[SearchHit]
    ) -> bool:
        """Write what is asked for; returns whether anything was."""
        from ..engine import export

        makers = [
            (self.json, lambda: export.to_json(hits)),
            (self.coco, lambda: export.to_coco(hits, searcher.image_size)),
            (self.csv, lambda: export.to_csv(hits)),
            (self.html, lambda: export.to_html(searcher, references, hits)),
        ]
        wanted = [(path, make) for path, make in makers if path is not None]
        for path, make in wanted:
            if path == _STDOUT:
                typer.echo(make(), nl=False)
            else:
                path.write_text(make(), encoding="utf-8")
                typer.echo(f"{len(hits)} results are in {path}", err=True)
        return bool(wanted)


def echo_hits(hits: Sequence[SearchHit]) -> None:
    """A table on stdout."""
    if not hits:
        typer.echo("Nothing was found.")
        return
    rows = [
        [hit.rank, f"{hit.score:.3f}", f"{hit.similarity:.3f}", _shown_box(hit), hit.image]
        for hit in hits
    ]
    typer.echo(
        tabulate(rows, ["rank", "score", "similarity", "box", "image"], disable_numparse=True)
    )


def echo_index_report(report: IndexReport, index: Path) -> None:
    """What an index run has done; unreadable files on stderr."""
    echo_unreadable(report.unreadable, index)
    typer.echo(
        f"{index}: {report.images} pictures, {report.regions} regions; {report.added} came, "
        f"{report.removed} left, {len(report.unreadable)} cannot be read ({report.seconds:.0f} s)"
    )


def echo_info(info: dict, as_json: bool) -> None:
    """What an index is."""
    if as_json:
        typer.echo(json.dumps(info, indent=1, ensure_ascii=False))
        return
    rows = [(name, value) for name, value in info.items() if name != "unreadable"]
    rows.append(("unreadable", len(info["unreadable"])))
    typer.echo(tabulate(rows, tablefmt="plain", disable_numparse=True))
    echo_unreadable([(one["image"], one["reason"]) for one in info["unreadable"]], None)


def echo_unreadable(files: Sequence[tuple[str, str]], index: Path | None) -> None:
    """Files with the reasons why they cannot be read, on stderr."""
    shown = files if index is None else files[:_SHOWN_FILES]
    for path, reason in shown:
        typer.echo(f"unreadable: {path}: {reason}", err=True)
    if len(files) > len(shown):
        left = len(files) - len(shown)
        typer.echo(f"... and {left} more, all in {index}/manifest.json", err=True)


def _shown_box(hit: SearchHit) -> str:
    return ",".join(f"{value:.0f}" for value in hit.box)
