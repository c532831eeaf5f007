"""The campaigns of `python -m tests.faults` in small."""

from __future__ import annotations

from pathlib import Path

import pytest

from .__main__ import main, run


# A cycle takes longer; tests/end_to_end/test_cycle.py interrupts a small one.
@pytest.mark.parametrize(("name", "seed"), [("trainer", 3), ("indexer", 0)])
def test_a_killed_program_ends_as_an_undisturbed_one(name: str, seed: int, tmp_path: Path) -> None:
    tally = run(name, 2, seed, tmp_path, progress=False)
    assert tally.faults.total() == 2 and tally.checks > 20
    assert not tally.differences, str(tally)


def test_a_killed_server_has_touched_nothing_and_answers_the_same(tmp_path: Path) -> None:
    tally = run("server", 2, 0, tmp_path, progress=False)
    assert tally.faults.total() == 2 and tally.starts == 3 and tally.checks > 20
    assert not tally.differences, str(tally)


def test_a_full_disk_is_named_and_the_next_run_goes_on(tmp_path: Path) -> None:
    try:
        tally = run("indexer", 1, 0, tmp_path, full_disk=True, progress=False)
    except PermissionError as error:
        pytest.skip(str(error))
    assert tally.faults["full disk"] == 1
    assert not tally.differences, str(tally)


def test_the_command_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["oracle"])
    assert "choose from trainer, cycle, indexer, server" in capsys.readouterr().err.replace("'", "")
