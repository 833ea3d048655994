"""Log-mel spectrograms drawn below each other, on one scale."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.atomic_file import write_atomic
from wavernn_trt.export.config import AudioConfig

_WIDE, _HIGH = 9.0, 1.7
_DOTS_PER_INCH = 100
_SETTINGS: Any = {"font.size": 8, "axes.titlesize": 8, "axes.titlelocation": "left"}


class DrawingError(ValueError):
    """Nothing can be drawn here."""


def need_matplotlib() -> None:
    """Refuses to begin where nothing could be drawn.

    Raises:
        DrawingError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise DrawingError(
            "spectrograms are drawn with matplotlib; install it with: pip install '.[plot]' in a clone of the project"
        )


def draw_mels(rows: Sequence[tuple[str, NDArray[np.float32]]], audio: AudioConfig, file: Path) -> None:
    """Draws one row for each mel; needs matplotlib, and no display.

    Args:
        rows: title, and mel [n_mels, frames] in the model's range.
        audio: how they were made.
        file: a ``.png``.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDE, _HIGH * len(rows)), layout="constrained")
        FigureCanvasAgg(figure)  # whatever display there is, or is not
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
