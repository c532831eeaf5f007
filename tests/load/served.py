"""A small index, secrets around it, and a process that serves it."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from detectron2.modeling import build_model
from PIL import Image

from spil_d2.engine.folder_index import IndexSettings, index_folder
from spil_d2.engine.index_config import save_config
from spil_d2.engine.index_directory import LOCALIZER, FolderIndex
from spil_d2.engine.presets import resolve_config
from spil_d2.engine.refinement import CONFIG, WEIGHTS
from spil_d2.utils.artifacts import publish_directory
from spil_d2.web import WebSettings, serve

SECRET = "spil-d2-secret-8c1f5a"
"""Stands in files that are never to be served."""
_STARTED = re.compile(r"http://127\.0\.0\.1:(\d+)/ shows the page")
_START_SECONDS = 180
_PICTURES, _SIZE = 10, (320, 240)


@dataclass(frozen=True)
class Gallery:
    """What is served.

    Attributes:
        root: of everything; `SECRET` lies in it, in the folder of pictures and in the index.
        photos: the indexed folder.
        index: its index, with a localizer.
        lost: relative path of the indexed picture that has become a link to a secret.
    """

    root: Path
    photos: Path
    index: Path
    lost: str


def make_gallery(root: Path, seed: int, settings: IndexSettings) -> Gallery:
    """Pictures, their index with an untrained localizer, and secrets beside and above both.

    Args:
        root: an empty folder.
        seed: of all chance.
        settings: of the index.
    """
    photos, index = root / "photos", root / "photos.index"
    photos.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(_PICTURES):
        draw_picture(rng, _SIZE).save(photos / f"{number:02d}.jpg")
    index_folder(photos, index, settings, progress=False)
    add_localizer(index, seed)
    for folder in (root, photos, index):
        (folder / "secret.txt").write_text(SECRET)
    (photos / "link.png").symlink_to(root / "secret.txt")
    lost = sorted(photos.glob("*.jpg"))[-1]
    lost.unlink()
    lost.symlink_to(root / "secret.txt")
    return Gallery(root, photos, index, lost.name)


def draw_picture(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Coloured blocks.

    Args:
        rng: of all chance.
        size: (width, height) in pixels.
    """
    blocks = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    return blocks.resize(size, Image.Resampling.NEAREST)


def add_localizer(index: Path, seed: int) -> None:
    """One with random weights: boxes do not matter here, that they are the same each time does."""
    cfg = FolderIndex(index).config
    resolve_config(cfg)
    torch.manual_seed(seed)
    model = build_model(cfg)

    def write(path: Path) -> None:
        torch.save(model.state_dict(), path / WEIGHTS)
        save_config(cfg, path / CONFIG)

    publish_directory(index / LOCALIZER / "0001", write, {})


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        process: of the system.
        port: that it listens at.
        log: all that it writes.
    """

    process: psutil.Process
    port: int
    log: Path

    def is_alive(self) -> bool:
        """Whether it is still the same process."""
        return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE

    def stop(self, seconds: float) -> float:
        """Seconds that it took to end after SIGTERM; TimeoutError where it does not."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        while self.is_alive():
            if time.monotonic() - started > seconds:
                raise TimeoutError(f"the server has not ended {seconds} s after SIGTERM")
            time.sleep(0.02)
        return time.monotonic() - started


@contextlib.contextmanager
def command_server(gallery: Gallery) -> Iterator[Server]:
    """`spil-d2 serve` as a user starts it, with its usual limits."""
    log = gallery.root / "server.log"
    command = [sys.executable, "-m", "spil_d2.cli", "-v", "serve", str(gallery.index)]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*command, "--port", "0"], stdout=output, stderr=output, cwd=gallery.root
        )
    try:
        yield _started(process.pid, log)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def forked_server(gallery: Gallery, settings: WebSettings) -> Iterator[Server]:
    """The same in a fork of this process, which has imported everything already.

    Args:
        gallery: what is served.
        settings: limits that a short run can meet.
    """
    log = gallery.root / "server.log"
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_serve, args=(gallery.index, settings, log), daemon=True)
    process.start()
    assert process.pid is not None
    try:
        yield _started(process.pid, log)
    finally:
        process.kill()
        process.join()


def _serve(index: Path, settings: WebSettings, log: Path) -> None:
    # Streams, handlers and filters are those of the tests.
    sys.stdout = sys.stderr = open(log, "a", buffering=1)
    os.dup2(sys.stderr.fileno(), 1)
    os.dup2(sys.stderr.fileno(), 2)
    logging.getLogger().handlers.clear()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("spil_d2").setLevel(logging.INFO)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    serve(index, port=0, settings=settings)


def _started(pid: int, log: Path) -> Server:
    process, deadline = psutil.Process(pid), time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        text = log.read_text() if log.exists() else ""
        found = _STARTED.search(text)
        if found:
            return Server(process, int(found[1]), log)
        if process.status() == psutil.STATUS_ZOMBIE:
            raise RuntimeError(f"the server has ended at its start: {text[-3000:]}")
        time.sleep(0.05)
    raise TimeoutError(f"the server has not started in {_START_SECONDS} s: {text[-3000:]}")
