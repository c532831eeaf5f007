"""`python -m spil_d2.cli` is `spil-d2`."""

from .app import main

main()
