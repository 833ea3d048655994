"""Trainings in two processes that torchrun starts: averaged gradients, and one writer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
soundfile = pytest.importorskip("soundfile", reason="training reads recordings with soundfile")
pytest.importorskip("soxr", reason="training resamples with soxr")

from wavernn_trt.scripts.training.model import load


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three recordings of noise, 1.2 s each."""
    folder = tmp_path / "speech"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("clip0", "clip1", "clip2"):
        soundfile.write(folder / f"{name}.wav", rng.normal(0, 0.1, 19200), 16000)
    return folder


def test_processes_average_their_gradients(folder: Path, tmp_path: Path) -> None:
    """Two processes with half the rows each end with the weights of one with all rows."""
    script = tmp_path / "steps.py"
    script.write_text(STEPS)
    runs = {}
    for count in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        done = subprocess.run(
            [*command, script, folder, tmp_path / f"weights{count}"], capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        runs[count] = [torch.load(path, weights_only=True) for path in sorted(tmp_path.glob(f"weights{count}-*"))]
    assert [len(found) for found in runs.values()] == [1, 2]
    for name, expected in runs[1][0].items():
        assert torch.equal(runs[2][0][name], runs[2][1][name])
        torch.testing.assert_close(runs[2][0][name], expected, atol=1e-4, rtol=0)


STEPS = """
import dataclasses, sys
from pathlib import Path
import torch
from wavernn_trt.scripts.training.corpus import Corpus, prepare, read_folder
from wavernn_trt.scripts.training.processes import joined
from wavernn_trt.scripts.training.recipe import Recipe
from wavernn_trt.scripts.training.updates import Training

torch.set_num_threads(1)
cpu = torch.device("cpu")
with joined(cpu) as processes:
    torch.manual_seed(0)
    recipe = Recipe(conditioning_size=4, embedding_dim=4, rnn_size=16, fc_size=16, rows=4, frames=1, context=2)
    training = Training(recipe, cpu, processes)
    clips = read_folder(Path(sys.argv[1]))
    corpus = Corpus([prepare(name, *clips[name], 1.0, 8) for name in clips], cpu)
    part = slice(processes.rank, None, processes.count)
    for step in range(3):
        which, start = torch.tensor([0, 1, 2, 0])[part], torch.arange(4)[part] * 9 + step
        windows = corpus.windows(which, start, recipe.frames, recipe.context)
        training.update(windows, torch.full((4 // processes.count,), float(step > 0)), 1e-3)
    assert processes.first(float(processes.rank)) == 0
    torch.save(training.content()["model"], f"{sys.argv[2]}-{processes.rank}")
"""


def test_two_processes_train_and_the_first_one_saves(folder: Path, tmp_path: Path) -> None:
    options = ["--conditioning-size", "4", "--embedding-dim", "4", "--rnn-size", "16", "--fc-size", "16", "--rows", "4"]
    options += ["--frames", "1", "--context", "20", "--variant-minutes", "0.02", "--max-updates", "2"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "wavernn_trt.scripts.training.train", str(folder), str(tmp_path / "out"), "--samples-every", "0"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("validation_before") == 1
    assert load(tmp_path / "out" / "training.pt")["step"] == 2
