"""Reads a trained checkpoint of any family: weights, sizes and audio settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from wavernn_trt.export.checkpoints.recognition import check_state, resolve_output
from wavernn_trt.export.checkpoints.state import load_state
from wavernn_trt.export.checkpoints.versions import FAMILIES_OF, Hints, Version, architecture_of, identify
from wavernn_trt.export.config import AudioConfig, ConfigError, Family, LabelScale, Output
from wavernn_trt.export.errors import CheckpointError
from wavernn_trt.export.families.fatchord import fatchord_from_state
from wavernn_trt.export.families.univoc import univoc_from_state
from wavernn_trt.export.families.wavernn import WaveRNN
from wavernn_trt.export.model_directory import (
    CHECKPOINT,
    MANIFEST,
    ModelDirectoryError,
    file_sha256,
    open_model_directory,
)
from wavernn_trt.export.operators import NativePrecision
from wavernn_trt.export.quantization import Quantization
from wavernn_trt.export.settings.audio import LARGEST, audio_config
from wavernn_trt.export.settings.files import is_null
from wavernn_trt.export.settings.interpretation import Settings
from wavernn_trt.export.settings.presets import PRESETS
from wavernn_trt.export.settings.sources import find_sources
from wavernn_trt.export.settings.table import AUDIO_FIELDS, SETTABLE, plain_value, setting_of

__all__ = ["Checkpoint", "CheckpointError", "read_checkpoint"]

_HOW = ("family", "preset", "config", "entry")
"""Overrides that are not settings but select the source."""
_NULLABLE = ("fmax", "peak")
"""Settings for which None is a value."""

_MAPPING = ("reference_db", "min_level_db", "mel_range", "clip_high")
"""Settings without effect for natural logarithms."""
_MODES: dict[Output, str] = {"categorical": "raw", "logistic_mixture": "mol", "gaussian": "gauss"}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, read and checked."""

    model: WaveRNN
    """The model, with its temperature applied."""
    audio: AudioConfig
    """The audio settings that it was trained with."""
    state: dict[str, Tensor]
    """The stored weights, float32, with the family's names, without the temperature."""
    path: Path
    """The file that holds the weights."""
    sha256: str
    """SHA-256 of that file, hexadecimal."""
    assumed: tuple[str, ...]
    """Settings that no source states, one line each."""
    notes: tuple[str, ...] = ()
    """Lines for the user: choices, unused values, and settings that cannot be expressed."""
    preset: str | None = None
    """The version that the checkpoint was recognised as; ``None`` for a model directory."""
    source: Mapping[str, Any] | None = None
    """For a model directory: the origin of its weights."""
    quantization: Quantization | None = None
    """For a model directory: the rounding of its products; the weights in `state` are not rounded."""
    cpu_precision: NativePrecision | None = None
    """For a model directory: its default precision in the native decoder."""


def read_checkpoint(path: str | Path, **overrides: object) -> Checkpoint:
    """Reads a checkpoint, or the weights inside a model directory.

    A setting is the explicit override's; else that of the settings inside the checkpoint, then of the file that
    ``config`` names, or, without both, of the settings file beside it; else that of the preset, and then ``assumed``
    names it unless the preset was given. All sizes are read from the weights' shapes.

    Args:
        path: the checkpoint file, or a model directory.
        **overrides: any field of `AudioConfig`; ``mode`` (``raw``, ``bits``, ``mol``, ``mold``, ``gauss`` or a number
            of bits); ``mu_law``; ``label_scale``; ``amplitude_feedback``; ``temperature``; ``preset``, a name of
            `PRESETS`; ``family``; ``config``, the path of the settings file; ``entry``, the entry with the weights. An
            override of ``None`` is ignored, except for ``fmax`` and ``peak``, where it is a value.

    Raises:
        CheckpointError: the found and the expected value, and the way out.
    """
    overrides = _checked(overrides)
    path = Path(path)
    if path.is_dir():
        return _from_directory(path, overrides)
    entry = overrides.get("entry")
    if entry is not None and not isinstance(entry, str):
        raise CheckpointError(f"entry: found {entry!r}, expected the name of an entry in {path}")
    stored = load_state(path, entry)
    try:
        architecture = architecture_of(stored.state)
        last = stored.state.get("fc3.bias", stored.state.get("fc2.bias"))
        outputs = 0 if last is None else last.numel()
        sources = find_sources(path, stored, overrides.get("config"))
        sizes = check_state(FAMILIES_OF[architecture][0], stored.state)
        sources = sources.fitting(sizes)
        hints = Hints(stored.keys, outputs, sources.hints)
        version = identify(architecture, hints, overrides.get("family"), overrides.get("preset"))
        settings = sources.resolve(version.preset, overrides)
        built = _build(path, stored.state, sizes, settings, version, overrides)
        return dataclasses.replace(built, notes=(*stored.notes, *sources.notes, *built.notes))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _checked(overrides: Mapping[str, object]) -> dict[str, object]:
    """Returns the overrides that have an effect, with words for null as None."""
    known = (*_HOW, *SETTABLE)
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        here = setting_of(unknown[0].lower())
        meant = f" ({here} is meant?)" if here in SETTABLE else ""
        raise CheckpointError(f"unknown setting {unknown[0]!r}{meant}, expected one of {', '.join(known)}")
    values = {name: None if is_null(value) else plain_value(name, value) for name, value in overrides.items()}
    return {name: value for name, value in values.items() if value is not None or name in _NULLABLE}


def _from_directory(path: Path, overrides: Mapping[str, object]) -> Checkpoint:
    if not (path / MANIFEST).is_file():
        raise CheckpointError(
            f"{path} is a folder without {MANIFEST}, expected a checkpoint file or a model directory that "
            "wavernn-trt export wrote; give the file inside it"
        )
    for name in ("config", "preset", "entry"):
        if name in overrides:
            raise CheckpointError(f"{name}: {path} is a model directory and holds its own settings; leave {name} out")
    file = path / CHECKPOINT
    try:
        directory = open_model_directory(path)
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; export the original checkpoint again")
        from safetensors.torch import load_file

        state = load_file(file)
    except ModelDirectoryError as error:
        raise CheckpointError(str(error)) from None
    except CheckpointError:
        raise
    except ImportError:
        raise CheckpointError(f"{file} needs safetensors to be read: pip install safetensors") from None
    except Exception as error:  # safetensors raises its own kinds for a damaged header
        raise CheckpointError(f"{file} cannot be read: {error}; export the original checkpoint again") from None
    model = directory.model
    values = {name: getattr(directory.audio, name) for name in AUDIO_FIELDS}
    values |= {"mode": _MODES[model.output], "mu_law": model.mu_law, "temperature": model.temperature}
    values |= {"label_scale": model.label_scale, "amplitude_feedback": model.amplitude_feedback}
    sizes = {"outputs": model.outputs, "hidden_size": model.hidden_size}
    settings = Settings(f"{path.name}/config.json", values, sizes)
    preset = next(each for each in PRESETS.values() if each.family == model.family)
    version = Version(preset, True, "config.json")
    try:
        if overrides.get("family", model.family) != model.family:
            raise CheckpointError(f"family: found {model.family}, expected {overrides['family']}; leave family out")
        architecture_of(state)
        checkpoint = _build(file, state, check_state(model.family, state), settings, version, overrides)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
    return dataclasses.replace(
        checkpoint,
        source=directory.source,
        quantization=directory.quantization,
        cpu_precision=directory.cpu_precision,
        preset=None,
        notes=(),
    )


def _build(
    path: Path,
    state: dict[str, Tensor],
    sizes: Mapping[str, Any],
    settings: Settings,
    version: Version,
    overrides: Mapping[str, object],
) -> Checkpoint:
    _compare_sizes(settings, sizes)
    preset, family = version.preset, version.preset.family
    stated = {**settings.values, **{name: overrides[name] for name in SETTABLE if name in overrides}}
    mode = stated.get("mode", preset.mode)
    try:
        output = resolve_output(family, sizes["outputs"], mode)
    except CheckpointError as error:
        if "mode" in overrides or "mode" not in settings.values:
            raise
        raise CheckpointError(f"{error} ({settings.source} states the mode; --set mode=VALUE replaces it)") from None
    audio = audio_config(preset, settings, sizes, overrides)
    temperature = _temperature(stated.get("temperature"))
    classes = output == "categorical"
    mu_law = _mu_law(family, classes, stated.get("mu_law", preset.mu_law), asked=overrides.get("mu_law"))
    feedback = stated.get("amplitude_feedback", preset.amplitude_feedback) if mu_law else False
    scale = stated.get("label_scale", preset.label_scale)
    # A model of this project's training; librosa's scale is not used with a pre-emphasised waveform.
    if "label_scale" not in stated and family == "univoc" and audio.waveform_preemphasis:
        scale = "symmetric"
    for name, value, choices in (
        ("label_scale", scale, get_args(LabelScale)),
        ("amplitude_feedback", feedback, (True, False)),
    ):
        if value not in choices:
            raise CheckpointError(f"{name}: found {value!r}, expected {' or '.join(map(str, choices))}; correct it")
    try:
        if family == "univoc":
            model = univoc_from_state(state, temperature, scale)
        else:
            model = fatchord_from_state(state, family, output, mu_law, temperature, feedback)
    except ConfigError as error:
        raise CheckpointError(f"{error}; the file is damaged or of an unknown variant") from None
    assumed = () if version.stated else _assumed(version, settings, stated, sizes, audio, output, mu_law)
    notes = settings.notes
    if not version.stated:
        notes = (f"read as {preset.name} ({preset.about}), by {version.because}; --preset NAME for another", *notes)
    return Checkpoint(model, audio, state, path, file_sha256(path), assumed, notes, preset.name)


def _assumed(
    version: Version,
    settings: Settings,
    stated: Mapping[str, object],
    sizes: Mapping[str, Any],
    audio: AudioConfig,
    output: Output,
    mu_law: bool,
) -> tuple[str, ...]:
    """Returns a line for each setting that users of the project change and no source states."""
    preset = version.preset
    where = f"{settings.source} does not state it" if settings.source else "no settings file was found beside it"
    lines = []
    if output == "gaussian" and stated.get("mode", preset.mode) is None:
        lines.append(f"mode = gauss: 2 outputs could also be classes of 1 bit; {where}")
    for name in preset.adjustable:
        unmapped = audio.log == "natural" and name in _MAPPING
        if name in stated or name in sizes or unmapped or (name == "mu_law" and output != "categorical"):
            continue
        value = mu_law if name == "mu_law" else getattr(audio, name)
        lines.append(f"{name} = {value}: usual in {preset.name}; {where}")
    return tuple(lines)


def _mu_law(family: Family, classes: bool, value: object, asked: object) -> bool:
    if not classes:
        if asked:
            raise CheckpointError(f"mu_law: found {asked!r} for outputs that are not classes; leave it out")
        return False
    value = False if value is None else value
    if not isinstance(value, bool) or (family == "univoc" and not value):
        expected = "True for univoc" if family == "univoc" else "True or False"
        raise CheckpointError(f"mu_law: found {value!r}, expected {expected}; leave it out or correct it")
    return value


def _compare_sizes(settings: Settings, sizes: Mapping[str, Any]) -> None:
    for name, stated in settings.sizes.items():
        stated = tuple(stated) if isinstance(stated, list) else stated
        if name in sizes and sizes[name] != stated:
            raise CheckpointError(
                f"{name}: found {stated} in {settings.source}, expected {sizes[name]} from the weights' shapes; "
                "it belongs to another checkpoint: name the right one with config"
            )


def _temperature(value: object) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < LARGEST:
        raise CheckpointError(f"temperature: found {value!r}, expected a positive number; 1 leaves the logits alone")
    return float(value)
