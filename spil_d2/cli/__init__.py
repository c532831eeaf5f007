"""The command line: parses, calls the engine, prints."""

from .app import app, main

__all__ = ["app", "main"]
