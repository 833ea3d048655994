"""Observations of an interrupted calibration: used by the same run, refused by another and when damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from wavernn_trt.calibration.histogram import Histogram
from wavernn_trt.calibration.partial import MisfitError, Observations, read_observations

SETTINGS = {"model": "m" * 64, "seed": None}
INPUTS = {"a" * 64, "b" * 64}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    histograms = {
        "output": Histogram.of(np.arange(9, dtype=np.float32)),
        "fc_0": Histogram.of(np.float32([0.1])),
    }
    path = tmp_path / ".table.json.partial"
    Observations(histograms, {"a" * 64: 9}).write(path, SETTINGS)
    return path


def test_observations_are_read_as_they_were_written(written: Path) -> None:
    found = read_observations(written, SETTINGS, ("fc_0", "output"), INPUTS)
    assert found.done == {"a" * 64: 9}
    assert list(found.histograms) == ["fc_0", "output"]
    again = Histogram.of(np.arange(9, dtype=np.float32))
    output = found.histograms["output"]
    assert (output.counts == again.counts).all()
    assert (output.exponent, output.largest) == (again.exponent, again.largest)


def test_observations_of_another_run_are_refused(written: Path) -> None:
    with pytest.raises(MisfitError, match="another model or other settings"):
        read_observations(written, {**SETTINGS, "seed": 3}, ("output",), INPUTS)
    with pytest.raises(MisfitError, match="not among these"):
        read_observations(written, SETTINGS, ("output",), {"b" * 64})
    with pytest.raises(MisfitError, match="damaged"):
        read_observations(written, SETTINGS, ("recurrent_0",), INPUTS)


def test_damage_at_any_position_is_refused(written: Path) -> None:
    whole = written.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000, whole[: len(whole) // 2], b'{"sha256": "x"}']
    for place in rng.integers(0, len(whole), 30):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        damaged.append(bytes(flipped))
    values = json.loads(whole)
    values["histograms"]["output"]["counts"][0] += 1
    damaged.append(json.dumps(values).encode())
    for content in damaged:
        written.write_bytes(content)
        with pytest.raises(MisfitError):
            read_observations(written, SETTINGS, ("output", "fc_0"), INPUTS)
