"""Windows of conditioning, compared with a direct expansion of the whole utterance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wavernn_trt.export.config import AudioConfig, ColumnGroup, Expansion, ModelConfig
from wavernn_trt.runtime.conditioning.windows import ConditioningWindows
from wavernn_trt.runtime.errors import VocoderError

COLUMNS = {"mel": 3, "aux": 2}


def model(mel: Expansion, aux: Expansion, margin: int) -> ModelConfig:
    groups = (ColumnGroup("mel", COLUMNS["mel"], mel), ColumnGroup("aux", COLUMNS["aux"], aux))
    return ModelConfig("fatchord", "categorical", 16, 4, (4,), (4,), groups, margin)


def audio(hop: int) -> AudioConfig:
    return AudioConfig(sample_rate=16000, hop_length=hop, win_length=64, n_fft=64)


def stretch(rows: NDArray[np.float64], samples: int) -> NDArray[np.float64]:
    """Linear interpolation, first sample on the first row and last on the last."""
    where = np.linspace(0, len(rows) - 1, samples)
    return np.stack([np.interp(where, np.arange(len(rows)), column) for column in rows.T], axis=1)


def expand(
    group: ColumnGroup, rows: NDArray[np.float64], margin: int, hop: int, upsampling: NDArray[np.float32]
) -> NDArray[np.float64]:
    """[N + 2 * margin, columns] -> [N * hop, columns], by the definition."""
    frames = len(rows) - 2 * margin
    if group.expansion == "held":
        return np.repeat(rows[margin : margin + frames], hop, axis=0)
    if group.expansion == "linear" and group.name == "mel":
        return stretch(rows, len(rows) * hop)[margin * hop : (margin + frames) * hop]
    if group.expansion == "linear":
        return stretch(rows[margin : margin + frames], frames * hop)
    out = np.zeros((frames * hop, rows.shape[1]))
    for sample in range(frames * hop):
        frame, position = divmod(sample, hop)
        for tap in range(2 * margin + 1):
            out[sample] += upsampling[position, tap] * rows[frame + tap]
    return out


@settings(max_examples=150)
@given(
    frames=st.integers(1, 9),
    hop=st.integers(2, 13),
    steps=st.integers(1, 60),
    margin=st.integers(1, 3),
    mel=st.sampled_from(["held", "kernel", "linear"]),
    aux=st.sampled_from(["held", "kernel", "linear"]),
    data=st.data(),
)
def test_a_window_expands_to_its_part_of_the_expanded_utterance(
    frames: int, hop: int, steps: int, margin: int, mel: Expansion, aux: Expansion, data: st.DataObject
) -> None:
    config = model(mel, aux, margin)
    random = np.random.default_rng(frames * 1000 + hop)
    rows = random.standard_normal((frames + 2 * margin, config.columns)).astype(np.float32)
    upsampling = random.standard_normal((hop, 2 * margin + 1)).astype(np.float32)
    windows = ConditioningWindows(config, audio(hop), steps, upsampling)
    split = np.split(rows.astype(np.float64), [COLUMNS["mel"]], axis=1)
    whole = [expand(group, part, margin, hop, upsampling) for group, part in zip(config.groups, split, strict=True)]
    start = data.draw(st.integers(0, frames * hop - 1))

    window = windows.cut(rows, start)
    again = windows.cut(rows, start)

    wanted = np.minimum(np.arange(start, start + steps), frames * hop - 1)  # the last position repeats
    parts = np.split(window.rows.astype(np.float64), [COLUMNS["mel"]], axis=1)
    weights = iter(window.interpolation.astype(np.float64))
    for group, part, expected in zip(config.groups, parts, whole, strict=True):
        found = part[window.frame_index] if group.expansion == "held" else next(weights) @ part
        np.testing.assert_allclose(found, expected[wanted], atol=2e-5)
    assert window.rows.shape == (windows.rows, config.columns)
    assert window.interpolation.shape == (config.interpolated, steps, windows.rows)
    assert window.rows.dtype == window.interpolation.dtype == np.float32
    assert window.frame_index.dtype == np.int32
    assert np.array_equal(window.interpolation, again.interpolation)


def test_held_conditioning_needs_no_margin() -> None:
    config = model("held", "held", 0)
    rows = np.arange(15, dtype=np.float32).reshape(3, 5)
    window = ConditioningWindows(config, audio(4), 7).cut(rows, 6)
    assert window.frame_index.tolist() == [0, 0, 1, 1, 1, 1, 1]
    assert window.rows[:2].tolist() == rows[1:].tolist()
    assert not window.rows[2:].any()
    assert window.interpolation.shape == (0, 7, len(window.rows))


def test_missing_upsampling_weights_are_refused() -> None:
    with pytest.raises(VocoderError, match=r"found none, expected \(4, 3\)"):
        ConditioningWindows(model("kernel", "held", 1), audio(4), 7)
    with pytest.raises(VocoderError, match="margin 0"):
        ConditioningWindows(model("linear", "held", 0), audio(4), 7)
