"""Conditioning rows, computed in runs as for a stream, and as a decoder reads them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.runtime.conditioning.incremental_conditioning import RowBuffer, condition_run
from wavernn_trt.runtime.conditioning.incremental_runs import IncrementalRuns
from wavernn_trt.runtime.conditioning.mel_blocks import Condition
from wavernn_trt.runtime.conditioning.windows import Window


def condition_in_runs(
    plan: IncrementalRuns, model: ModelConfig, mel: NDArray[np.float32], condition: Condition
) -> NDArray[np.float32]:
    """Mel [n_mels, N] -> float32 [N + 2 * margin, columns]; rows outside the mel are zero."""
    frames = RowBuffer(len(mel))
    frames.write(0, mel.T)
    rows = np.zeros((mel.shape[1] + 2 * model.margin, model.columns), np.float32)
    for ended in (False, True):
        done = min(plan.complete(mel.shape[1], False)) if ended else 0
        for run in plan.runs(done, mel.shape[1], ended):
            here = slice(run.rows.start + model.margin, run.rows.stop + model.margin)
            rows[here] = condition_run(run, model.margin, frames, condition)
    return rows


def expanded_columns(model: ModelConfig, window: Window) -> list[NDArray[np.float32]]:
    """The conditioning of each step of a window, one array [steps, columns] for each column group."""
    parts = np.split(window.rows, np.cumsum([group.columns for group in model.groups])[:-1], axis=1)
    weights = iter(window.interpolation)
    return [
        part[window.frame_index] if group.expansion == "held" else next(weights) @ part
        for group, part in zip(model.groups, parts, strict=True)
    ]
