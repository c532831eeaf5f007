"""The programs that are killed: how each is started, and what it must not do twice."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from detectron2.engine import TrainerBase, defaults

from spil_d2.cli.app import app
from spil_d2.data.datasets.instance_search import register_instance_search
from spil_d2.data.datasets.synthetic import build_demo_gallery
from spil_d2.engine import folder_index, segments

from ..programs import ROOT, load_tool
from .forks import Journal

CONFIGS = ROOT / "configs" / "quick_schedules"
DATASET = "ins_faults"
_SMALL = {
    "DATASETS.TRAIN": f"('{DATASET}',)",
    "DATASETS.TEST": f"('{DATASET}',)",
    "INPUT.MIN_SIZE_TRAIN": "[64]",
    "INPUT.MAX_SIZE_TRAIN": "96",
    "INPUT.MIN_SIZE_TEST": "64",
    "INPUT.MAX_SIZE_TEST": "96",
    "MODEL.QUERY.CROP_SIZE": "64",
    "MODEL.ANCHOR_GENERATOR.SIZES": "[[24, 48]]",
    "MODEL.RPN.PRE_NMS_TOPK_TEST": "8",
    "MODEL.RPN.POST_NMS_TOPK_TEST": "4",
    "SOLVER.CHECKPOINT_PERIOD": "2",
}


class Subject:
    """A program that is started again and again in a folder until it is done.

    Attributes:
        name: for the command line.
        steps: what is done one after the other; each is started until it ends.
        published: patterns of directories that must be artefacts.
        milestones: (what is being done, pattern of what is there when it is done), in order.
        unit: of work, as the journal has it.
        most_repeated: units that one kill may cost.
    """

    name: ClassVar[str]
    steps: ClassVar[tuple[str, ...]] = ("run",)
    published: ClassVar[tuple[str, ...]]
    milestones: ClassVar[tuple[tuple[str, str], ...]]
    unit: ClassVar[str]
    most_repeated: ClassVar[int]

    def __init__(self, folder: Path):
        """
        Args:
            folder: where the inputs are made; all starts share them.
        """
        self.gallery = folder / "gallery"
        build_demo_gallery(self.gallery, num_instances=2, images_per_instance=2, num_distractors=1)

    def prepare(self, step: str, place: Path) -> None:
        """Make ready what a step needs; it is not killed."""

    def start(self, step: str, output: Path, journal: Journal) -> None:
        """Run the program, in a child."""
        raise NotImplementedError

    def phase(self, output: Path) -> str:
        """What a start that was killed had to do."""
        for what, pattern in self.milestones:
            if next(output.glob(pattern), None) is None:
                return what
        return "the end"

    def repeated(self, lines: Sequence[str]) -> list[int]:
        """Units that each start after a kill has done again.

        Args:
            lines: of the journal: "start", and "UNIT of-what number".
        """
        done: dict[str, int] = defaultdict(lambda: -1)
        counts: list[int] = []
        begun: set[str] = set()
        for line in lines:
            words = line.split()
            if words[0] == "start":
                counts.append(0)
                begun = set()
            elif words[0] == self.unit:
                of, number = words[1], int(words[2])
                if of not in begun:
                    counts[-1] += max(0, done[of] + 1 - number)
                    begun.add(of)
                done[of] = max(done[of], number)
        return counts


class Trainer(Subject):
    """`tools/train_net.py`: three stages of SPIL."""

    name = "trainer"
    published = ("stages/*", "search/*", "index/*", "index/*/segments/*")
    milestones = (
        ("index", "index/*/manifest.json"),
        ("search", "search/*/manifest.json"),
        ("pool 0", "stages/00/manifest.json"),
        ("stage 0", "model_0000002.pth"),
        ("pool 1", "stages/01/manifest.json"),
        ("stage 1", "model_0000005.pth"),
        ("pool 2", "stages/02/manifest.json"),
        ("stage 2", "model_final.pth"),
        ("final boxes", "stages/03/manifest.json"),
        ("results", f"inference/{DATASET}/summary.json"),
    )
    unit = "iteration"
    most_repeated = 2
    keys: ClassVar[dict[str, str]] = {
        **_SMALL,
        "SPIL.NUM_STAGES": "3",
        "SPIL.STAGE_FRACTIONS": "(1., 1., 1.)",
        "SPIL.STAGE_LR_STEPS": "(0.8, 0.8, 0.8)",
        "SPIL.TAU": "(0.02, 0.02, 0.02)",
        # The initial weights are one more thing to keep.
        "SPIL.STAGE_INIT": "restart",
        "SPIL.REFINE_BOXES": "none",
        "TEST.REFINE_BOXES": "none",
        "SEARCH.LONGER_SIDE": "64",
        "SEARCH.RERANK": "False",
        "SOLVER.MAX_ITER": "9",
    }
    config: ClassVar[Path] = CONFIGS / "spil_tiny_instant_test.yaml"
    tool: ClassVar[str] = "train_net"

    def __init__(self, folder: Path):
        super().__init__(folder)
        self._program = load_tool(self.tool)

    def start(self, step: str, output: Path, journal: Journal) -> None:
        register_instance_search(DATASET, self.gallery)
        _note_iterations(journal, output)
        # Half a second of every start.
        defaults.collect_env_info = str
        words = [word for pair in self.keys.items() for word in pair]
        given = ["--config-file", str(self.config), "--resume", *words, "OUTPUT_DIR", str(output)]
        self._program.main(self._program.parser().parse_args(given))


class Cycle(Trainer):
    """`tools/cycle_self_train.py`: two rounds of CST."""

    name = "cycle"
    published = ("seeds", *(f"rounds/*/{one}" for one in ("rank_lists", "pool", "clusters")))
    published += ("rounds/*/metrics",)
    milestones = (
        ("seeds", "seeds/manifest.json"),
        ("pretrained localizer", "pretrained/localizer/localizer.pth"),
        ("pretrained ranker", "pretrained/ranker/ranker.pth"),
        ("metrics 0", "rounds/00/metrics/manifest.json"),
        *(
            (f"{what} {number}", f"rounds/{number:02d}/{pattern}")
            for number in (1, 2)
            for what, pattern in (
                ("rank lists", "rank_lists/manifest.json"),
                ("pool", "pool/manifest.json"),
                ("localizer", "localizer/localizer.pth"),
                ("clusters", "clusters/manifest.json"),
                ("ranker", "ranker/ranker.pth"),
                ("metrics", "metrics/manifest.json"),
            )
        ),
        ("table", "summary.json"),
    )
    config = CONFIGS / "cst_tiny_instant_test.yaml"
    tool = "cycle_self_train"
    keys: ClassVar[dict[str, str]] = {
        **_SMALL,
        "CST.SEEDS.NUM": "4",
        "CST.SEEDS.SOURCES": "['grid']",
        "CST.BOXES_PER_IMAGE": "1",
    }


class Indexer(Subject):
    """`spil-d2 index`: a folder, and the folder when some of it has changed."""

    name = "indexer"
    steps = ("new", "grown")
    published = ("segments/*[0-9]", "regions/segments/*")
    milestones = (("start", "files.sqlite"),)
    unit = "picture"
    most_repeated = 3

    def __init__(self, folder: Path):
        super().__init__(folder)
        self._pictures = sorted((self.gallery / "images").glob("*.jpg"))

    def photos(self, place: Path) -> Path:
        """The folder that is indexed."""
        return place / "photos"

    def prepare(self, step: str, place: Path) -> None:
        photos = self.photos(place)
        if step == "new":
            photos.mkdir()
            for number in range(10):
                self._copy(number, photos)
        else:
            for number in range(10, 15):
                self._copy(number, photos)
            (photos / "03.jpg").unlink()
            shutil.copy(self._pictures[0], photos / "04.jpg")
            os.utime(photos / "04.jpg", ns=(5, 5))

    def _copy(self, number: int, photos: Path) -> None:
        picture = self._pictures[number % len(self._pictures)]
        shutil.copy2(picture, photos / f"{number:02d}.jpg")

    def start(self, step: str, output: Path, journal: Journal) -> None:
        _note_pictures(journal)
        settings = functools.partial(folder_index.IndexSettings, segment_images=3)
        folder_index.IndexSettings = settings  # type: ignore[misc,assignment]
        place = self.photos(output.parent)
        given = ["index", str(place), "--out", str(output), "--workers", "0"]
        app([*given, "--config-file", str(CONFIGS / "spil_tiny_instant_test.yaml")])

    def phase(self, output: Path) -> str:
        if not (output / "files.sqlite").exists():
            return "start"
        manifest = json.loads((output / "manifest.json").read_text())
        what = "grown: " if "images" in manifest else "new: "
        head = output / "regions" / "index.json"
        generation = json.loads(head.read_text())["generation"] if head.is_file() else 0
        return what + f"generation {generation}"

    def repeated(self, lines: Sequence[str]) -> list[int]:
        known: set[str] = set()
        counts: list[int] = []
        for line in lines:
            if line.startswith("start"):
                counts.append(0)
            elif line in known:
                counts[-1] += 1
            known.add(line)
        return counts


def _note_iterations(journal: Journal, output: Path) -> None:
    before_step = TrainerBase.before_step

    def noted(trainer: TrainerBase) -> None:
        if hasattr(trainer, "cfg"):
            of = Path(trainer.cfg.OUTPUT_DIR).relative_to(output)
            journal.note("iteration", of, trainer.iter)
        before_step(trainer)

    TrainerBase.before_step = noted


def _note_pictures(journal: Journal) -> None:
    read: Callable = segments.read_picture

    def noted(path: Path, *rest: object) -> object:
        journal.note("picture", path.name, path.stat().st_mtime_ns)
        return read(path, *rest)

    segments.read_picture = noted  # type: ignore[assignment]
