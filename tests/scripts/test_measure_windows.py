"""What limited look-ahead costs, as a table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("onnxruntime", reason="it measures with ONNX Runtime")

from wavernn_trt.runtime.vocoder import shipped_voice

MODULE = "wavernn_trt.scripts.measure_windows"


def measure(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", MODULE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_line_for_each_look_ahead(tmp_path: Path) -> None:
    clip, report = tmp_path / "clip.wav", tmp_path / "report.json"
    soundfile.write(clip, 0.3 * np.sin(np.arange(16000) ** 1.2 / 40), 16000)
    done = measure(shipped_voice(), tmp_path, "--seconds", "0.6", "--lookahead", "0,19", "--json", report)
    assert done.returncode == 0, done.stderr
    table = done.stdout.splitlines()
    assert [row.split("|")[1].strip() for row in table[2:]] == ["whole mel", "whole mel, other seed", "0", "19"]
    whole, other, none, default = json.loads(report.read_text())["lines"]
    assert whole["mean_difference"] == other["mean_difference"] == 0
    assert (whole["correlation_with_whole"], other["bits"]) == (pytest.approx(1), whole["bits"])
    assert 0 < default["mean_difference"] < none["mean_difference"]
    assert abs(default["bits"] - whole["bits"]) < abs(none["bits"] - whole["bits"])
    assert (default["blocks"]["block"], default["blocks"]["behind"], default["lookahead_ms"]) == (4, 16, 237.5)


def test_wrong_arguments_have_no_traceback(tmp_path: Path) -> None:
    done = measure(tmp_path / "missing.flac")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"measure_windows: {tmp_path / 'missing.flac'}: No such file or directory\n"
    assert "expected at least one behind the model directory" in measure(shipped_voice()).stderr
