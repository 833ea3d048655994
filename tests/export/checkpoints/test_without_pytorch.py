"""Without PyTorch a checkpoint is refused with the command that installs what reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
sys.modules["torch"] = sys.modules["safetensors"] = None
from wavernn_trt.scripts.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("name", ["latest_weights.pyt", "model.safetensors"])
def test_export_names_the_extra(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"weights")
    command = [sys.executable, "-c", CODE, "export", str(tmp_path / name), "-o", str(tmp_path / "voice")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install '.[export]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "voice").exists()
