"""Settings files: parses JSON, YAML and Python, and finds the file of a checkpoint."""

from __future__ import annotations

import io
import json
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from wavernn_trt.export.errors import CheckpointError, listed, printable
from wavernn_trt.export.settings.python_files import read_python_settings
from wavernn_trt.export.settings.table import PREFIX, SECTIONS, setting_of
from wavernn_trt.export.settings.yaml_files import read_yaml_settings, walk

_STRING_OR_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*')
_LARGEST = 1 << 20
"""Bytes; settings files are some kilobytes."""
_MOST_FILES = 64
_SHOWN = 4
_USUAL = tuple(
    f"{stem}.{suffix}" for stem in ("config", "hparams", "params") for suffix in ("json", "yaml", "yml", "py")
)
"""Usual names of settings files, the likeliest first; such a file must be readable."""
_OTHERS = ("*.json", "*.yaml", "*.yml", "*hparams*.py")
"""Patterns of other names; the contents decide."""
_VOCODER_WORDS = """
rnn_dims upsample_factors upsample_scales mulaw mu_law mode conditioning_size conditioning_channels n_rnn input_type
use_aux_net rnn_channels wavernn_model_params mulaw_quantize_channels voc_model_id mel_max_abs_value
"""
_VOCODER_KEYS = frozenset(_VOCODER_WORDS.split())
"""Keys of vocoders' settings only, as are those with the prefix ``voc_``."""
_OTHER_MODELS_WORDS = """
characters text_cleaner text_cleaners phonemes use_phonemes attention_type prenet_type gradual_training
enable_eos_bos_chars encoder_embedding_dim postnet_embedding_dim n_symbols symbols_embedding_dim tts_embed_dims
generator_model discriminator_model generator_model_params discriminator_model_params use_stft_loss
resblock_kernel_sizes upsample_kernel_sizes generator_type generator_params discriminator_params waveglow_config
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
    """Names in a Python file with computed values, which were not read."""

    @property
    def foreign(self) -> str | None:
        """The entry that marks another kind of model's settings; ``None`` if they may be a WaveRNN's."""
        keys = set(_keys(self.values))
        model = self.values.get("model")
        if isinstance(model, str) and model.lower().replace("_", "") != "wavernn":
            return f"model = {printable(model)!r}"
        if keys & _VOCODER_KEYS or any(key.startswith(PREFIX) for key in keys):
            return None
        found = sorted(set(_keys(self.values, inside=None)) & _OTHER_MODELS_KEYS)
        return f"the key {found[0]}" if found else None

    @property
    def known(self) -> bool:
        """Whether any of its keys is a setting."""
        return any(setting_of(key) for key in _keys(self.values))


def settings_beside(checkpoint: Path) -> tuple[tuple[SettingsFile, ...], tuple[str, ...]]:
    """Returns the settings files in a checkpoint's folder that may be a WaveRNN's, the likeliest first.

    Returns:
        The files, and notes about unused files.

    Raises:
        CheckpointError: a file with one of the usual names cannot be parsed.
    """
    paths, left_out = _candidates(checkpoint.parent)
    files, notes = _sorted(((path.name, partial(parse_settings_file, path)) for path in paths), "beside the checkpoint")
    if left_out:
        notes.append(f"{left_out} more files beside the checkpoint were not looked at: name one with --config")
    return tuple(files), tuple(notes)


def settings_in_archive(texts: Mapping[str, str]) -> tuple[tuple[SettingsFile, ...], tuple[str, ...]]:
    """Returns the same for the texts in a checkpoint's archive, by their names there."""
    names = [name for name in texts if any(fnmatch(Path(name).name, pattern) for pattern in (*_USUAL, *_OTHERS))]
    names.sort(key=lambda name: Path(name).name not in _USUAL)
    parsers = ((name, partial(_parse_member, name, texts[name])) for name in names)
    files, notes = _sorted(parsers, "in the archive")
    return tuple(replace(file, name=f"{file.name} in the archive") for file in files), tuple(notes)


def _parse_member(name: str, text: str) -> SettingsFile:
    try:
        return parse_settings(name, text)
    except CheckpointError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or "it is nested too deep"
        raise CheckpointError(
            f"{name} in the archive cannot be read: {reason}; unpack the archive, and correct the file"
        ) from None


def _sorted(
    parsers: Iterable[tuple[str, Callable[[], SettingsFile]]], where: str
) -> tuple[list[SettingsFile], list[str]]:
    """Returns files with settings of a WaveRNN, or else those with a usual name; and notes about the others."""
    found: list[SettingsFile] = []
    notes: list[str] = []
    empty: list[SettingsFile] = []
    unread: list[str] = []
    for name, parse in parsers:
        usual = Path(name).name in _USUAL
        try:
            file = parse()
        except CheckpointError:
            if usual:
                raise
            unread.append(printable(name))
            continue
        if (reason := file.foreign) is not None:
            notes.append(f"{file.name} {where} is not used: it is another model's ({reason})")
        elif file.known:
            found.append(file)
        elif usual:
            empty.append(file)
    if found and empty:
        names = ", ".join(file.name for file in empty)
        notes.append(f"{names} {where}: no settings of a WaveRNN, and not used")
    if unread:
        notes.append(f"cannot be read as settings, and not used: {listed(unread, _SHOWN)}")
    return found or empty, notes


def _candidates(folder: Path) -> tuple[list[Path], int]:
    """Returns files beside a checkpoint that may contain settings, and the number of omitted ones."""
    paths = [path for name in _USUAL if (path := folder / name).is_file()]
    left_out = 0
    for pattern in _OTHERS:
        others = [path for path in sorted(folder.glob(pattern)) if path.name not in _USUAL and path not in paths]
        paths += [path for path in others[:_MOST_FILES] if path.is_file()]
        left_out += len(others[_MOST_FILES:])
    return paths, left_out


def named_settings(given: object) -> SettingsFile:
    """Returns the settings file that the user names.

    Raises:
        CheckpointError: it does not exist or cannot be parsed.
    """
    if not isinstance(given, str | Path):
        raise CheckpointError(f"config: found {given!r}, expected the path of a settings file")
    path = Path(given)
    if path.is_dir():
        raise CheckpointError(f"config: {path} is a folder, expected a settings file; give the file inside it")
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
        return parse_settings(path.name, _decoded(path.name, path.read_bytes()))
    except CheckpointError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or "it is nested too deep"
        raise CheckpointError(
            f"{path} cannot be read: {reason}; correct the file, or name another with config"
        ) from None


def parse_settings(name: str, text: str) -> SettingsFile:
    """Parses the text of a settings file; see `parse_settings_file`.

    Raises:
        CheckpointError: PyYAML is missing, or the text does not hold an object.
        Exception: the parsers' own errors.
    """
    computed: tuple[str, ...] = ()
    values: Any
    suffix = Path(name).suffix.lower()
    if not text.strip():
        raise ValueError("it is empty")
    if suffix == ".py":
        values, computed = read_python_settings(text)
    elif suffix in (".yaml", ".yml"):
        try:
            values = read_yaml_settings(text)
        except ImportError:
            raise CheckpointError(f"{name} is YAML, which needs PyYAML: pip install pyyaml") from None
    else:
        # Configurations from Coqui's earlier days hold comments.
        text = _STRING_OR_COMMENT.sub(lambda match: match[1] or "", text)
        values = json.loads(text, object_pairs_hook=_object)
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{name}: found {type(values).__name__}, expected an object with the model's settings")
    if not values.keys().isdisjoint({"wandb_version", "_wandb"}):
        # Weights & Biases writes {name: {desc: ..., value: ...}}.
        values = {
            key: item["value"] if isinstance(item, Mapping) and "value" in item else item
            for key, item in values.items()
            if key not in ("wandb_version", "_wandb")
        }
    return SettingsFile(printable(name), with_nulls(values), computed)


def _decoded(name: str, content: bytes) -> str:
    """Decodes UTF-8, UTF-16 with its mark, or the encoding that a Python file declares."""
    encoding = "utf-8-sig"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif name.lower().endswith(".py"):
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not {error.encoding}; save it as UTF-8") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values and values[name] != value:
            raise ValueError(f"{name} is stated twice, with two values")
        values[name] = value
    return values


def with_nulls(value: Any) -> Any:
    """Returns the values with the words ``none``, ``null`` and ``None`` as ``None``, and tuples as lists.

    Raises:
        ValueError: objects are nested too deep, or there are too many values.
    """
    return walk(value, lambda leaf: None if is_null(leaf) else leaf)


def is_null(value: object) -> bool:
    """Whether a value is a null, or a word for it."""
    return value is None or (isinstance(value, str) and value.strip().lower() in ("none", "null", "~"))


def _keys(values: Mapping[Any, Any], inside: frozenset[str] | None = SECTIONS) -> Iterator[str]:
    """Yields all keys at the top and inside sections with these names; ``None`` is any name."""
    for key, value in values.items():
        yield str(key)
        if isinstance(value, Mapping) and (inside is None or key in inside):
            yield from _keys(value, inside)
