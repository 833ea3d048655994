"""What a configuration file beside a checkpoint says, in this package's own terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wavernn_trt.export.config import Family
from wavernn_trt.export.config_files import find_config_file, parse_config_file
from wavernn_trt.export.errors import CheckpointError


@dataclass(frozen=True)
class Settings:
    """The facts of one configuration file."""

    source: str | None = None
    """The file's name, or how else to call the configuration; ``None`` where there is none."""
    audio: dict[str, Any] = field(default_factory=dict)
    """Fields of `AudioConfig`."""
    mode: str | int | None = None
    """What the outputs are, in the family's words, or the number of bits."""
    mu_law: bool | None = None
    """Whether classes are companded."""
    temperature: float | None = None
    """What the logits are to be divided by."""
    sizes: dict[str, Any] = field(default_factory=dict)
    """Sizes that the weights tell too, so that a file of another model is noticed."""
    notes: tuple[str, ...] = ()
    """What the user should know of how the file was chosen and read."""


def find_settings(
    family: Family, checkpoint: Path, given: object = None, stored: Mapping[str, Any] | None = None
) -> Settings:
    """Reads the configuration that belongs to a checkpoint.

    Args:
        family: whose checkpoint it is.
        checkpoint: its path; the file is looked for in the same folder.
        given: the path of the file, where the user names one.
        stored: the configuration inside the checkpoint, used where there is no file.

    Raises:
        CheckpointError: the file is missing or cannot be understood.
    """
    path, notes = find_config_file(family, checkpoint, given)
    if path is None:
        return read_settings(family, stored, "the checkpoint's own config") if stored else Settings()
    settings = read_settings(family, parse_config_file(path), path.name)
    return Settings(**{**vars(settings), "notes": notes + settings.notes})


def read_settings(family: Family, values: object, source: str) -> Settings:
    """Understands a configuration of a family.

    Raises:
        CheckpointError: a part of it is not of the kind that the family writes.
    """
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{source}: found {type(values).__name__}, expected an object with the model's settings")
    if family == "univoc":
        return _univoc(values, source)
    if family == "coqui":
        return _coqui(values, source)
    return _flat(values, source, family)


def _section(values: Mapping[str, Any], name: str, source: str) -> Mapping[str, Any]:
    section = values.get(name)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise CheckpointError(f"{source}: {name} is {type(section).__name__}, expected an object")
    return section


def _pick(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {ours: values[theirs] for theirs, ours in names.items() if values.get(theirs) is not None}


def _negative(value: Any) -> Any:
    return -value if isinstance(value, int | float) else value


_UNIVOC_AUDIO = {
    "sr": "sample_rate",
    "hop_length": "hop_length",
    "win_length": "win_length",
    "n_fft": "n_fft",
    "n_mels": "n_mels",
    "fmin": "fmin",
    "mel_norm": "mel_norm",
    "preemph": "preemphasis",
    "ref_db": "reference_db",
}
_UNIVOC_SIZES = {
    "n_mels": "n_mels",
    "conditioning_size": "conditioning_size",
    "embedding_dim": "embedding_size",
    "rnn_size": "hidden_size",
    "fc_size": "fc_size",
}


def _univoc(values: Mapping[str, Any], source: str) -> Settings:
    preprocess, model = _section(values, "preprocess", source), _section(values, "model", source)
    waveform, sampling = _section(values, "waveform", source), _section(values, "sampling", source)
    audio = _pick(model, {"sr": "sample_rate", "hop_length": "hop_length"}) | _pick(preprocess, _UNIVOC_AUDIO)
    if preprocess.get("top_db") is not None:
        audio["min_level_db"] = _negative(preprocess["top_db"])
    audio |= _pick(waveform, {"preemphasis": "waveform_preemphasis", "peak": "peak"})
    bits = model.get("bits", _section(preprocess, "mulaw", source).get("bits"))
    return Settings(source, audio, bits, None, sampling.get("temperature"), _pick(model, _UNIVOC_SIZES))


_COQUI_AUDIO = {
    "sample_rate": "sample_rate",
    "hop_length": "hop_length",
    "win_length": "win_length",
    "fft_size": "n_fft",
    "num_mels": "n_mels",
    "mel_fmin": "fmin",
    "mel_fmax": "fmax",
    "stft_pad_mode": "pad_mode",
    "preemphasis": "preemphasis",
    "ref_level_db": "reference_db",
    "min_level_db": "min_level_db",
}
_COQUI_SIZES = {
    "rnn_dims": "hidden_size",
    "fc_dims": "fc_size",
    "compute_dims": "compute_size",
    "res_out_dims": "aux_size",
    "num_res_blocks": "blocks",
    "feat_dims": "n_mels",
    "upsample_factors": "factors",
    "pad": "pad",
    "use_aux_net": "uses_aux",
    "use_upsample_net": "uses_upsampling",
}
_TAKE_MELS = "take mels from the training's own code"
_COQUI_INEXPRESSIBLE = {
    "stats_path": (None, "", "mel normalised by stored statistics"),
    "do_amp_to_db_mel": (True, None, "a mel that is not in decibels"),
    "do_rms_norm": (False, None, "recordings scaled to one RMS level"),
    "clip_norm": (True, None, "a mel that is not clipped at its lower end"),
}


def _coqui(values: Mapping[str, Any], source: str) -> Settings:
    stated = _section(values, "audio", source)
    args = _section(values, "model_args", source) or _section(values, "wavernn_model_params", source)
    audio = _pick(stated, _COQUI_AUDIO)
    if "mel_fmax" in stated:
        audio["fmax"] = stated["mel_fmax"]
    if "mel_fmin" in stated:
        audio.setdefault("fmin", 0.0)
    notes = [
        f"audio.{name} = {stated[name]!r} in {source}: {meaning} cannot be expressed; {_TAKE_MELS}"
        for name, (usual, also, meaning) in _COQUI_INEXPRESSIBLE.items()
        if name in stated and stated[name] not in (usual, also)
    ]
    natural = (stated.get("log_func"), stated.get("spec_gain"), stated.get("signal_norm")) == ("np.log", 1, False)
    if natural:
        audio["log"] = "natural"
    elif stated.get("signal_norm", True) is False:
        notes.append(
            f"audio.signal_norm = False in {source}: a mel in plain decibels cannot be expressed; {_TAKE_MELS}"
        )
    elif stated.get("log_func", "np.log10") != "np.log10" or stated.get("spec_gain", 20) != 20:
        notes.append(
            f"audio.log_func and audio.spec_gain in {source}: levels other than 20 log10 cannot be expressed; "
            + _TAKE_MELS
        )
    peak = stated.get("max_norm")
    if isinstance(peak, int | float):
        audio["mel_range"] = (-peak if stated.get("symmetric_norm", True) else 0, peak)
    if isinstance(stated.get("clip_norm"), bool):
        audio["clip_high"] = stated["clip_norm"]
    if stated.get("do_sound_norm") is True:
        audio["peak"] = 0.95
    mode = args.get("mode", values.get("mode"))
    return Settings(
        source,
        audio,
        int(mode) if isinstance(mode, str) and mode.isdecimal() and len(mode) <= 2 else mode,
        args.get("mulaw", values.get("mulaw")),
        None,
        _pick(args, _COQUI_SIZES),
        tuple(notes),
    )


_FLAT_AUDIO = {
    **{
        name: name
        for name in ("sample_rate", "hop_length", "win_length", "n_fft", "n_mels", "fmin", "fmax", "pad_mode")
    },
    **{
        name: name
        for name in ("preemphasis", "min_level_db", "mel_range", "clip_high", "delay", "reference_db", "peak")
    },
    "num_mels": "n_mels",
    "feat_dims": "n_mels",
    "n_freq": "n_mels",
}
_FLAT_SIZES = {
    "rnn_dims": "hidden_size",
    "n_rnn": "hidden_size",
    "fc_dims": "fc_size",
    "n_fc": "fc_size",
    "compute_dims": "compute_size",
    "n_hidden": "compute_size",
    "res_out_dims": "aux_size",
    "n_output": "aux_size",
    "res_blocks": "blocks",
    "n_res_block": "blocks",
    "upsample_factors": "factors",
    "upsample_scales": "factors",
    "pad": "pad",
    "n_classes": "outputs",
}


def _flat(values: Mapping[str, Any], source: str, family: Family) -> Settings:
    values = {str(name).removeprefix("voc_"): value for name, value in values.items()}
    audio = _pick(values, _FLAT_AUDIO)
    if family == "turian":
        audio |= _pick(values, {"ref_level_db": "reference_db"})  # fatchord has the key too, and never reads it
    if values.get("peak_norm") is True:
        audio["peak"] = 1.0
    mode = values.get("mode")
    bits = values.get("bits")
    if bits is not None and str(mode).lower() not in ("mol", "mold"):
        mode = bits
    return Settings(source, audio, mode, values.get("mu_law"), values.get("temperature"), _pick(values, _FLAT_SIZES))
