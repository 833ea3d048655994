"""Training commands under their former names."""

from __future__ import annotations

import runpy
import sys

import pytest

pytest.importorskip("torch", reason="training needs PyTorch (the extra 'train')")


@pytest.mark.parametrize(("former", "new"), [("train_voice", "train"), ("present_voice", "present")])
def test_a_former_command_runs_and_names_the_new_one(
    former: str, new: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [former, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"wavernn_trt.scripts.{former}", run_name="__main__")
    assert ended.value.code == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"usage: python -m wavernn_trt.scripts.training.{new} ")
    assert captured.err == f"{former} is deprecated; use python -m wavernn_trt.scripts.training.{new}\n"
