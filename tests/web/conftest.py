"""A small index that needs no model, and a real server over it."""

from __future__ import annotations

import contextlib
import io
import shutil
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image
from pycocotools import mask as coco_mask

from spil_d2.engine.searcher import QueryImage
from spil_d2.structures import Box, SearchHit
from spil_d2.web import WebSettings, create_app
from spil_d2.web.server import uvicorn_config

SIZES = [(160, 120), (120, 160)]
"""(width, height) of the pictures of even and odd ids."""


def square_of(image_id: int) -> Box:
    """Where the coloured square of a picture lies."""
    x, y = 10.0 + 3 * image_id, 20.0 + 2 * image_id
    return (x, y, x + 40, y + 40)


def colour_of(image_id: int) -> np.ndarray:
    """RGB of the square: ids of one remainder modulo 4 have about one colour."""
    base = [(220, 30, 30), (30, 180, 60), (40, 60, 220), (230, 200, 40)][image_id % 4]
    return np.array(base) - image_id


class ColourSearcher:
    """A `Searcher` whose similarity is that of mean colours; counts its simultaneous calls."""

    def __init__(self, folder: Path, num_images: int = 12, can_refine: bool = True) -> None:
        self._folder = folder
        self.can_refine = can_refine
        self.delay = 0.0
        self.refinements = threading.Semaphore(1000)
        self.running = 0
        self.most_running = 0
        self.calls: list[dict] = []
        self.paths: dict[int, Path] = {}
        for image_id in range(1, num_images + 1):
            width, height = SIZES[image_id % 2]
            pixels = np.full((height, width, 3), 128, np.uint8)
            x0, y0, x1, y1 = map(int, square_of(image_id))
            pixels[y0:y1, x0:x1] = colour_of(image_id)
            self.paths[image_id] = folder / "photos" / f"{image_id:03d}.png"
            self.paths[image_id].parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(self.paths[image_id])

    def info(self) -> dict:
        return {
            "folder": str(self._folder),
            "engine": "colour",
            "backend": "exact",
            "images": len(self.paths),
            "regions": len(self.paths),
            "unreadable": [],
            "calibrated": True,
        }

    def images(self) -> list[tuple[int, str]]:
        return [(image_id, self._name(image_id)) for image_id in self.paths]

    def image_path(self, image_id: int) -> Path:
        return self.paths[image_id]

    def image_size(self, image_id: int) -> tuple[int, int]:
        return SIZES[image_id % 2]

    def search(
        self,
        references: Sequence[QueryImage],
        k: int = 50,
        *,
        combine: str = "mean",
        excluded: Collection[int] = (),
    ) -> list[SearchHit]:
        with self._counted():
            self.calls.append({"k": k, "combine": combine, "excluded": set(excluded)})
            self.calls[-1]["references"] = [(one.image_id, one.boxes) for one in references]
            wanted = [_colour(one.image, box) for one in references for box in one.boxes]
            if combine == "mean":
                wanted = [np.mean(wanted, axis=0)]
            own = {one.image_id for one in references}
            found = [
                (max(self._similarity(i, colour) for colour in wanted), i)
                for i in self.paths
                if i not in own | set(excluded)
            ]
            found.sort(key=lambda one: (-one[0], one[1]))
            return [self._hit(rank, i, s) for rank, (s, i) in enumerate(found[:k], 1)]

    def refine(
        self, references: Sequence[QueryImage], hits: Sequence[SearchHit]
    ) -> Iterator[SearchHit]:
        for hit in hits:
            self.refinements.acquire()
            with self._counted():
                x0, y0, x1, y1 = map(round, hit.box)
                width, height = SIZES[hit.image_id % 2]
                mask = np.zeros((height, width), np.uint8, order="F")
                mask[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2] = 1
                box = (x0 + 2.0, y0 + 2.0, x1 - 2.0, y1 - 2.0)
                score = min(1.0, hit.score + 0.05)
                rle = coco_mask.encode(mask)
            yield SearchHit(hit.rank, hit.image, hit.image_id, box, score, hit.similarity, rle)

    def _hit(self, rank: int, image_id: int, similarity: float) -> SearchHit:
        box = square_of(image_id)
        score = max(0.0, similarity) ** 4
        return SearchHit(rank, self._name(image_id), image_id, box, score, similarity)

    def _name(self, image_id: int) -> str:
        return self.paths[image_id].relative_to(self._folder).as_posix()

    def _similarity(self, image_id: int, colour: np.ndarray) -> float:
        distance = float(np.abs(_unit(colour_of(image_id)) - _unit(colour)).mean())
        return 1 - 2 * distance

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        time.sleep(self.delay)
        yield
        self.running -= 1


def _unit(colour: np.ndarray) -> np.ndarray:
    return colour / np.linalg.norm(colour)


def _colour(image: np.ndarray, box: Box) -> np.ndarray:
    x0, y0, x1, y1 = (round(value) for value in box)
    return image[y0:y1, x0:x1].reshape(-1, 3).mean(axis=0)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """A picture as a file."""
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, kind, **options)
    return target.getvalue()


@contextlib.contextmanager
def running_server(searcher: object, **settings: object) -> Iterator[str]:
    """The address of a server over a searcher, in a thread of this process."""
    limits = WebSettings(**settings)  # type: ignore[arg-type]
    app = create_app(searcher, settings=limits)  # type: ignore[arg-type]
    server = uvicorn.Server(uvicorn_config(app, limits))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture
def searcher(tmp_path: Path) -> ColourSearcher:
    return ColourSearcher(tmp_path / "indexed")


@pytest.fixture
def start_server() -> Iterator[Callable[..., str]]:
    """(searcher, **settings) -> address; the servers end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda searcher, **settings: stack.enter_context(running_server(searcher, **settings))


@pytest.fixture
def client(searcher: ColourSearcher, start_server: Callable[..., str]) -> Iterator[httpx.Client]:
    """Asks a server over `searcher`."""
    with httpx.Client(base_url=start_server(searcher), timeout=20) as one:
        yield one


@pytest.fixture
def red_square() -> bytes:
    """A picture of 100 x 80 pixels with a red square at (30, 20, 70, 60)."""
    pixels = np.full((80, 100, 3), 128, np.uint8)
    pixels[20:60, 30:70] = (215, 26, 26)
    return encoded(pixels)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The system's browser; tests in a browser are left out where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        path = shutil.which(name)
        if path is not None:
            return path
    pytest.skip("no chromium on the PATH: the page is not tested in a browser")


@pytest.fixture(scope="module")
def browser(chromium: str):
    """That browser, driven by playwright, which test modules import only where it is there."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with sync_api.sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield one
        one.close()
