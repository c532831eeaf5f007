"""Data sets, mappers and samplers. Importing this registers the built-in data sets."""

from .datasets import builtin as _builtin  # noqa: F401  (registration is the purpose)
