"""The audio settings of a checkpoint, from a preset, a settings file and the caller."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from wavernn_trt.export.config import AudioConfig, ConfigError
from wavernn_trt.export.errors import CheckpointError
from wavernn_trt.export.settings.interpretation import Settings
from wavernn_trt.export.settings.presets import Preset
from wavernn_trt.export.settings.table import AUDIO_FIELDS
from wavernn_trt.export.typed_json import from_json

LARGEST = 1e9
"""Larger numbers are not settings."""
_FRACTIONS = tuple(field.name for field in dataclasses.fields(AudioConfig) if str(field.type).startswith("float"))
_CHOICES = {
    "mel_norm": ("slaney", "sum"),
    "pad_mode": ("constant", "reflect"),
    "log": ("decibel", "natural"),
    "stft": ("centred", "lws"),
}


def audio_config(
    preset: Preset, settings: Settings, sizes: Mapping[str, Any], overrides: Mapping[str, object]
) -> AudioConfig:
    """Returns the audio settings of a checkpoint; each field is that of the source with the highest precedence.

    Args:
        preset: the source with the lowest precedence.
        settings: a settings file's values, with precedence over the preset.
        sizes: sizes from the weights' shapes, which no source may contradict.
        overrides: the caller's values, with precedence over both.

    Raises:
        CheckpointError: an invalid value, or one that contradicts the weights.
    """
    family, usual = preset.family, preset.audio
    given = {name: value for name, value in overrides.items() if name in AUDIO_FIELDS}
    stated = {name: value for name, value in settings.values.items() if name in AUDIO_FIELDS}
    values = {**usual, **stated, **given}
    for name in ("n_mels", "hop_length"):
        if name not in sizes:
            continue
        for source, known in ((settings.source, stated), ("the given settings", given)):
            if name in known and known[name] != sizes[name]:
                raise CheckpointError(
                    f"{name}: found {known[name]!r} in {source}, expected {sizes[name]} from the weights' shapes; "
                    "correct it, or leave it out"
                )
        values[name] = sizes[name]
    if values.get("stft") == "lws":  # whose window is as long as the transform
        values["win_length"] = values["n_fft"]
    for name, choices in _CHOICES.items():
        if values.get(name, choices[0]) not in choices:
            raise CheckpointError(f"{name}: found {values[name]!r}, expected {' or '.join(choices)}; correct it")
    span = values.get("mel_range")
    if span is not None and (not isinstance(span, list | tuple) or len(span) != 2):
        raise CheckpointError(f"mel_range: found {span!r}, expected two numbers, the lowest and the highest level")
    for name in _FRACTIONS:  # settings files write whole levels and frequencies without a point
        if name in values:
            values[name] = _fraction(name, values[name])
    if span is not None:
        values["mel_range"] = tuple(_fraction("mel_range", end) for end in span)
    for name in ("sample_rate", "hop_length", "win_length", "n_fft", "n_mels", "delay"):
        if isinstance(values.get(name), int) and abs(values[name]) > LARGEST:
            raise CheckpointError(f"{name}: found {str(values[name])[:20]}, expected a number of ordinary size")
    try:
        audio = from_json(AudioConfig, values, "audio")
    except ConfigError as error:
        raise CheckpointError(f"{error}; {_way_out(str(error), preset, settings, stated, given)}") from None
    known = {**stated, **given}
    if family == "univoc" and "delay" not in known:
        if "waveform_preemphasis" in known:
            # This project's training cuts frames in their middle, so that a frame's samples surround its centre.
            audio = dataclasses.replace(audio, delay=audio.hop_length // 2)
        elif usual.get("delay"):
            # UniversalVocoding 0.2 pads the waveform by half a window before it cuts labels from its start.
            audio = dataclasses.replace(audio, delay=audio.win_length // 2)
    return audio


def _way_out(
    error: str, preset: Preset, settings: Settings, stated: Mapping[str, Any], given: Mapping[str, Any]
) -> str:
    """Returns the way out for a wrong audio setting, which depends on its source."""
    name = error.partition(":")[0].removeprefix("audio.")
    if name in given or name not in AUDIO_FIELDS:
        return "correct the setting, or leave it out"
    if name in stated:
        return f"correct it in {settings.source}, or state the right value with --set {name}=VALUE"
    return f"no source states it, and this is {preset.name}'s usual value: state it with --set {name}=VALUE"


def _fraction(name: str, value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value  # refused with all other wrong types
    if not abs(value) < LARGEST:  # NaN too
        raise CheckpointError(f"{name}: found {str(value)[:20]}, expected a number of ordinary size; correct it")
    return float(value)
