#!/usr/bin/env python3
"""The command `spil-d2` by another name: see `python tools/search.py --help`."""

from __future__ import annotations

from spil_d2.cli import main

if __name__ == "__main__":
    main()
