"""What `--deterministic` sets, and what it says where it comes too late."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from spil_d2.utils.determinism import (
    CUBLAS_VARIABLE,
    CUBLAS_WORKSPACES,
    draw_seed,
    make_deterministic,
)


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All of it is state of the process."""
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    monkeypatch.setenv(CUBLAS_VARIABLE, "")
    monkeypatch.delenv(CUBLAS_VARIABLE)
    yield
    torch.use_deterministic_algorithms(before[0])
    cudnn.deterministic, cudnn.benchmark = before[1:]


def test_everything_is_set_and_what_has_no_such_form_is_named() -> None:
    torch.backends.cudnn.benchmark = True
    make_deterministic()
    assert os.environ[CUBLAS_VARIABLE] == ":4096:8"
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    with pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("workspace", CUBLAS_WORKSPACES)
def test_the_users_workspace_stays(monkeypatch: pytest.MonkeyPatch, workspace: str) -> None:
    monkeypatch.setenv(CUBLAS_VARIABLE, workspace)
    # CUDA may have started then.
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    make_deterministic()
    assert os.environ[CUBLAS_VARIABLE] == workspace


def test_a_workspace_that_is_not_repeatable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS_VARIABLE, ":0:0")
    with pytest.raises(ValueError, match="CUBLAS_WORKSPACE_CONFIG is ':0:0'.*:4096:8"):
        make_deterministic()
    assert not torch.are_deterministic_algorithms_enabled()


def test_too_late_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="CUDA has started without CUBLAS_WORKSPACE_CONFIG"):
        make_deterministic()
    assert CUBLAS_VARIABLE not in os.environ


def test_seeds_are_drawn_from_all_of_31_bits() -> None:
    drawn = [draw_seed() for _ in range(200)]
    assert len(set(drawn)) > 190 and all(0 <= seed < 2**31 for seed in drawn)
    assert max(drawn) > 2**30 > min(drawn)
