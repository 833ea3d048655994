"""Warnings for mels that differ from a model's training data, detected without the recording.

`check_mel` refuses values far outside the model's range. Values inside can be wrong too: a [0, 1] mel lies within
[-4, 4], and a square mel may be transposed. These checks look for properties that speech never has; quiet, silent and
short mels pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from wavernn_trt.export.arrays import DoubleArray
from wavernn_trt.export.config import AudioConfig
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.features import lowest_level
from wavernn_trt.runtime.mel import checked_array

_MIN_FRAMES = 20
"""Shorter mels are not checked: they may be a single vowel or a pause."""
_MAX_FRAMES = 4096
"""Frames that are checked, evenly spread over the mel."""
_SPEECH_DB = 30.0
"""Minimum difference between the quietest and the loudest cell of speech; measured recordings have 60 dB and more."""
_FLOOR_DB = 25.0
"""Decibels above the model's lowest level from which a narrow range is not a quiet recording."""
_OUTSIDE = 0.2
"""Maximum share of cells outside the range by more than a twentieth of it; acoustic models have a few per cent."""
_LOUD_NATURAL = (-1.0, 0.25)
"""A natural logarithm, and the share of cells above it that is too loud for speech (30 clips: up to 3%)."""
_AT_FLOOR = 0.005
"""Share of cells with exactly the lowest value from which that value is a floor at which the mel was clipped."""
_ROUGH = 1.15
"""Ratio of second differences along frames and along bands from which a square mel looks transposed. Measured on 30
clips in windows of n_mels frames: at most 1.08 in the right orientation, over 1.15 in 90% of the transposed ones."""
_FLOORS = (
    (math.log(1e-5), 4.0, "of the natural logarithm (ln 1e-5), as of Tacotron 2 or HiFi-GAN", "tacotron2"),
    (math.log(1e-7), 4.0, "of Vocos (ln 1e-7)", "vocos"),
    (-4.0, 4.0, "of levels mapped to [-4, 4], as of Coqui TTS", "coqui"),
    (0.0, 1.1, "of levels mapped to [0, 1], as of fatchord's WaveRNN", "fatchord"),
    (0.0, math.inf, "of levels mapped to [0, 4] or the like", None),
    (-1.0, 0.3, "of levels mapped to [-1, 0], as of UniversalVocoding", "univoc"),
    (-1.0, 1.1, "of levels mapped to [-1, 1]", None),
    (-10.0, 1.0, "of log10 with a floor of 1e-10, as of ESPnet", "espnet"),
    (-100.0, 40.0, "of decibels with a floor of 1e-5", None),
)
"""Published conventions: lowest value, highest value, description, and name for ``--mel-from``."""


def mel_warnings(mel: ArrayLike, audio: AudioConfig) -> list[str]:
    """Returns reasons why a mel, accepted by `check_mel`, is probably not what a model was trained on; usually none."""
    try:
        values = checked_array(mel, audio)
    except VocoderError:
        return []  # refused elsewhere, with the reason
    checked = values[:, :: 1 + values.shape[1] // _MAX_FRAMES]
    return list(_warnings(np.asarray(checked, np.float64), np.ndim(mel), audio))


def _warnings(mel: DoubleArray, axes: int, audio: AudioConfig) -> Iterator[str]:
    if axes == 3:
        yield "the mel has a batch axis of one; the mel in it is taken"
    if mel.shape[1] < _MIN_FRAMES:
        return
    if mel.shape[0] == mel.shape[1] and _roughness(mel) > _ROUGH:
        yield f"the mel is square and looks transposed; the model takes [{audio.n_mels}, frames]: pass mel.T"
    floor = _foreign_floor(mel, audio)
    if floor is not None:
        yield floor
        return
    low, high = _range(audio)
    span = high - low
    decibels = 20 / math.log(10) if audio.log == "natural" else -audio.min_level_db / span
    lowest, highest = float(mel.min()), float(mel.max())
    between, above = (highest - lowest) * decibels, (lowest - low) * decibels
    takes = f"the model takes levels from {low:.4g} to {high:.4g}"
    if 0 < between < _SPEECH_DB and above > _FLOOR_DB:
        yield (
            f"the mel's values, {lowest:.4g} to {highest:.4g}, are {between:.0f} dB for this model, where speech has "
            f"more than {_SPEECH_DB:.0f} dB: {takes}; {_WAY_OUT}"
        )
    elif lowest >= (low + high) / 2 and audio.log == "decibel":
        yield f"the mel has no value below {lowest:.4g}: {takes}, and speech has pauses; {_WAY_OUT}"
    if audio.log == "natural" and float((mel > _LOUD_NATURAL[0]).mean()) > _LOUD_NATURAL[1]:
        yield (
            f"the mel is louder than speech: {100 * (mel > _LOUD_NATURAL[0]).mean():.0f}% of its values are above "
            f"{_LOUD_NATURAL[0]:g}, and the model takes natural logarithms of magnitudes; {_WAY_OUT}"
        )
    if audio.log == "decibel":
        below = float((mel < low - span / 20).mean())
        over = float((mel > high + span / 20).mean()) if audio.clip_high else 0.0
        for share, where in ((below, "below"), (over, "above")):
            if share > _OUTSIDE:
                yield f"{100 * share:.0f}% of the mel's values are {where} the model's range: {takes}; {_WAY_OUT}"


_WAY_OUT = (
    "compare it with 'wavernn-trt inspect MODEL --mel M --recording R', or convert it with --mel-from "
    "(mel_comparison.conventions.convert in Python)"
)


def _range(audio: AudioConfig) -> tuple[float, float]:
    return lowest_level(audio), 2.0 if audio.log == "natural" else audio.mel_range[1]


def _foreign_floor(mel: DoubleArray, audio: AudioConfig) -> str | None:
    """Returns a warning if the values were clipped at the floor of another convention."""
    lowest = float(mel.min())
    low, high = _range(audio)
    clipped = float((mel <= lowest).mean())
    if clipped < _AT_FLOOR or clipped == 1.0 or abs(lowest - low) < 0.02 * (high - low):
        return None
    # float16 rounds by up to a part in 2048
    highest = float(mel.max())
    for value, most, text, name in _FLOORS:
        if highest <= most and abs(lowest - value) <= max(1e-4, 6e-4 * abs(value)):
            convert = f": convert it with --mel-from {name}" if name is not None else ""
            return (
                f"{100 * clipped:.1f}% of the mel's values are {lowest:.5g}, the floor {text}; this model's floor is "
                f"{low:.4g}{convert}; {_WAY_OUT}"
            )
    return None


def _roughness(mel: DoubleArray) -> float:
    along_bands = float(np.abs(np.diff(mel, 2, axis=0)).mean())
    return float(np.abs(np.diff(mel, 2, axis=1)).mean()) / along_bands if along_bands else 0.0
