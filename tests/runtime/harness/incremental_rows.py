"""The conditioning rows of a whole mel, computed in the runs that incremental conditioning makes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.runtime.conditioning.incremental_conditioning import RowBuffer, condition_run
from wavernn_trt.runtime.conditioning.incremental_runs import IncrementalRuns
from wavernn_trt.runtime.conditioning.mel_blocks import Condition


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
