"""The cycle through `tools/cycle_self_train.py`: rounds, artefacts, a kill, more rounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from spil_d2.engine import cycle as cycle_module
from spil_d2.engine.cycle_evaluation import TABLE_COLUMNS
from spil_d2.selftrain.seeds import QuerySeeds
from spil_d2.structures import ClusterAssignment, RegionLists, SamplePool

from ..programs import ROOT, load_tool, restored_loggers

INSTANT = ROOT / "configs" / "quick_schedules" / "cst_tiny_instant_test.yaml"


@pytest.fixture(scope="module")
def run_cycle(datasets_root) -> Callable[..., list[dict]]:
    """(output folder, *arguments) -> the rows of Table 8."""
    tool = load_tool("cycle_self_train")

    def run(output: Path, *arguments: str) -> list[dict]:
        given = ["--config-file", str(INSTANT), *arguments, "OUTPUT_DIR", str(output)]
        with restored_loggers():
            return tool.main(tool.parser().parse_args(given))

    return run


@pytest.fixture(scope="module")
def undisturbed(run_cycle, tmp_path_factory) -> tuple[Path, list[dict]]:
    output = tmp_path_factory.mktemp("cycle")
    return output, run_cycle(output)


def test_each_round_publishes_its_parts(undisturbed) -> None:
    output, rows = undisturbed
    assert [row["round"] for row in rows] == [0, 1, 2]
    for row in rows:
        assert all(0 <= row[key] <= 100 for key in TABLE_COLUMNS if key != "round")
    assert json.loads((output / "summary.json").read_text())["rounds"] == rows
    assert len((output / "table8.md").read_text().splitlines()) == 2 + len(rows)
    for number in (1, 2):
        folder = output / "rounds" / f"{number:02d}"
        lists = RegionLists.load(folder / "rank_lists" / "region_lists.npz")
        pool = SamplePool.load(folder / "pool" / "pool.json.gz")
        assert set(lists) == set(pool) and len(lists) == 8
        for seed_id, one in lists.items():
            found = {tuple(box) for box in one.boxes.tolist()}
            candidates = pool[seed_id].candidates
            assert candidates and {c.box for c in candidates} <= found
            assert len({c.image_id for c in candidates}) == len(candidates)
        clusters = ClusterAssignment.load(folder / "clusters" / "clusters.npz")
        assert clusters.num_clusters >= 2
        assert (folder / "localizer" / "localizer.pth").is_file()
        assert (folder / "ranker" / "ranker.pth").is_file()


def test_a_seed_is_not_searched_in_its_own_image(undisturbed) -> None:
    output, _ = undisturbed
    seeds = QuerySeeds.load(output / "seeds" / "seeds.npz")
    lists = RegionLists.load(output / "rounds" / "01" / "rank_lists" / "region_lists.npz")
    for seed_id, own in enumerate(seeds.image_ids.tolist()):
        assert own not in lists[seed_id].image_ids


def test_each_round_starts_from_the_weights_of_the_one_before(undisturbed) -> None:
    output, _ = undisturbed
    weights = [output / "pretrained" / "localizer" / "localizer.pth"]
    weights += [output / "rounds" / f"{r:02d}" / "localizer" / "localizer.pth" for r in (1, 2)]
    states = [torch.load(path, weights_only=True) for path in weights]
    name = next(key for key in states[0] if key.endswith("cls_score.weight"))
    first, second = (states[i + 1][name] - states[i][name] for i in range(2))
    assert 0 < first.abs().max() < 0.5 and 0 < second.abs().max() < 0.5


def _interrupt(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt


def test_killed_and_given_more_rounds_it_ends_as_the_undisturbed_one(
    undisturbed, run_cycle, tmp_path, monkeypatch
) -> None:
    """Killed while lists are made and while the ranker is trained, in each of the two rounds."""

    def die_in(place: str, call: int, *arguments: str) -> None:
        calls = []
        whole = getattr(cycle_module, place)

        def mortal(*given, **options):
            calls.append(place)
            if len(calls) == call:
                raise KeyboardInterrupt
            return whole(*given, **options)

        with monkeypatch.context() as patch:
            patch.setattr(cycle_module, place, mortal)
            with pytest.raises(KeyboardInterrupt):
                run_cycle(tmp_path, *arguments)

    die_in("localize_queries", 1, "--rounds", "1")
    die_in("train_ranker", 1, "--rounds", "1", "--resume")
    assert (tmp_path / "rounds" / "01" / "localizer").exists()
    assert not (tmp_path / "rounds" / "01" / "ranker").exists()
    assert run_cycle(tmp_path, "--rounds", "1", "--resume") == undisturbed[1][:2]
    die_in("localize_queries", 1, "--rounds", "2", "--resume")
    # The first call finds the finished training of the first round.
    die_in("train_ranker", 2, "--rounds", "2", "--resume")
    assert (tmp_path / "rounds" / "02" / "localizer").exists()
    assert run_cycle(tmp_path, "--rounds", "2", "--resume") == undisturbed[1]


@pytest.fixture(scope="module")
def pretrained(undisturbed) -> list[str]:
    """Keys for a cycle that starts with the models of the undisturbed one."""
    folder = undisturbed[0] / "pretrained"
    parts = ("localizer", "ranker")
    pairs = [(f"CST.{one.upper()}.WEIGHTS", str(folder / one / f"{one}.pth")) for one in parts]
    return [word for pair in pairs for word in pair]


def test_what_lists_agree_upon_is_trained_on_and_searched_for_next(
    run_cycle, pretrained, tmp_path, monkeypatch
) -> None:
    keys = [*pretrained, "CST.AGREEMENT.ENABLED", "True", "CST.AGREEMENT.MIN_VOTES", "1"]
    keys += ["CST.AGREEMENT.REFINE_BOXES", "grabcut"]
    with monkeypatch.context() as patch:
        # Killed between the agreement of the first round and the training on it.
        patch.setattr(cycle_module, "train_localizer", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_cycle(tmp_path, *keys)
    assert len(run_cycle(tmp_path, "--resume", *keys)) == 3
    first, second = (tmp_path / "rounds" / f"{number:02d}" for number in (1, 2))
    agreed = QuerySeeds.load(first / "agreement" / "seeds.npz")
    assert agreed.source_names == ("agreement",) and len(agreed) >= 2
    boxes = {tuple(box) for box in agreed.boxes.tolist()}
    pool = SamplePool.load(first / "pool" / "pool.json.gz")
    assert {c.box for one in pool.queries for c in one.candidates} <= boxes
    lists = RegionLists.load(second / "rank_lists" / "region_lists.npz")
    assert set(lists) == set(range(len(agreed)))
    inspected = load_tool("inspect_cycle").main(
        ["--config-file", str(INSTANT), "OUTPUT_DIR", str(tmp_path)]
    )
    assert [row["seeds"] for row in inspected] == [8, len(agreed)]
    assert inspected[0]["agreed"] == len(agreed)


def test_another_configuration_is_refused(undisturbed, run_cycle) -> None:
    with pytest.raises(ValueError, match="made with fingerprint"):
        run_cycle(undisturbed[0], "--resume", "CST.SAMPLING.STRATEGY", "topk")


def test_too_few_clusters_leave_the_ranker_as_it_was(run_cycle, pretrained, tmp_path) -> None:
    keys = [*pretrained, "CST.CLUSTERING.MODE", "cosine", "CST.CLUSTERING.EPS", "1e-7"]
    rows = run_cycle(tmp_path, "--rounds", "1", *keys)
    assert not (tmp_path / "rounds" / "01" / "ranker").exists()
    assert rows[0]["ranker/mAP"] == rows[1]["ranker/mAP"]
