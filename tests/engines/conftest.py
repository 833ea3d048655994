"""Small random models of every layout as model directories; tests/runtime and tests/calibration take them from here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from wavernn_trt.export.model_directory import ModelDirectory, open_model_directory

MODELS = Path(__file__).resolve().parents[1] / "fixtures" / "models"


@pytest.fixture(scope="session")
def small_directory() -> Callable[[str], ModelDirectory]:
    """A function layout -> its model directory, which tests/fixtures/make_models.py has written."""

    @functools.cache
    def open_layout(layout: str) -> ModelDirectory:
        return open_model_directory(MODELS / {"fatchord": "raw"}.get(layout, layout))

    return open_layout
