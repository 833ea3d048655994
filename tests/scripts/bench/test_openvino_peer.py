"""OpenVINO as a peer: compared with ONNX Runtime before it is measured."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray
from small_voice import SMALL_VOICE

from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.runtime.executors.onnx_runtime import OnnxRuntimeExecutor
from wavernn_trt.runtime.executors.protocol import Chunk, State
from wavernn_trt.scripts.bench.backends import UnavailableError
from wavernn_trt.scripts.bench.openvino_peer import OpenVinoPeer, check_samples
from wavernn_trt.scripts.bench.peers import open_peers
from wavernn_trt.scripts.bench.timing import PeerError


class OtherSamples(OnnxRuntimeExecutor):
    """Some of its samples are other ones."""

    changed = 0
    """Streams with another sample in every step."""

    def decode(self, chunk: Chunk, state: State) -> tuple[NDArray[Any], State]:
        samples, state = super().decode(chunk, state)
        samples[: self.changed] += 1
        return samples, state


def test_other_samples_are_refused(directory: ModelDirectory) -> None:
    expected, found = OnnxRuntimeExecutor(directory, 1), OtherSamples(directory, 1)
    check_samples(directory.model, expected, found)
    found.changed = 1
    with pytest.raises(PeerError, match="openvino: with the same weights and random numbers, 75 % of its samples"):
        check_samples(directory.model, expected, found)


def test_without_the_package_the_reason_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    missing: dict[str, str] = {}
    assert open_peers(SMALL_VOICE, ["openvino"], [1], missing, threads=1, precision=None, on_gpu=False) == []
    assert missing == {"openvino": "not measured: openvino is not installed (pip install openvino)"}


def test_a_folder_of_its_name_is_reported_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openvino").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setitem(sys.modules, "openvino", None)
    del sys.modules["openvino"]  # what it was before comes back after the test
    with pytest.raises(UnavailableError, match="not measured: openvino of unknown version does not run"):
        OpenVinoPeer(SMALL_VOICE, 1)


def test_the_loop_graph_runs_in_openvino() -> None:
    pytest.importorskip("openvino", reason="OpenVINO is a peer only where it is installed")
    timing, run = OpenVinoPeer(SMALL_VOICE, 1).turn(2, 0.03)
    assert (timing.subject, timing.batch, timing.place, timing.precision) == ("openvino", 2, "cpu", "fp32")
    repeat = run()
    assert repeat.first_chunk is not None
    assert 0 < repeat.first_chunk <= repeat.elapsed
