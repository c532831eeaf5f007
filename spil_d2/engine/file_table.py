"""Which files an index knows, and what became of them: one small SQLite table."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ..utils.reading import UnreadableFileError, reason_of
from .folder_scan import ScannedFile

NEW, INDEXED, UNREADABLE, LEAVING, GONE = "new", "indexed", "unreadable", "leaving", "gone"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    path TEXT NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    status TEXT NOT NULL,
    width INTEGER NOT NULL DEFAULT 0,
    height INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX IF NOT EXISTS present ON files (path) WHERE status NOT IN ('leaving', 'gone');
CREATE INDEX IF NOT EXISTS by_status ON files (status);
"""
_SCANNED = "CREATE TEMP TABLE scanned (path TEXT PRIMARY KEY, size INT, mtime_ns INT, error TEXT)"
_PRESENT = "status NOT IN ('leaving', 'gone')"
# SQLite takes at least 999 values in a query.
_IDS_AT_ONCE = 500
_COLUMNS = "id, path, width, height, status, error"


@dataclass(frozen=True)
class FileRow:
    """A file of the index.

    Attributes:
        id: the image id; a file that changes gets another one.
        path: relative to the folder, with forward slashes.
        width, height: as displayed, in pixels; 0 before it was read.
        status: "new" (not read yet), "indexed", "unreadable", or, of a file that is no longer in
            the folder in this form, "leaving" (its regions are still in the index) or "gone".
        error: why it is unreadable.
    """

    id: int
    path: str
    width: int
    height: int
    status: str
    error: str


@dataclass(frozen=True)
class Outcome:
    """What reading a file has come to: its displayed size, or the reason why not."""

    id: int
    width: int
    height: int
    error: str


class FileTable:
    """The table in `path`; every method is one transaction, or none for those that read."""

    def __init__(self, path: str | Path, read_only: bool = False):
        """Open or make the table.

        Args:
            path: of the file.
            read_only: it must exist, and is not changed.
        """
        self._path = Path(path)
        self._read_only = read_only
        if read_only:
            if not self._path.is_file():
                raise FileNotFoundError(f"{path} is missing: the index is not complete")
        else:
            with self._connection() as connection:
                connection.executescript(_SCHEMA)

    def update(self, scanned: Iterable[ScannedFile], retry_unreadable: bool = False) -> None:
        """Note what the folder holds now: files that are new, changed, or no longer there.

        Args:
            scanned: of the whole folder; drawn one by one.
            retry_unreadable: read unchanged files again that could not be read before.
        """
        unchanged = "s.path = files.path AND s.size = files.size AND s.mtime_ns = files.mtime_ns"
        keep = f"EXISTS (SELECT 1 FROM scanned s WHERE {unchanged} AND s.error = '')"
        if retry_unreadable:
            keep += f" AND status != '{UNREADABLE}'"
        with self._connection() as connection:
            connection.execute(_SCANNED)
            rows = ((one.path, one.size, one.mtime_ns, one.error) for one in scanned)
            connection.executemany("INSERT OR IGNORE INTO scanned VALUES (?, ?, ?, ?)", rows)
            connection.execute(
                f"UPDATE files SET status = CASE status WHEN '{INDEXED}' THEN '{LEAVING}' "
                f"ELSE '{GONE}' END WHERE {_PRESENT} AND NOT ({keep})"
            )
            connection.execute(
                "INSERT INTO files (path, size, mtime_ns, status, error) SELECT path, size, "
                f"mtime_ns, CASE error WHEN '' THEN '{NEW}' ELSE '{UNREADABLE}' END, error "
                f"FROM scanned WHERE path NOT IN (SELECT path FROM files WHERE {_PRESENT}) "
                "ORDER BY path"
            )

    def finish(self, outcomes: Sequence[Outcome]) -> None:
        """Note files as indexed or, where there is an error, unreadable.

        One that has left the folder meanwhile goes from "gone" to "leaving": its regions are in.
        """
        read = [(one.width, one.height, one.id) for one in outcomes if not one.error]
        failed = [(one.error, one.id) for one in outcomes if one.error]
        with self._connection() as connection:
            connection.executemany(
                f"UPDATE files SET width = ?, height = ?, status = CASE status WHEN '{GONE}' "
                f"THEN '{LEAVING}' ELSE '{INDEXED}' END WHERE id = ?",
                read,
            )
            connection.executemany(
                f"UPDATE files SET status = '{UNREADABLE}', error = ? "
                f"WHERE id = ? AND status = '{NEW}'",
                failed,
            )

    def forget(self, ids: Iterable[int]) -> None:
        """Note that the regions of these leaving files are out of the index."""
        with self._connection() as connection:
            connection.executemany(
                f"UPDATE files SET status = '{GONE}' WHERE id = ? AND status = '{LEAVING}'",
                ((one,) for one in ids),
            )

    def rows(self, status: str, after: int = 0, limit: int = -1) -> list[FileRow]:
        """Files of a status with ids above `after`, by id; all of them where limit is -1."""
        condition = "WHERE status = ? AND id > ? ORDER BY id LIMIT ?"
        return self._select(condition, (status, after, limit))

    def by_id(self, image_id: int) -> FileRow:
        """A file of the index, also one that has left it; KeyError for another number."""
        return self.by_ids([image_id])[0]

    def by_ids(self, image_ids: Sequence[int]) -> list[FileRow]:
        """`by_id` of many, in their order."""
        found: dict[int, FileRow] = {}
        for start in range(0, len(image_ids), _IDS_AT_ONCE):
            some = tuple(int(one) for one in image_ids[start : start + _IDS_AT_ONCE])
            marks = ",".join("?" * len(some))
            found.update((row.id, row) for row in self._select(f"WHERE id IN ({marks})", some))
        missing = [one for one in image_ids if one not in found]
        if missing:
            raise KeyError(f"the index has no image {missing[0]}")
        return [found[one] for one in image_ids]

    def by_path(self, path: str) -> FileRow | None:
        """The present file of a relative path."""
        found = self._select(f"WHERE path = ? AND {_PRESENT}", (path,))
        return found[0] if found else None

    def count(self, status: str) -> int:
        """How many files have a status."""
        with self._connection() as connection:
            query = "SELECT COUNT(*) FROM files WHERE status = ?"
            return int(connection.execute(query, (status,)).fetchone()[0])

    def _select(self, condition: str, values: tuple) -> list[FileRow]:
        with self._connection() as connection:
            found = connection.execute(f"SELECT {_COLUMNS} FROM files {condition}", values)
            return [FileRow(*row) for row in found]

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each use, so that threads share the table."""
        mode = "ro" if self._read_only else "rwc"
        address = f"file:{quote(str(self._path.absolute()))}?mode={mode}"
        connection = sqlite3.connect(address, uri=True, timeout=60)
        try:
            with connection:
                yield connection
        except (sqlite3.DatabaseError, OverflowError, TypeError, ValueError) as error:
            raise UnreadableFileError(
                self._path, f"is no readable table of files ({reason_of(error)}): index again"
            ) from error
        finally:
            connection.close()
