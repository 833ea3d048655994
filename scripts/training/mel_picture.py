"""Draws log-mel spectrograms below each other, on one scale."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.atomic_file import write_atomic
from wavernn_trt.export.config import AudioConfig
from wavernn_trt.scripts.extras import need

_WIDTH, _ROW_HEIGHT = 9.0, 1.7
"""Inches."""
_DOTS_PER_INCH = 100
_SETTINGS: Any = {"font.size": 8, "axes.titlesize": 8, "axes.titlelocation": "left"}


def need_matplotlib() -> None:
    """Raises a ValueError if matplotlib is not installed."""
    need("drawing spectrograms", ("matplotlib",), extra="plot")


def draw_mels(rows: Sequence[tuple[str, NDArray[np.float32]]], audio: AudioConfig, file: Path) -> None:
    """Draws one row per mel. Needs matplotlib, but no display.

    Args:
        rows: title, and mel [n_mels, frames] in the model's range.
        audio: the model's audio settings.
        file: ``.png`` to write.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH, _ROW_HEIGHT * len(rows)), layout="constrained")
        FigureCanvasAgg(figure)  # draws without a display
        axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
        low, high = audio.mel_range[0], max(float(mel.max()) for _, mel in rows)
        for axis, (title, mel) in zip(axes, rows, strict=True):
            seconds = mel.shape[1] * audio.hop_length / audio.sample_rate
            axis.imshow(
                mel,
                origin="lower",
                aspect="auto",
                interpolation="nearest",
                vmin=low,
                vmax=high,
                cmap="magma",
                extent=(0.0, seconds, 0, mel.shape[0]),
            )
            axis.set_title(title)
            axis.set_ylabel("mel bin")
        axes[-1].set_xlabel("seconds")
        content = io.BytesIO()
        figure.savefig(content, dpi=_DOTS_PER_INCH, format="png", metadata={"Software": None})
    write_atomic(file, content.getbuffer())
