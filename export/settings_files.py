"""Settings files: parsing JSON, YAML and Python, and finding the one that belongs to a checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavernn_trt.export.errors import CheckpointError
from wavernn_trt.export.python_settings import read_python_settings
from wavernn_trt.export.settings_table import PREFIX, SECTIONS, setting_of

_STRING_OR_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*')
_DEEPEST = 20
_LARGEST = 1 << 20
"""Bytes; settings files are some kilobytes."""
_MOST_FILES = 64
_USUAL = tuple(
    f"{stem}.{suffix}" for stem in ("config", "hparams", "params") for suffix in ("json", "yaml", "yml", "py")
)
"""File names that hold settings whatever is in them, the likeliest first."""
_OTHERS = ("*.json", "*.yaml", "*.yml", "*hparams*.py")
"""Patterns of names that may: their contents decide."""
_VOCODER_WORDS = """
rnn_dims upsample_factors upsample_scales mulaw mu_law mode conditioning_size conditioning_channels n_rnn input_type
use_aux_net rnn_channels wavernn_model_params mulaw_quantize_channels voc_model_id mel_max_abs_value
"""
_VOCODER_KEYS = frozenset(_VOCODER_WORDS.split())
"""Keys that only a vocoder's settings have; ``voc_`` before a key says so as well."""
_OTHER_MODELS_WORDS = """
characters text_cleaner text_cleaners phonemes use_phonemes attention_type prenet_type gradual_training
enable_eos_bos_chars encoder_embedding_dim postnet_embedding_dim n_symbols symbols_embedding_dim tts_embed_dims
generator_model discriminator_model generator_model_params discriminator_model_params use_stft_loss
resblock_kernel_sizes upsample_kernel_sizes
"""
_OTHER_MODELS_KEYS = frozenset(_OTHER_MODELS_WORDS.split())
"""Keys of acoustic models' and other vocoders' settings."""


@dataclass(frozen=True)
class SettingsFile:
    """A parsed settings file."""

    name: str
    """The file's name, for messages."""
    values: Mapping[str, Any]
    """Its contents; ``none``, ``null`` and ``None`` as ``None``."""
    computed: tuple[str, ...] = ()
    """Names in a Python file whose values are computed, and were not read."""

    @property
    def foreign(self) -> str | None:
        """What says that these are another kind of model's settings; ``None`` if they may be a WaveRNN's."""
        keys = set(_keys(self.values))
        model = self.values.get("model")
        if isinstance(model, str) and model.lower().replace("_", "") != "wavernn":
            return f"model = {model!r}"
        if keys & _VOCODER_KEYS or any(key.startswith(PREFIX) for key in keys):
            return None
        found = sorted(keys & _OTHER_MODELS_KEYS)
        return f"the key {found[0]}" if found else None

    @property
    def known(self) -> bool:
        """Whether any of its keys is a setting."""
        return any(setting_of(key) for key in _keys(self.values))


def settings_beside(checkpoint: Path) -> tuple[tuple[SettingsFile, ...], tuple[str, ...]]:
    """The settings files in a checkpoint's folder that may be a WaveRNN's, the likeliest first.

    Returns:
        The files, and a note for each file that holds another model's settings.

    Raises:
        CheckpointError: a file with one of the usual names cannot be parsed.
    """
    found: list[SettingsFile] = []
    notes: list[str] = []
    for path in _candidates(checkpoint.parent):
        try:
            file = parse_settings_file(path)
        except CheckpointError:
            if path.name in _USUAL:
                raise
            continue
        if (reason := file.foreign) is not None:
            notes.append(f"{file.name} beside the checkpoint is not used: it is another model's ({reason})")
        elif file.known or path.name in _USUAL:
            found.append(file)
    return tuple(found), tuple(notes)


def _candidates(folder: Path) -> list[Path]:
    paths = [folder / name for name in _USUAL]
    for pattern in _OTHERS:
        paths += [path for path in sorted(folder.glob(pattern))[:_MOST_FILES] if path not in paths]
    return [path for path in paths if path.is_file() and (path.name in _USUAL or path.stat().st_size <= _LARGEST)]


def named_settings(given: object) -> SettingsFile:
    """The settings file that the user names.

    Raises:
        CheckpointError: it is not there or cannot be parsed.
    """
    if not isinstance(given, str | Path):
        raise CheckpointError(f"config: found {given!r}, expected the path of a settings file")
    path = Path(given)
    if not path.is_file():
        raise CheckpointError(f"config: {path} is not there; expected the file that the training was set up with")
    return parse_settings_file(path)


def parse_settings_file(path: Path) -> SettingsFile:
    """Parses a settings file by its suffix: ``.py``, ``.yaml``, ``.yml``, else JSON.

    Raises:
        CheckpointError: it cannot be parsed, or does not hold an object.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"found {path.stat().st_size} bytes, expected at most {_LARGEST}")
        return parse_settings(path.name, path.read_text(encoding="utf-8-sig"))
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read: {str(error)[:200]}; correct the file, or name another with config"
        ) from None


def parse_settings(name: str, text: str) -> SettingsFile:
    """Parses the text of a settings file; see `parse_settings_file`.

    Raises:
        CheckpointError: PyYAML is missing, or the text does not hold an object.
        Exception: the parsers' own errors.
    """
    computed: tuple[str, ...] = ()
    values: Any
    if name.endswith(".py"):
        values, computed = read_python_settings(text)
    elif name.endswith((".yaml", ".yml")):
        try:
            import yaml
        except ImportError:
            raise CheckpointError(f"{name} is YAML, which needs PyYAML: pip install pyyaml") from None
        values = _resolve(yaml.safe_load(text))
    else:
        # Configurations from Coqui's earlier days hold comments.
        values = json.loads(_STRING_OR_COMMENT.sub(lambda match: match[1] or "", text))
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{name}: found {type(values).__name__}, expected an object with the model's settings")
    return SettingsFile(name, with_nulls(values), computed)


def with_nulls(value: Any) -> Any:
    """The same values with the words ``none``, ``null`` and ``None`` as ``None``, and tuples as lists.

    Raises:
        ValueError: objects are nested too deep.
    """
    return _walk(value, lambda leaf: None if is_null(leaf) else leaf)


def is_null(value: object) -> bool:
    """Whether a value is a null, or a word for it."""
    return value is None or (isinstance(value, str) and value.strip().lower() in ("none", "null", "~"))


def _keys(values: Mapping[Any, Any]) -> Iterator[str]:
    for key, value in values.items():
        yield str(key)
        if isinstance(value, Mapping) and key in SECTIONS:
            yield from _keys(value)


def _walk(value: Any, change: Any, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise ValueError(f"references or objects are nested more than {_DEEPEST} deep")
    if isinstance(value, Mapping):
        return {str(name): _walk(item, change, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_walk(item, change, depth + 1) for item in value]
    changed = change(value)
    return changed if changed is value else _walk(changed, change, depth + 1)


def _resolve(root: Any) -> Any:
    """Replaces values that are one reference, ``${a.b}``, by what stands at a.b."""

    def lookup(value: Any) -> Any:
        match = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
        if match is None:
            return value
        found = root
        for name in match[1].split("."):
            if not isinstance(found, Mapping) or name not in found:
                raise ValueError(f"${{{match[1]}}} refers to nothing in this file")
            found = found[name]
        return found

    return _walk(root, lookup)
