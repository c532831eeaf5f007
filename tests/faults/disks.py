"""File systems of a test's own, where the system lets us mount one."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def mounted(folder: Path, megabytes: int, *, read_only: bool = False) -> Iterator[Path]:
    """A tmpfs at `folder`, which is made; it is gone afterwards.

    Raises:
        PermissionError: this user may mount nothing.
    """
    folder.mkdir()
    options = f"size={megabytes}m" + (",ro" if read_only else "")
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        reason = done.stderr.strip()
    except FileNotFoundError:
        reason = "there is no program `mount`"
    else:
        if done.returncode == 0:
            try:
                yield folder
            finally:
                subprocess.run(["umount", "--lazy", str(folder)], check=True)
            return
    raise PermissionError(f"a file system cannot be mounted here: {reason}")
