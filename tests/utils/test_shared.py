"""Finding the shared folder."""

from __future__ import annotations

import logging

from spil_d2.utils import shared


def test_the_variable_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIL_D2_SHARED", str(tmp_path))
    assert shared.find_shared() == tmp_path.resolve()


def test_a_variable_that_names_no_folder_is_reported(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SPIL_D2_SHARED", str(tmp_path / "absent"))
    with caplog.at_level(logging.WARNING):
        assert shared.find_shared() is None
    assert "absent" in caplog.text


def test_else_it_lies_beside_the_checkout(tmp_path, monkeypatch):
    monkeypatch.delenv("SPIL_D2_SHARED", raising=False)
    module = tmp_path / "checkout" / "spil_d2" / "utils" / "shared.py"
    monkeypatch.setattr(shared, "__file__", str(module))
    assert shared.find_shared() is None
    (tmp_path / "shared").mkdir()
    assert shared.find_shared() == (tmp_path / "shared").resolve()
