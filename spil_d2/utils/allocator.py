"""Keeping memory instead of giving it back to the system after each large tensor."""

from __future__ import annotations

import ctypes
import ctypes.util
import logging
import os
import sys

logger = logging.getLogger(__name__)

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_KEEP = 2**31 - 1
_TOP_PAD = 256 * 2**20


def keep_freed_memory() -> bool:
    """Make glibc's allocator keep freed memory and PyTorch ask for huge pages.

    Feature maps on a CPU are tens of megabytes. By default each one is mapped afresh, and the page
    faults may take longer than the convolutions. Call it before the first large tensor, in
    programs, not in libraries. Does nothing where the C library is not glibc.

    Returns:
        Whether the allocator took the settings.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    name = ctypes.util.find_library("c")
    if not sys.platform.startswith("linux") or name is None:
        return False
    libc = ctypes.CDLL(name)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _KEEP, _M_TOP_PAD: _TOP_PAD}
    taken = [libc.mallopt(parameter, value) == 1 for parameter, value in settings.items()]
    logger.debug("glibc keeps freed memory: %s", all(taken))
    return all(taken)
