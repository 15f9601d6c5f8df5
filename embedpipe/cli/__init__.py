"""The command line: one command a step, plus questions one may ask without running anything."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of `embedpipe`: a user's mistake is one sentence and exit code 2."""
    from embedpipe.cli.app import run

    sys.exit(run(sys.argv[1:]))


__all__ = ["main"]
