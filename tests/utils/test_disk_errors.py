"""Which errors are the disk's, in whatever form libraries raise them."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest

from spil_d2.utils.disk_errors import DiskError, named_disk_errors

FULL = OSError(errno.ENOSPC, "No space left on device")


def _sqlite_full(folder: Path) -> Exception:
    connection = sqlite3.connect(folder / "table.sqlite")
    try:
        connection.execute("PRAGMA max_page_count = 3")
        connection.execute("CREATE TABLE one (text)")
        connection.executemany("INSERT INTO one VALUES (?)", [("x" * 5000,)] * 9)
    except sqlite3.OperationalError as error:
        return error
    finally:
        connection.close()
    raise AssertionError("the table has no limit")


def _with(error: Exception, **links: Exception) -> Exception:
    for name, link in links.items():
        setattr(error, f"__{name}__", link)
    return error


@pytest.mark.parametrize(
    "raised",
    [
        FULL,
        OSError("1000000 requested and 131056 written"),
        _with(RuntimeError("[enforce fail at inline_container.cc] unexpected pos"), context=FULL),
        _with(ValueError("a table cannot be read"), cause=FULL),
        None,
    ],
    ids=["system", "numpy", "torch", "wrapped", "sqlite"],
)
def test_a_full_disk_is_named(raised: Exception | None, tmp_path: Path) -> None:
    path = tmp_path / "stages" / "00"
    with pytest.raises(DiskError, match="00 cannot be written .No space left on device") as caught:
        with named_disk_errors(path):
            raise raised or _sqlite_full(tmp_path)
    assert caught.value.errno == errno.ENOSPC and "MB are free there. Make room" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.EROFS, "use another directory"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EDQUOT, "Make room"),
    ],
)
def test_each_refusal_has_its_advice(code: int, advice: str, tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=advice), named_disk_errors(tmp_path / "a"):
        raise OSError(code, "refused")


def test_the_first_of_a_chain_counts(tmp_path: Path) -> None:
    """Cleaning up after a full disk often meets with it, too, and knows less."""
    with pytest.raises(DiskError, match="model_final.pth"), named_disk_errors(tmp_path):
        try:
            with named_disk_errors(tmp_path / "model_final.pth"):
                raise FULL
        finally:
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "raised",
    [FileNotFoundError(errno.ENOENT, "gone"), ValueError("bad"), PermissionError(13, "no")],
)
def test_other_errors_pass(raised: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(raised)) as caught, named_disk_errors(tmp_path):
        raise raised
    assert caught.value is raised


def test_missing_permissions_count_where_nothing_is_read(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="Permission denied.*use another directory"):
        with named_disk_errors(tmp_path, names_denied=True):
            raise PermissionError(errno.EACCES, "Permission denied")
