"""`spil-d2`: index a folder, search it with a box, adapt, export, serve."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from .. import __version__
from ..utils.allocator import keep_freed_memory
from .options import (
    BoxOption,
    CacheOption,
    IndexArgument,
    QueryOption,
    pair_boxes,
    read_query_file,
    read_references,
    reported_failures,
)
from .output import Outputs, echo_hits, echo_index_report, echo_info

app = typer.Typer(
    name="spil-d2",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
_EXAMPLES = """Find an instance in a folder of pictures: a box in one picture, boxes in the others.

\b
Example:
  spil-d2 index ~/Pictures --out pictures.index
  spil-d2 search pictures.index --query cup.jpg --box 120,80,410,390
  spil-d2 serve pictures.index

\b
Exit codes: 0 done, 1 the job failed, 2 the command line makes no sense.
"""


def main() -> None:
    """Run the command line and exit."""
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spil-d2 {__version__}")
        raise typer.Exit()


@app.callback(help=_EXAMPLES)
def _start(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what is done.")] = False,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Only operations that give the same bits each time; slower on a GPU.",
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("spil_d2").setLevel(logging.INFO if verbose else logging.WARNING)
    keep_freed_memory()
    if deterministic:
        # PyTorch takes seconds to load.
        from ..utils.determinism import make_deterministic

        with reported_failures():
            make_deterministic()


@app.command("index")
def index_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="With pictures, also below it.")],
    out: Annotated[Path, typer.Option("--out", metavar="INDEX", help="Directory of the index.")],
    engine: Annotated[
        str | None,
        typer.Option(help="tiny (default), dasr, best, vit, ...: files of configs/search/."),
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="exact, faiss (large folders) or milvus; kept from then on.")
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes; 0: this one only, -1: one a core.", min=-1)
    ] = -1,
    config_file: Annotated[
        Path | None,
        typer.Option(help="Your own configuration (yaml) instead of --engine.", dir_okay=False),
    ] = None,
    moved: Annotated[
        bool, typer.Option("--moved", help="The same pictures lie in another folder now.")
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Read files again that could not be read before.")
    ] = False,
) -> None:
    """Make the index of a folder, or bring it up to date.

    Reads what is new or has changed; what is gone leaves the index. Files that cannot be read are
    listed at the end and in INDEX/manifest.json. Interrupted or killed, it goes on where it was.

    \b
    Example:
      spil-d2 index ~/Pictures --out pictures.index
      spil-d2 index ~/Pictures --out pictures.index --workers 4     # later: only what changed
      spil-d2 index ~/Pictures --out big.index --engine dasr --backend faiss
    """
    from ..engine.folder_index import IndexSettings, index_folder

    with reported_failures():
        settings = IndexSettings(
            engine=engine,
            backend=backend,
            config_file=config_file,
            num_workers=workers,
            moved=moved,
            retry_unreadable=retry,
        )
        echo_index_report(index_folder(folder, out, settings), out)


@app.command("search")
def search_command(
    index: IndexArgument,
    query: QueryOption = None,
    box: BoxOption = None,
    k: Annotated[int, typer.Option("-k", help="Results at most.", min=1)] = 50,
    combine: Annotated[
        Literal["mean", "max"],
        typer.Option(help="Several boxes: search with their mean, or take the best for a picture."),
    ] = "mean",
    refine: Annotated[
        bool, typer.Option("--refine", help="Exact boxes by the localizer that `adapt` made.")
    ] = False,
    cache_gb: CacheOption = 0.0,
    min_score: Annotated[
        float, typer.Option(help="Leave out results with a lower score.", min=0.0, max=1.0)
    ] = 0.0,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write JSON; - is stdout.")
    ] = None,
    coco_out: Annotated[
        Path | None, typer.Option("--coco", metavar="OUT", help="Write a COCO file; - is stdout.")
    ] = None,
    csv_out: Annotated[
        Path | None, typer.Option("--csv", metavar="OUT", help="Write CSV; - is stdout.")
    ] = None,
    html_out: Annotated[
        Path | None, typer.Option("--html", metavar="OUT", help="Write a page with pictures.")
    ] = None,
) -> None:
    """Find the instance of one or several boxes in all pictures of an index.

    Boxes are in pixels of the picture as displayed (turned as EXIF says). The score is a
    probability that the instance is in the picture; the similarity is the cosine behind it. A query
    picture that is in the index itself is left out. Without an output file a table is printed.

    \b
    Example:
      spil-d2 search pictures.index --query cup.jpg --box 120,80,410,390
      spil-d2 search pictures.index --query a.jpg --box 10,10,90,90 --query b.jpg --box 5,0,60,70
      spil-d2 search pictures.index --query cup.jpg --box 120,80,410,390 \\
          -k 100 --min-score 0.5 --json hits.json --html hits.html
    """
    from ..engine.searcher import Searcher

    pairs = pair_boxes(query, box)
    with reported_failures(), Searcher.open(index, cache_gb) as searcher:
        references = read_references(searcher, pairs)
        hits = searcher.search(references, k, combine=combine)
        if refine:
            hits = list(searcher.refine(references, hits))
        hits = [hit for hit in hits if hit.score >= min_score]
        outputs = Outputs(json=json_out, coco=coco_out, csv=csv_out, html=html_out)
        if not outputs.write(searcher, references, hits):
            echo_hits(hits)


@app.command("info")
def info_command(
    index: IndexArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what an index holds, and which files could not be read.

    \b
    Example:
      spil-d2 info pictures.index
    """
    from ..engine.searcher import Searcher

    with reported_failures(), Searcher.open(index) as searcher:
        echo_info(searcher.info(), as_json)


@app.command("adapt")
def adapt_command(
    index: IndexArgument,
    query: QueryOption = None,
    box: BoxOption = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help='Many instances: a list of {"image": path, "box": [x0, y0, x1, y1]}, or of lists '
            "of such for one instance on several pictures.",
            dir_okay=False,
        ),
    ] = None,
    iterations: Annotated[int, typer.Option(help="Of training; more take longer.", min=8)] = 240,
) -> None:
    """Train a localizer on the pictures of an index, without labels.

    It learns to find the exact box of the instances that you show; `search --refine` and the web
    page then use it. More instances make it better. Killed, it goes on where it was.

    \b
    Example:
      spil-d2 adapt pictures.index --query cup.jpg --box 120,80,410,390
      spil-d2 adapt pictures.index --queries things.json --iterations 600
    """
    from ..engine.adapt import AdaptSettings, adapt
    from ..engine.searcher import Searcher

    if (queries is None) == (not query):
        raise typer.BadParameter("give either --query or --queries", param_hint="--queries")
    pairs = read_query_file(queries) if queries is not None else [pair_boxes(query, box)]
    with reported_failures():
        with Searcher.open(index) as searcher:
            shown = [read_references(searcher, one) for one in pairs]
        place = adapt(index, shown, AdaptSettings(iterations=iterations))
        typer.echo(f"The localizer is in {place}: search with --refine now.")


@app.command("fewshot")
def fewshot_command(
    shots: Annotated[
        Path,
        typer.Argument(
            metavar="SHOTS",
            help="Folder with annotations.json (COCO format) and its pictures, or with a folder of "
            "pictures for each class, which the objects fill.",
        ),
    ],
    unlabeled: Annotated[
        Path, typer.Argument(metavar="UNLABELED", help="Folder of pictures, also below it.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Directory of the detector, a new one.")
    ],
    weights: Annotated[
        Path | None,
        typer.Option(help="localizer.pth of a base training; better than none.", dir_okay=False),
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(help="Your own configuration (yaml), that of --weights.", dir_okay=False),
    ] = None,
    iterations: Annotated[int, typer.Option(help="Of training; more take longer.", min=10)] = 400,
    images_out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Draw what training learned from, and what the detector finds."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all chance.", min=0)] = 0,
) -> None:
    """Make a detector of your own classes from a few examples and unlabeled pictures.

    The examples search the unlabeled pictures, and training goes on with what they find. DIR is a
    Detectron2 model directory: demo/demo.py and DefaultPredictor run it. Killed, it goes on where
    it was when the same command is given again.

    \b
    Example:
      spil-d2 fewshot shots/ pictures/ --out mugs.detector
      spil-d2 fewshot shots/ pictures/ --out mugs.detector --weights localizer.pth \\
          --iterations 800 --images-out looked_at/
      python demo/demo.py --config-file mugs.detector/config.yaml --input a.jpg --output a_drawn.jpg
    """
    from ..engine.few_shot.own_classes import OwnClassesSettings, make_detector

    with reported_failures():
        settings = OwnClassesSettings(
            weights=weights, config_file=config_file, iterations=iterations, seed=seed
        )
        place = make_detector(shots, unlabeled, out, settings, images_out)
        typer.echo(f"The detector is in {place}: run demo/demo.py on it.")


@app.command("export")
def export_command(
    index: IndexArgument,
    query: QueryOption = None,
    box: BoxOption = None,
    name: Annotated[str, typer.Option("--fiftyone", help="Name of the new dataset.")] = "spil-d2",
    k: Annotated[int, typer.Option("-k", help="Results at most.", min=1)] = 50,
    min_score: Annotated[
        float, typer.Option(help="Leave out results with a lower score.", min=0.0, max=1.0)
    ] = 0.0,
) -> None:
    """Hand the results of a search to FiftyOne (`pip install fiftyone`).

    \b
    Example:
      spil-d2 export pictures.index --query cup.jpg --box 120,80,410,390 --fiftyone cups
    """
    from ..engine.export import to_fiftyone
    from ..engine.searcher import Searcher

    pairs = pair_boxes(query, box)
    with reported_failures(), Searcher.open(index) as searcher:
        hits = searcher.search(read_references(searcher, pairs), k)
        kept = [hit for hit in hits if hit.score >= min_score]
        dataset = to_fiftyone(searcher, kept, name)
        typer.echo(f"FiftyOne has the dataset {dataset.name!r} with {len(kept)} pictures.")


@app.command("serve")
def serve_command(
    index: IndexArgument,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=0, max=65535)] = 8000,
    cache_gb: CacheOption = 0.0,
) -> None:
    """Show a web page on which boxes are drawn and results looked at.

    \b
    Example:
      spil-d2 serve pictures.index            # then open http://127.0.0.1:8000
    """
    with reported_failures():
        from ..web.server import serve

        typer.echo(f"Loading; then the page is at http://{host}:{port}/ and Ctrl+C ends it.")
        serve(index, host, port, cache_gb)
