"""Converts a settings file to this package's settings, with notes about unused ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wavernn_trt.export.errors import CheckpointError
from wavernn_trt.export.settings.presets import Preset
from wavernn_trt.export.settings.raw import RawSettings
from wavernn_trt.export.settings.table import SETTABLE, misfit

_SIZES = (
    *("hidden_size", "fc_size", "compute_size", "aux_size", "blocks", "factors", "pad", "uses_aux"),
    *("uses_upsampling", "outputs", "conditioning_size", "embedding_size"),
)
_DIRECT = (
    *("sample_rate", "n_mels", "mel_norm", "pad_mode", "stft", "log", "floor", "reference_db", "min_level_db"),
    *("mel_range", "clip_high", "clip_low", "waveform_preemphasis", "delay"),
    *("mu_law", "label_scale", "amplitude_feedback", "temperature"),
)
"""Settings that are used unchanged, unless they are null."""
_MODES = {"raw": "raw", "mixture": "mol", "bits": "raw", "mulaw": "raw"}
"""G-Wang's input types."""
_LOSSES = {"crossentropy": "raw", "mol": "mol"}
"""torchaudio's losses."""
_LOGARITHMS = ("np.log10", "np.log")
"""Values of Coqui's log_func."""
_TAKE_MELS = "compute mels with the training's own code"
_INEXPRESSIBLE = {
    "stats_path": (None, "", "mel normalised by stored statistics"),
    "do_amp_to_db_mel": (True, None, "a mel that is not in decibels"),
    "do_rms_norm": (False, None, "recordings scaled to one RMS level"),
}


@dataclass(frozen=True)
class Settings:
    """The contents of a settings file in this package's terms."""

    source: str | None = None
    """The file's name; ``None`` where there is none."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Values by the names of `SETTABLE`."""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    """Sizes that the weights determine too, to detect the file of another model."""
    notes: tuple[str, ...] = ()
    """Lines for the user: unused settings, and settings that cannot be expressed."""


def interpret(raw: RawSettings, preset: Preset | None = None, sample_rate: object = None) -> Settings:
    """Converts a file's settings to values of `SETTABLE`.

    Args:
        raw: from `collect`.
        preset: the version of the project that wrote the file, if known; the meaning of some keys depends on it.
        sample_rate: Hz, if a source with precedence over the file states it.

    Raises:
        CheckpointError: two settings contradict each other.
    """
    notes = list(raw.notes)
    if preset is not None:
        raw, ignored = _without_unread(raw, preset)
        notes += ignored
    _check_kinds(raw)
    values = {name: raw.get(name) for name in _DIRECT if raw.get(name) is not None}
    fallback = raw.get("sample_rate") or (preset.audio.get("sample_rate") if preset is not None else None)
    _frames(raw, values, sample_rate or fallback)
    if preset is not None and preset.window_from_hop and raw.get("hop_length") is None and "win_length" in values:
        values["win_length"] = int(values["hop_length"] * raw.get("frame_length_ms") / raw.get("frame_shift_ms"))
    _filters(raw, values)
    _levels(raw, values, preset)
    _recordings(raw, values)
    _outputs(raw, values)
    kind = raw.get("input_type")
    if kind is not None and str(kind).lower() not in _MODES:
        notes.append(f"{raw.source}: {raw.stated['input_type'].key} = {kind!r} is not known, and not used")
    notes += [
        f"{raw.stated[name].key} = {raw.get(name)!r} in {raw.source}: {meaning} cannot be expressed; {_TAKE_MELS}"
        for name, (usual, also, meaning) in _INEXPRESSIBLE.items()
        if name in raw.stated and raw.get(name) not in (usual, also)
    ]
    sizes = {name: raw.get(name) for name in _SIZES if raw.get(name) is not None}
    return Settings(raw.source, values, sizes, tuple(notes))


def _without_unread(raw: RawSettings, preset: Preset) -> tuple[RawSettings, list[str]]:
    """Returns the settings without those that the project writes and never applies, and a note for each of these."""
    unread = {name for name, stated in raw.stated.items() if stated.key.rpartition(".")[2] in preset.unread}
    notes = [
        f"{raw.source}: {raw.stated[name].key} is not used: {preset.name}'s code does not apply it"
        for name in raw.stated
        if name in unread
    ]
    kept = {name: stated for name, stated in raw.stated.items() if name not in unread}
    return dataclasses.replace(raw, stated=kept), notes


def _check_kinds(raw: RawSettings) -> None:
    """Refuses values of the wrong type; those that ``--set`` can replace are checked after it is applied."""
    for name, stated in raw.stated.items():
        if stated.value is None or name in SETTABLE or name in _SIZES:
            continue
        expected = misfit(name, stated.value)
        if name == "log_func" and stated.value not in _LOGARITHMS:
            expected = " or ".join(_LOGARITHMS)
        elif name == "spec_gain" and expected is None and not 0 < stated.value < math.inf:
            expected = "a positive number"
        if expected is not None:
            raise CheckpointError(
                f"{stated.key}: found {stated.value!r} in {raw.source}, expected {expected}; correct it"
            )


def _frames(raw: RawSettings, values: dict[str, Any], sample_rate: object) -> None:
    """Sets window, hop and transform; where samples are null, from milliseconds as in mozilla/TTS and Coqui."""
    for name, duration in (("hop_length", "frame_shift_ms"), ("win_length", "frame_length_ms")):
        milliseconds = raw.get(duration)
        if isinstance(milliseconds, int | float) and milliseconds < 0:
            milliseconds = None  # r9y9's "off"
        if raw.get(name) is not None:
            values[name] = raw.get(name)
        elif milliseconds is not None:
            if (
                not isinstance(sample_rate, int | float)
                or not math.isfinite(milliseconds)
                or not 0 < milliseconds < 1e4
            ):
                raise CheckpointError(
                    f"{raw.stated[duration].key}: found {milliseconds!r} in {raw.source}, expected milliseconds, with "
                    "a sample rate to turn them into samples; state both"
                )
            values[name] = int(milliseconds / 1000.0 * sample_rate)
    values.update({"n_fft": raw.get("n_fft")} if raw.get("n_fft") is not None else {})
    bins = raw.get("fft_bins")
    if isinstance(bins, int):
        size = 2 * (bins - 1)
        if values.setdefault("n_fft", size) != size:
            raise CheckpointError(
                f"{raw.source} contradicts itself: {raw.stated['n_fft'].key} = {values['n_fft']!r} and "
                f"{raw.stated['fft_bins'].key} = {bins}, which is {size} samples; correct the file"
            )
    if "win_length" in raw.stated and "win_length" not in values and "n_fft" in values:
        values["win_length"] = values["n_fft"]  # as librosa treats None


def _filters(raw: RawSettings, values: dict[str, Any]) -> None:
    if "fmin" in raw.stated:
        values["fmin"] = 0.0 if raw.get("fmin") is None else raw.get("fmin")
    if "fmax" in raw.stated:
        values["fmax"] = raw.get("fmax")
    if "preemphasis" in raw.stated:
        values["preemphasis"] = 0.0 if raw.get("preemphasis") is None else raw.get("preemphasis")
    if raw.get("apply_preemphasis") is False:
        values["preemphasis"] = 0.0


def _levels(raw: RawSettings, values: dict[str, Any], preset: Preset | None) -> None:
    if isinstance(raw.get("top_db"), int | float):
        values.setdefault("min_level_db", -raw.get("top_db"))
    if isinstance(raw.get("clipped"), bool):
        values.setdefault("clip_high", raw.get("clipped"))
        values.setdefault("clip_low", raw.get("clipped"))
    natural = raw.get("log_func") == "np.log"
    gain = 20.0 if raw.get("spec_gain") is None else float(raw.get("spec_gain"))
    # Decibels per unit of the levels, which need not be decibels.
    unit = 20.0 / gain / (math.log(10) if natural else 1.0)
    plain = "min_level_db" in raw.stated and values.get("min_level_db") is None
    if raw.get("normalised") is False or plain:
        _unmapped_levels(raw, values, natural=natural and gain == 1.0, unit=unit)
        return
    if unit != 1.0:
        usual = {} if preset is None else preset.audio
        for name in ("reference_db", "min_level_db"):
            level = values.get(name, usual.get(name))
            values[name] = level * unit if isinstance(level, int | float) else level
    top, symmetric = raw.get("max_level"), raw.get("symmetric")
    if top is None and "max_level" in raw.stated:
        top = 1.0
    if isinstance(top, int | float) and "mel_range" not in values:
        if preset is not None and preset.unit_range:
            top = 1.0
        if symmetric is None:
            symmetric = preset is None or preset.audio.get("mel_range", (-1.0, 1.0))[0] < 0
        values["mel_range"] = (-top if symmetric else 0.0, top)


def _unmapped_levels(raw: RawSettings, values: dict[str, Any], *, natural: bool, unit: float) -> None:
    """Sets levels without a mapping to a range; old audio processors (with num_freq) still subtract the reference."""
    if natural:
        values.setdefault("log", "natural")
        return
    values["reference_db"] = values.get("reference_db", 0.0) * unit if "fft_bins" in raw.stated else 0.0
    values["min_level_db"] = -100.0
    values["mel_range"] = (-100.0 / unit, 0.0)
    values["clip_high"] = values["clip_low"] = False


def _recordings(raw: RawSettings, values: dict[str, Any]) -> None:
    if raw.get("use_lws") is True:
        values.setdefault("stft", "lws")
    if "peak" in raw.stated:
        values["peak"] = raw.get("peak")
    elif raw.get("do_sound_norm") is True:
        values["peak"] = 0.95
    elif raw.get("scale_peak") is True:
        values["peak"] = raw.get("rescaling_max") or 1.0
    elif raw.get("scale_peak") is False or raw.get("do_sound_norm") is False:
        values["peak"] = None


def _outputs(raw: RawSettings, values: dict[str, Any]) -> None:
    mode, bits, kind = raw.get("mode"), raw.get("bits"), raw.get("input_type")
    if isinstance(mode, str):
        mode = _LOSSES.get(mode.lower(), mode)
        mode = int(mode) if mode.isdecimal() and len(mode) <= 2 else mode
    if isinstance(kind, str):
        kind = kind.lower()
        mode = _MODES.get(kind, mode)
        if kind == "raw":
            mode = raw.get("distribution") or "beta"
            mode = "gauss" if str(mode).lower() == "gaussian" else mode
        if kind == "mulaw":
            values.setdefault("mu_law", True)
            values.setdefault("amplitude_feedback", True)
            bits = None
        elif kind == "bits":
            values.setdefault("mu_law", False)
    if bits is not None and (mode is None or str(mode).lower() in ("raw", "bits")):
        mode = bits
    if mode is not None:
        values["mode"] = mode
