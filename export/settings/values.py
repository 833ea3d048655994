"""Values of settings as files and command lines write them: numbers and switches in text, whole numbers as floats."""

from __future__ import annotations

import re
from typing import Any

_SWITCHES = frozenset(
    {"apply_preemphasis", "normalised", "symmetric", "clipped", "clip_high", "clip_low", "use_lws", "scale_peak"}
    | {"do_sound_norm", "mu_law", "amplitude_feedback", "uses_aux", "uses_upsampling", "do_amp_to_db_mel"}
    | {"do_rms_norm"}
)
_INTEGERS = frozenset(
    {"sample_rate", "hop_length", "win_length", "n_fft", "fft_bins", "n_mels", "delay", "bits", "mulaw_classes"}
    | {"hidden_size", "fc_size", "compute_size", "aux_size", "blocks", "pad", "outputs", "conditioning_size"}
    | {"embedding_size"}
)
_FRACTIONS = frozenset(
    {"frame_shift_ms", "frame_length_ms", "fmin", "fmax", "preemphasis", "waveform_preemphasis", "spec_gain"}
    | {"reference_db", "min_level_db", "top_db", "max_level", "floor", "peak", "rescaling_max", "temperature"}
)
_LISTS = frozenset({"mel_range", "factors"})
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?")
_LONGEST = 40


def plain_value(name: str, value: Any) -> Any:
    """The value of a setting in the type that the setting has; a value that does not fit is returned as it is.

    Args:
        name: a name of `SETTINGS`.
        value: ``"22050"``, ``22050.0``, ``"1e-5"`` (text in YAML), ``"False"``, ``0`` for a switch, ``"5,5,11"``.
    """
    if name in _SWITCHES:
        if isinstance(value, str):
            return _WORDS.get(value.strip().lower(), value)
        return bool(value) if isinstance(value, int | float) and value in (0, 1) else value
    if name in _INTEGERS or name == "mode":  # which may be a number of bits
        value = _number(value)
        return int(value) if isinstance(value, float) and value.is_integer() else value
    if name in _FRACTIONS:
        return _number(value)
    if name in _LISTS:
        if isinstance(value, str) and len(value) <= _LONGEST and "," in value:
            value = [part.strip() for part in value.strip().strip("()[]").split(",")]
        if isinstance(value, list | tuple):
            return type(value)(_number(item) for item in value)
    return value


def misfit(name: str, value: object) -> str | None:
    """What the value of a setting should be, where it has another type; ``None`` where it fits."""
    if name in _SWITCHES and not isinstance(value, bool):
        return "true or false"
    if name in _INTEGERS and (isinstance(value, bool) or not isinstance(value, int)):
        return "a whole number"
    if name in _FRACTIONS and (isinstance(value, bool) or not isinstance(value, int | float)):
        return "a number"
    return None


def _number(value: Any) -> Any:
    """A number out of text."""
    if not isinstance(value, str) or len(value) > _LONGEST or not _NUMBER.fullmatch(value.strip()):
        return value
    text = value.strip()
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
