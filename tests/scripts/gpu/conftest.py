"""A run on a GPU that has found nothing yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from wavernn_trt.plugins.choices import KERNELS
from wavernn_trt.scripts.gpu.session import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(tmp_path / "out", tmp_path / "work", 120.0, None, KERNELS)
    made.out.mkdir()
    made.work.mkdir()
    return made
