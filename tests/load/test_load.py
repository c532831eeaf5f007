"""The small size of `python -m tests.load`: every light case, a few clients, a few seconds."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from spil_d2.engine.folder_index import IndexSettings
from spil_d2.web import WebSettings

from ..programs import ROOT
from .harness import Plan, run
from .hostile import Case, cases
from .served import forked_server, make_gallery

INSTANT = ROOT / "configs/quick_schedules/spil_tiny_instant_test.yaml"
LIMITS = WebSettings(
    max_connections=40, head_seconds=0.5, body_seconds=0.5, answer_seconds=1.0, body_rate=10**6
)


def thinned(whole: list[Case], seed: int) -> list[Case]:
    """Some of the many paths, and all the rest."""
    paths = [one for one in whole if one.name.startswith("path")]
    rest = [one for one in whole if not one.name.startswith("path")]
    return random.Random(seed).sample(paths, 150) + rest


def test_the_server_under_load(tmp_path: Path) -> None:
    gallery = make_gallery(tmp_path, 0, IndexSettings(config_file=INSTANT, num_workers=0))
    plan = Plan(clients=6, seconds=2.0, quiet_seconds=0.0, seed=0)
    wanted = thinned(cases(gallery, plan.seed, heavy=False), plan.seed)
    with forked_server(gallery, LIMITS) as server:
        result = asyncio.run(run(server, gallery, wanted, plan, LIMITS))
    assert not result.failures, "\n".join(result.failures[:20])
    assert len(wanted) <= sum(result.findings.exchanges.values())
