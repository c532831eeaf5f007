"""`spil-d2 serve`, killed while it is asked, again and again."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
from tqdm import tqdm

from spil_d2.cli.app import app
from spil_d2.data.datasets.synthetic import build_demo_gallery
from spil_d2.engine.folder_index import IndexSettings, index_folder

from .artefacts import differing, stamps
from .campaign import Tally
from .forks import MOMENT, Child, Fault
from .subjects import CONFIGS

_CLIENTS = 2
# In times of what a start takes.
_LONGEST_LIFE = 2.5
_OF_ONE_SERVER = ("seconds", "search_id", "upload", "key")
_Question = Callable[[httpx.Client], httpx.Response]


class ServerCampaign:
    """Kills the server so many times; its index stays as it is, and so do its answers."""

    def __init__(self, folder: Path, seed: int):
        """
        Args:
            folder: an empty one.
            seed: of the moments and of the questions' order.
        """
        self._folder, self._seed = folder, seed
        self._rng = np.random.default_rng([seed, zlib.crc32(b"server")])
        self._tally = Tally("server")
        self._index = folder / "index"
        self._port = _free_port()
        gallery = folder / "gallery"
        build_demo_gallery(gallery, num_instances=2, images_per_instance=2, num_distractors=1)
        settings = IndexSettings(
            config_file=CONFIGS / "spil_tiny_instant_test.yaml",
            opts=("SEARCH.LONGER_SIDE", "64"),
            num_workers=0,
        )
        index_folder(gallery / "images", self._index, settings, progress=False)
        query = json.loads((gallery / "queries.json").read_text())[0]
        self._questions = _questions((gallery / query["file_name"]).read_bytes())

    def run(self, times: int, progress: bool = True) -> Tally:
        """Start, ask and kill the server `times` times, and once more without a kill."""
        before = stamps(self._index)
        expected, starting = self._undisturbed()
        with tqdm(total=times, desc="server", unit="kill", disable=not progress) as bar:
            while self._tally.faults.total() < times:
                kill = Fault(MOMENT, float(self._rng.uniform(0, _LONGEST_LIFE * starting)))
                answers = self._start(kill, expected)
                self._tally.phases["answering" if answers else "starting"] += 1
                self._tally.faults[kill.kind] += 1
                touched = differing(before, stamps(self._index))
                self._tally.checks += len(before)
                self._tally.differences += [f"{one} was touched ({kill})" for one in touched]
                bar.update()
        self._start(None, expected)
        return self._tally

    def _undisturbed(self) -> tuple[dict[str, str], float]:
        """The answers, and the CPU seconds until there was one."""
        child = self._serve(None)
        try:
            with httpx.Client(base_url=self._address, timeout=60) as client:
                _wait(client, child)
                seconds = child.seconds
                return {
                    name: _content(ask(client)) for name, ask in self._questions.items()
                }, seconds
        finally:
            child.kill()

    def _start(self, kill: Fault | None, expected: dict[str, str]) -> bool:
        """A server that is asked until it is killed, or all was asked; whether it has answered."""
        child = self._serve(kill)
        order = [self._rng.permutation(list(expected)).tolist() for _ in range(_CLIENTS)]
        answered: list[str] = []
        clients = [
            threading.Thread(target=self._ask, args=(names, expected, answered, child))
            for names in order
        ]
        for one in clients:
            one.start()
        if kill is None:
            for one in clients:
                one.join()
            child.kill()
        else:
            self._tally.seconds += child.wait().seconds
            for one in clients:
                one.join()
        self._tally.starts += 1
        self._tally.lives += 1
        self._tally.checks += len(answered)
        return bool(answered)

    def _ask(
        self, names: list[str], expected: dict[str, str], answered: list[str], child: Child
    ) -> None:
        """One client, in a thread, until the server is gone."""
        with (
            contextlib.suppress(httpx.TransportError),
            httpx.Client(base_url=self._address, timeout=60) as client,
        ):
            _wait(client, child)
            while True:
                for name in names:
                    content = _content(self._questions[name](client))
                    answered.append(name)
                    if content != expected[name]:
                        self._tally.differences.append(
                            f"{name}: {content[:300]} instead of {expected[name][:300]}"
                        )
                if child.is_immortal:
                    return

    @property
    def _address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def _serve(self, kill: Fault | None) -> Child:
        words = ["serve", str(self._index), "--port", str(self._port)]
        return Child(lambda: app(words), self._index, self._folder / "log.txt", kill)


def _questions(picture: bytes) -> dict[str, _Question]:
    """What is asked: searches with pictures of the index and with an upload, pictures, the page."""

    def search(client: httpx.Client, reference: dict, **more: object) -> httpx.Response:
        return client.post("/api/searches", json={"references": [reference], "k": 5, **more})

    def uploaded(client: httpx.Client) -> httpx.Response:
        token = client.post("/api/uploads", content=picture).json()["upload"]
        return search(client, {"upload": token})

    box = [10.0, 10.0, 120.0, 100.0]
    return {
        "search": lambda client: search(client, {"image_id": 1, "boxes": [box]}),
        "search max": lambda client: search(
            client, {"image_id": 2, "boxes": [box, box]}, combine="max"
        ),
        "upload": lambda client: client.post("/api/uploads", content=picture),
        "search upload": uploaded,
        "thumbnail": lambda client: client.get("/api/pictures/3/320"),
        "pictures": lambda client: client.get("/api/pictures"),
        "info": lambda client: client.get("/api/info"),
        "page": lambda client: client.get("/"),
    }


def _content(response: httpx.Response) -> str:
    if response.headers["content-type"] != "application/json":
        return f"{response.status_code} {zlib.crc32(response.content)}"
    content = response.json()
    kept = {key: value for key, value in content.items() if key not in _OF_ONE_SERVER}
    return f"{response.status_code} {json.dumps(kept, sort_keys=True)}"


def _wait(client: httpx.Client, child: Child) -> None:
    """Until the server listens; httpx.ConnectError where it is dead before."""
    while True:
        try:
            client.get("/api/info")
            return
        except httpx.ConnectError:
            if not child.is_alive:
                raise
            time.sleep(0.01)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]
