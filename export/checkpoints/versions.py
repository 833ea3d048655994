"""Identifies the project and version of a checkpoint from its tensors, its entries and its settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from wavernn_trt.export.checkpoints.recognition import some
from wavernn_trt.export.config import FAMILIES, Family
from wavernn_trt.export.errors import CheckpointError
from wavernn_trt.export.settings.presets import PRESETS, Preset
from wavernn_trt.export.settings.raw import RawSettings
from wavernn_trt.export.settings.table import PREFIX

Architecture = Literal["univoc", "torchaudio", "two GRUs", "one GRU", "two GRUs without a network"]
"""What the names of tensors determine. The last lacks the residual or the upsampling network (Coqui only)."""

FAMILIES_OF: dict[Architecture, tuple[Family, ...]] = {
    "univoc": ("univoc",),
    "torchaudio": ("torchaudio",),
    "two GRUs": ("fatchord", "coqui"),
    "one GRU": ("turian",),
    "two GRUs without a network": ("coqui",),
}
"""Families of each architecture, which have the same tensors."""
_DEFAULTS: dict[Family, str] = {
    "univoc": "univoc-0.2",
    "fatchord": "fatchord",
    "torchaudio": "torchaudio",
    "coqui": "coqui",
    "turian": "turian",
}
"""Presets of checkpoints without hints; their settings are reported as assumed."""
_TRAINER_ENTRIES = frozenset({"optimizer", "scheduler", "epoch", "step", "loss", "model_loss", "model_disc"})
"""What mozilla's and Coqui's trainers store beside the entry ``model``."""


@dataclass(frozen=True)
class Version:
    """A checkpoint's version."""

    preset: Preset
    """Its conventions."""
    stated: bool
    """Whether the user named it."""
    because: str
    """The property that identified it, for messages."""


@dataclass(frozen=True)
class Hints:
    """Properties of a checkpoint that distinguish versions."""

    keys: Collection[str]
    """Names of the file's top-level entries."""
    outputs: int
    """Width of the last layer."""
    settings: RawSettings | None
    """The settings file, or the configuration inside the checkpoint."""


def architecture_of(state: Mapping[str, Tensor]) -> Architecture:
    """Returns the architecture from the tensors' names.

    Raises:
        CheckpointError: names of no known architecture.
    """
    if "embedding.weight" in state or "rnn1.weight_ih_l0_reverse" in state:
        return "univoc"
    if any(name.startswith(("upsample.upsample_layers.", "upsample.resnet.melresnet_model.")) for name in state):
        return "torchaudio"
    if "I.weight" in state:
        if not any(name.startswith(("rnn2.", "fc2.")) for name in state):
            return "one GRU"
        complete = all(any(name.startswith(part) for name in state) for part in ("upsample.resnet.", "upsample.up_"))
        return "two GRUs" if complete else "two GRUs without a network"
    raise CheckpointError(
        f"found the tensors {some(state) or 'of no model'}, expected embedding.weight (univoc), upsample.up_layers.* "
        "and I.weight (fatchord, Coqui, turian) or upsample.upsample_layers.* (torchaudio); "
        "give the checkpoint of a WaveRNN of one of these families"
    )


def identify(architecture: Architecture, hints: Hints, family: object = None, preset: object = None) -> Version:
    """Returns the version: the user's, else by the settings' keys, else by the file's entries.

    Args:
        architecture: from `architecture_of`.
        hints: of the checkpoint.
        family: given by the user; excludes versions of other families.
        preset: given by the user.

    Raises:
        CheckpointError: the named family or preset is unknown or of another architecture, no hint decides between
            versions whose waveforms differ, or such a checkpoint cannot be exported.
    """
    families = FAMILIES_OF[architecture]
    if family is not None:
        if family not in FAMILIES:
            raise CheckpointError(f"family: found {family!r}, expected one of {', '.join(FAMILIES)}")
        if family not in families:
            raise CheckpointError(
                f"family: found the tensors of a {families[0]} checkpoint, expected {family}'s; leave family out"
            )
        families = (family,)
    if preset is not None:
        return Version(_named(preset, families), True, "the preset that was given")
    name, because = _by_settings(architecture, hints)
    if name is None or PRESETS[name].family not in families:
        name, because = _by_entries(architecture, hints, given=family is not None)
    if name is None or PRESETS[name].family not in families:
        name, because = _DEFAULTS[families[0]], "its tensors"
    version = Version(PRESETS[name], False, because)
    _refuse(version.preset)
    return version


def _named(name: object, families: Collection[Family]) -> Preset:
    if not isinstance(name, str) or name not in PRESETS:
        raise CheckpointError(
            f"preset: found {name!r}, expected one of {', '.join(PRESETS)}; wavernn-trt export --list-presets"
        )
    preset = PRESETS[name]
    if preset.family not in families:
        raise CheckpointError(
            f"preset: {preset.name} is of the family {preset.family}, found the tensors of a "
            f"{' or '.join(families)} checkpoint; name another preset, or none"
        )
    _refuse(preset)
    return preset


def _refuse(preset: Preset) -> None:
    if preset.refused is not None:
        raise CheckpointError(f"{preset.about}: {preset.refused}")


def _by_settings(architecture: Architecture, hints: Hints) -> tuple[str | None, str]:
    if hints.settings is None:
        return None, ""
    keys, source = hints.settings.keys, hints.settings.source

    def some_of(*names: str) -> bool:
        return not keys.isdisjoint(names)

    name: str | None = None
    if architecture == "univoc":
        if some_of("preprocessing", "conditioning_channels", "rnn_channels", "num_fft"):
            name = "univoc-0.1"
        elif some_of("preprocess", "conditioning_size", "rnn_size"):
            name = "univoc-0.2"
    elif architecture == "one GRU":
        name = _of_input_type("geneing", hints.settings) if some_of("input_type") else "turian"
    elif architecture == "torchaudio":
        name = "torchaudio"
    elif some_of("dsp"):
        name = "forwardtacotron-v2"
    elif some_of("mel_max_abs_value") or (some_of("max_abs_value") and some_of("synthesis_batch_size")):
        name = "rtvc"
    elif some_of("input_type"):
        name = _of_input_type("gwang", hints.settings)
    elif some_of("num_freq") and some_of("audio"):
        name = "erogol-lj"
    elif some_of("wavernn_model_params") and not some_of("log_func"):
        name = "mozilla"
    elif some_of("audio", "model_args", "wavernn_model_params"):
        name = "coqui"
    elif any(key.startswith(PREFIX) for key in keys):
        name = "fatchord" if some_of("min_level_db") or not some_of("fmax") else "forwardtacotron-v1"
    return name, f"the keys of {source}"


def _of_input_type(project: str, settings: RawSettings) -> str:
    """Returns the preset of G-Wang's or geneing's project for the key input_type."""
    kind = str(settings.get("input_type")).lower()
    if kind == "raw":
        gaussian = project == "gwang" and str(settings.get("distribution")).lower() == "gaussian"
        return "gwang-gaussian" if gaussian else f"{project}-beta"
    if kind not in ("mulaw", "mixture", "bits"):
        stated = settings.stated["input_type"]
        raise CheckpointError(
            f"{stated.key}: found {stated.value!r} in {settings.source}, expected raw, mixture, bits or mulaw; correct "
            "it, or name the version with --preset (--list-presets prints them)"
        )
    return f"{project}-{kind}"


def _by_entries(architecture: Architecture, hints: Hints, *, given: bool) -> tuple[str | None, str]:
    keys = set(hints.keys)
    if architecture == "univoc" and not given:
        if "scaler" in keys:
            return "univoc-0.2", "its entry scaler"
        if {"model", "optimizer", "scheduler", "step"} <= keys:
            return "univoc-0.1", "its entries, without a scaler"
        raise _undecided("univoc-0.1", "univoc-0.2", "versions 0.1 and 0.2 have the same tensors")
    if given or architecture not in ("one GRU", "two GRUs"):
        return None, ""
    if {"state_dict", "global_epoch"} <= keys:  # Lightning has global_step as well, and epoch
        project = "geneing" if architecture == "one GRU" else "gwang"
        if hints.outputs == 30:
            return f"{project}-mixture", "its entries state_dict and global_epoch"
        if hints.outputs == 2:
            raise _undecided("gwang-gaussian", f"{project}-beta", "2 outputs are a Gaussian or a beta distribution")
        why = f"{hints.outputs} classes are linear or mu-law companded"
        raise _undecided(f"{project}-bits", f"{project}-mulaw", why)
    if architecture == "one GRU":
        return None, ""
    if "model_state" in keys:
        return "rtvc", "its entry model_state"
    if "optim" in keys:
        return "forwardtacotron-v2", "its entry optim"
    if "model" in keys:
        if keys.isdisjoint(_TRAINER_ENTRIES):
            raise _undecided(
                "coqui", "fatchord", "Coqui's checkpoints and those of fatchord's code have the same tensors"
            )
        return "coqui", "its entry model beside a training's"
    return "fatchord", "its tensors"


def _undecided(one: str, other: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"the version is not known: {why}, and no entry or settings file decides. Name it with --preset "
        f"{one} ({PRESETS[one].about}) or --preset {other} ({PRESETS[other].about}), or put the training's settings "
        "file beside the checkpoint"
    )
