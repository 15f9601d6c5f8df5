"""Sample input of the report, from the generator beside this file."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Sample = tuple[dict[str, Any], list[dict[str, Any]], dict[str, dict[str, Any]]]


@pytest.fixture(scope="session")
def make_sample() -> Callable[..., Sample]:
    path = Path(__file__).with_name("make_sample.py")
    made: Callable[..., Sample] = runpy.run_path(str(path))["make_sample"]
    return made
