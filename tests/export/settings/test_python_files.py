"""Settings in Python files: literals and arithmetic are read, computed values are named, nothing is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wavernn_trt.export.settings.python_files import read_python_settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n_fft = 2 ** 6", {"n_fft": 64}),
        ("sample_rate = 8000\nhop_length = int(sample_rate * 0.0125)", {"sample_rate": 8000, "hop_length": 100}),
        ("sample_rate, n_fft = 8000, 64", {"sample_rate": 8000, "n_fft": 64}),
        ("n_fft = win_length = 64", {"n_fft": 64, "win_length": 64}),
        ("hparams = HParams(fmin=40)\nhparams['fmax'] = 4000\nhparams.fmin = 30", {"fmin": 30, "fmax": 4000}),
        ("class H:\n    sample_rate: int = 8000\n    fmax: float", {"sample_rate": 8000}),
        ("base = {'fmin': 1}\nhparams = {**base, 'fmax': 2}", {"base": {"fmin": 1}, "hparams": {"fmin": 1, "fmax": 2}}),
        ("fmin = 40\nif __name__ == '__main__':\n    fmin = 50", {"fmin": 40}),
    ],
)
def test_literals_and_arithmetic_are_read(text: str, expected: dict[str, Any]) -> None:
    assert read_python_settings(text) == (expected, ())


@pytest.mark.parametrize(
    ("text", "computed"),
    [
        ("fmin = 40\nif fast:\n    fmin = 50", "fmin"),
        ("fmin = 40\nfmin += 10", "fmin"),
        ("fmin = 40\ndel fmin", "fmin"),
        ("for fmin in (40, 50):\n    fmin = 60", "fmin"),
        ("fmin, fmax = limits()", "fmax"),
        ("fmin = f'{40}'", "fmin"),
        ("fmin = env('FMIN', default=40)", "fmin"),
        ("fmin = 40\nfmax = 10 ** 10 ** 10", "fmax"),
        ("class A:\n    fmin = 40\nclass B:\n    fmin = 50\nclass C:\n    fmin = 40", "fmin"),
        ("a = HParams(fmin=40)\nb = HParams(fmin=50)", "fmin"),
        ("def create():\n    return HParams(fmin=40)", "fmin"),
        ("class H:\n    def __init__(self):\n        self.fmin = 40", "fmin"),
        ("hparams = HParams(fmin=40)\nhparams.parse('fmin=50')", "fmin"),
        ("hparams = HParams(fmin=40)\nhparams.update(fmin=50)", "fmin"),
        ("parser.add_argument('--fmin', default=40)", "fmin"),
        ("from base import fmin", "fmin"),
        ("from ..base import *", "from ..base import *"),
        ("from synthesizer.hparams import hparams as _syn\nfmax = 40\nfmin = _syn.fmax", "fmin"),
    ],
)
def test_a_value_that_only_running_the_file_would_give_is_named_and_not_read(text: str, computed: str) -> None:
    values, names = read_python_settings(text)
    assert computed in names
    assert computed not in values


def test_arguments_of_a_function_are_no_settings_of_the_module() -> None:
    text = "def show():\n    mode = open('x', mode='r')\nclass H:\n    mode = 'MOL'"
    assert read_python_settings(text)[0] == {"mode": "MOL"}


def test_nothing_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    text = f"fmin = __import__('pathlib').Path({str(marker)!r}).touch()\nint = print\nfmax = int(3)\n"
    assert "fmin" in read_python_settings(text)[1]
    assert not marker.exists()
