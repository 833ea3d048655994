"""Reads a trained checkpoint of any family: weights, sizes and audio settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from wavernn_trt.export.config import AudioConfig, ConfigError, Family, Output, from_json
from wavernn_trt.export.conventions import ADJUSTABLE, AUDIO, CONFIG_FILES, MU_LAW
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
from wavernn_trt.export.quantization import Quantization
from wavernn_trt.export.recognition import check_state, recognise, resolve_output
from wavernn_trt.export.settings import Settings, find_settings
from wavernn_trt.export.state import load_state

__all__ = ["Checkpoint", "CheckpointError", "read_checkpoint"]

MODEL_OVERRIDES = ("family", "mode", "mu_law", "temperature", "config", "entry")
AUDIO_OVERRIDES = tuple(field.name for field in dataclasses.fields(AudioConfig))

_MODES: dict[Output, str] = {"categorical": "raw", "logistic_mixture": "mol", "gaussian": "gauss"}
_FRACTIONS = tuple(field.name for field in dataclasses.fields(AudioConfig) if str(field.type).startswith("float"))
_LARGEST = 1e9
_CHOICES = {"mel_norm": ("slaney", "sum"), "pad_mode": ("constant", "reflect"), "log": ("decibel", "natural")}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, read and checked."""

    model: WaveRNN
    """The model, with its temperature applied."""
    audio: AudioConfig
    """The audio settings that it was trained with."""
    state: dict[str, Tensor]
    """The trained weights, float32, under the family's own names, as stored: no temperature applied."""
    path: Path
    """The file that they came from."""
    sha256: str
    """Of that file."""
    assumed: tuple[str, ...]
    """What had to be assumed or could not be followed, a line each, for the command to print."""
    source: Mapping[str, Any] | None = None
    """For a model directory: where it had its weights from."""
    quantization: Quantization | None = None
    """For a model directory: what its products are rounded to. The weights here are not."""


def read_checkpoint(path: str | Path, **overrides: object) -> Checkpoint:
    """Reads a checkpoint, or the weights inside a model directory.

    A setting is the explicit override's; else that of the configuration file beside the checkpoint; else the family's
    documented default, and then ``assumed`` says so. All sizes are read from the weights' shapes.

    Args:
        path: the checkpoint file, or a model directory.
        **overrides: any field of `AudioConfig`; ``family``; ``mode`` (``raw``, ``bits``, ``mol``, ``mold``, ``gauss``
            or a number of bits); ``mu_law``; ``temperature``; ``config``, the path of the configuration file;
            ``entry``, the entry of the file that holds the weights, see `load_state`.
            An override of ``None`` counts as left out, except for ``fmax`` and ``peak``, where it is a value.

    Raises:
        CheckpointError: what was found, what was expected, and the way out.
    """
    unknown = sorted(set(overrides) - {*MODEL_OVERRIDES, *AUDIO_OVERRIDES})
    if unknown:
        known = ", ".join((*MODEL_OVERRIDES, *AUDIO_OVERRIDES))
        raise CheckpointError(f"unknown setting {unknown[0]!r}, expected one of {known}")
    overrides = {name: value for name, value in overrides.items() if value is not None or name in ("fmax", "peak")}
    path = Path(path)
    if path.is_dir():
        return _from_directory(path, overrides)
    entry = overrides.pop("entry", None)
    if entry is not None and not isinstance(entry, str):
        raise CheckpointError(f"entry: found {entry!r}, expected the name of an entry in {path}")
    stored = load_state(path, entry)
    wrapped, config = stored.entry == "model", stored.beside.get("config")
    try:
        family = recognise(stored.state, wrapped, overrides.get("family"))
        sizes = check_state(family, stored.state)
        stored_config = config if wrapped and isinstance(config, Mapping) else None
        settings = find_settings(family, path, overrides.get("config"), stored_config)
        checkpoint = _build(path, family, stored.state, sizes, settings, overrides)
        return dataclasses.replace(checkpoint, assumed=(*stored.notes, *checkpoint.assumed))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _from_directory(path: Path, overrides: Mapping[str, object]) -> Checkpoint:
    if not (path / MANIFEST).is_file():
        raise CheckpointError(
            f"{path} is a folder without {MANIFEST}, expected a checkpoint file or a model directory that "
            "wavernn-trt export wrote; give the file inside it"
        )
    if "config" in overrides:
        raise CheckpointError(f"config: {path} is a model directory and holds its own settings; leave config out")
    if "entry" in overrides:
        raise CheckpointError(f"entry: {path} is a model directory and holds one network; leave entry out")
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
    settings = Settings(
        source=f"{path.name}/config.json",
        audio={field.name: getattr(directory.audio, field.name) for field in dataclasses.fields(AudioConfig)},
        mode=_MODES[model.output],
        mu_law=model.mu_law,
        temperature=model.temperature,
        sizes={"outputs": model.outputs, "hidden_size": model.hidden_size},
    )
    try:
        family = recognise(state, model.family == "coqui", overrides.get("family", model.family))
        checkpoint = _build(file, family, state, check_state(family, state), settings, overrides)
        return dataclasses.replace(checkpoint, source=directory.source, quantization=directory.quantization)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None


def _build(
    path: Path,
    family: Family,
    state: dict[str, Tensor],
    sizes: Mapping[str, Any],
    settings: Settings,
    overrides: Mapping[str, object],
) -> Checkpoint:
    _compare_sizes(settings, sizes)
    assumed = list(settings.notes)
    where = f"{settings.source} does not say" if settings.source else f"no {CONFIG_FILES[family][0]} stands beside it"

    audio = _audio(family, settings, sizes, overrides)
    for name in ADJUSTABLE[family]:
        if name not in overrides and name not in settings.audio and name not in sizes:
            assumed.append(f"{name} = {getattr(audio, name)}: {family}'s default, since {where}")

    mode = overrides.get("mode", settings.mode)
    output = resolve_output(family, sizes["outputs"], mode)
    if output == "gaussian" and mode is None:
        assumed.append(f"mode = gauss: 2 outputs could also be classes of 1 bit, but {where}")

    mu_law = overrides.get("mu_law", settings.mu_law)
    if output != "categorical":
        if overrides.get("mu_law"):
            raise CheckpointError(f"mu_law: found {mu_law!r} for a {output} output, expected False; leave it out")
        mu_law = False
    elif mu_law is None:
        mu_law = MU_LAW[family]
        if family != "univoc":
            assumed.append(f"mu_law = {mu_law}: {family}'s default, since {where}")
    if not isinstance(mu_law, bool) or (family == "univoc" and not mu_law):
        expected = "True for univoc" if family == "univoc" else "True or False"
        raise CheckpointError(f"mu_law: found {mu_law!r}, expected {expected}; leave it out or correct it")

    temperature = _temperature(overrides.get("temperature", settings.temperature))
    try:
        if family == "univoc":
            model = univoc_from_state(state, temperature)
        else:
            model = fatchord_from_state(state, family, output, mu_law, temperature)
    except ConfigError as error:
        raise CheckpointError(f"{error}; the file is damaged or of an unknown variant") from None
    return Checkpoint(model, audio, state, path, file_sha256(path), tuple(assumed))


def _compare_sizes(settings: Settings, sizes: Mapping[str, Any]) -> None:
    for name, stated in settings.sizes.items():
        stated = tuple(stated) if isinstance(stated, list) else stated
        if name in sizes and sizes[name] != stated:
            raise CheckpointError(
                f"{name}: found {stated} in {settings.source}, expected {sizes[name]} from the weights' shapes; "
                "it belongs to another checkpoint: name the right one with config"
            )


def _audio(
    family: Family, settings: Settings, sizes: Mapping[str, Any], overrides: Mapping[str, object]
) -> AudioConfig:
    given = {name: value for name, value in overrides.items() if name in AUDIO_OVERRIDES}
    values = {**AUDIO[family], **settings.audio, **given}
    for name in ("n_mels", "hop_length"):
        if name not in sizes:
            continue
        for source, stated in ((settings.source, settings.audio), ("the given settings", given)):
            if name in stated and stated[name] != sizes[name]:
                raise CheckpointError(
                    f"{name}: found {stated[name]!r} in {source}, expected {sizes[name]} from the weights' shapes; "
                    "correct it, or leave it out"
                )
        values[name] = sizes[name]
    for name, choices in _CHOICES.items():
        if values.get(name, choices[0]) not in choices:
            raise CheckpointError(f"{name}: found {values[name]!r}, expected {' or '.join(choices)}; correct it")
    span = values.get("mel_range")
    if span is not None and (not isinstance(span, list | tuple) or len(span) != 2):
        raise CheckpointError(f"mel_range: found {span!r}, expected two numbers, the lowest and the highest level")
    for name in _FRACTIONS:  # config files write whole levels and frequencies without a point
        if name in values:
            values[name] = _fraction(name, values[name])
    if span is not None:
        values["mel_range"] = tuple(_fraction("mel_range", end) for end in span)
    try:
        audio = from_json(AudioConfig, values, "audio")
    except ConfigError as error:
        raise CheckpointError(f"{error}; correct the setting, or leave it out") from None
    # Training on a pre-emphasised waveform cuts frames in their middle, so that a frame's samples surround its centre.
    if family == "univoc" and "waveform_preemphasis" in {**settings.audio, **given} and "delay" not in values:
        audio = dataclasses.replace(audio, delay=audio.hop_length // 2)
    return audio


def _fraction(name: str, value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value  # refused with all other wrong types
    if not abs(value) < _LARGEST:  # NaN too
        raise CheckpointError(f"{name}: found {str(value)[:20]}, expected a number of ordinary size; correct it")
    return float(value)


def _temperature(value: object) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _LARGEST:
        raise CheckpointError(f"temperature: found {value!r}, expected a positive number; 1 leaves the logits alone")
    return float(value)
