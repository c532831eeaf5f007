"""Data sets for instance search. Importing this registers the built-in ones."""

from . import builtin as _builtin  # noqa: F401  (registration is the purpose)
