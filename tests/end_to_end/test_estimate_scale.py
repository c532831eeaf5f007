"""`tools/estimate_scale.py`: figures worked out by hand, and the page that shows its tables."""

from __future__ import annotations

import re

import pytest

from ..programs import ROOT, load_tool


@pytest.fixture(scope="module")
def tool():
    return load_tool("estimate_scale")


def test_figures_are_parts_times_counts(tool) -> None:
    work = tool.Workload(
        1e6,
        engine="gem",
        localizer="fast",
        queries=100,
        top_k=50,
        targets=4,
        seeds=1_000,
        shortlist=20,
        boxes=2,
        clustered=10,
        hours=1.0,
        cores=8,
        probed=0.06,
        latency=0.02,
    )
    figures = tool.estimate(work)
    # 5 images a second; 200,000 s are 55.6 h of one core, 6.9 of eight.
    assert figures["index_seconds"] == 200_000 and figures["index_machines"] == 7
    # A region of 1,024 halves, 24 bytes beside, and 16 for its image.
    assert figures["regions"] == 1e6
    assert figures["disk_bytes"] == (2_048 + 24 + 16) * 1e6 and figures["table_bytes"] == 40e6
    # Twice the dimensions and half of the lists of the measured search: 28.9 ms, two shards.
    assert figures["scan_seconds"] == pytest.approx(0.0289) and figures["search_cores"] == 2
    assert figures["faiss_bytes"] == 16e6
    # 5,000 pairs, each on an image of its own; 400 pseudo labels.
    assert figures["stage_images"] == 5_000
    assert figures["stage_seconds"] == pytest.approx(
        5_000 * 0.84 + 5_000 * 0.087 + 400 * tool.TARGET_SECONDS
    )
    assert figures["stage_bytes"] == 5_000 * (400 + 320)
    # 20,000 pairs with 40,000 boxes, and 10,000 regions to cluster: a twentieth of the measured.
    assert figures["round_images"] == 20_000
    assert figures["round_seconds"] == pytest.approx(
        20_000 * (0.084 + 0.0044) + 50_000 * tool.BOX_SECONDS
    )
    assert figures["cluster_seconds"] == pytest.approx(350 / 400)
    assert figures["round_bytes"] == 20_000 * 400 + 50_000 * 2_048


def test_a_small_gallery_bounds_the_images_that_are_localized(tool) -> None:
    figures = tool.estimate(tool.Workload(1_000))
    assert figures["stage_images"] == figures["round_images"] == 1_000


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        ("_size", 999.0, "999 B"),
        ("_size", 1.22e12, "1.22 TB"),
        ("_size", 5.4e17, "540 PB"),
        ("_hours", 3_600 * 103.2, "103 h"),
        ("_seconds", 0.0289, "0.0289 s"),
        ("_count", 7.0, "7"),
        ("_count", 1_338.0, "1,340"),
    ],
)
def test_figures_have_three_digits(tool, write: str, value: float, text: str) -> None:
    assert getattr(tool, write)(value) == text


@pytest.mark.parametrize("arguments", [["--images", "0"], ["--hours", "0"], ["--engine", "no"]])
def test_impossible_arguments_are_refused(tool, arguments: list[str], capsys) -> None:
    with pytest.raises(SystemExit):
        tool.main(arguments)
    assert arguments[0].strip("-") in capsys.readouterr().err


def test_the_page_shows_what_the_tool_prints(tool, capsys) -> None:
    page = (ROOT / "docs" / "SCALE.md").read_text(encoding="utf-8")
    commands = re.findall(r"`python tools/estimate_scale\.py([^`]*)`", page)
    assert len(commands) >= 2
    for arguments in commands:
        tool.main(arguments.split())
        assert capsys.readouterr().out.strip() in page
