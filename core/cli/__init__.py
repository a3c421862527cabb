"""The command line, `sarai`."""

from core.cli.app import cli, main

__all__ = ["cli", "main"]
