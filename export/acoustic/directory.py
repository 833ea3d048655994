"""Directory of an acoustic model: the networks as ONNX graphs, ``config.json``, and a manifest with hashes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavernn_trt.export.config import AudioConfig, require
from wavernn_trt.export.model_directory import CONFIG, MANIFEST, ModelDirectoryError, read_listed, read_manifest
from wavernn_trt.export.typed_json import from_json

ENCODER, FRAMES = "encoder.onnx", "frames.onnx"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class AcousticConfig:
    """What a caller of the graphs has to know."""

    language: str
    """Language of the phonemes, as in BCP 47."""
    symbols: tuple[str, ...]
    """The symbol of each number from 1 on; 0 is outside of the sentence."""
    hidden: int
    """Values of a phoneme's hidden row."""
    encoder_margin: int
    """Phonemes outside of the sentence on each side of the encoder's input."""
    frame_margin: int
    """Frames that the frames' network reads on each side of its output."""
    energy_deviation: float
    """Standard deviation of phonemes' energy, as a share of the mel's range."""

    def __post_init__(self) -> None:
        for name in ("hidden", "encoder_margin", "frame_margin"):
            require(getattr(self, name) >= 1, f"acoustic.{name}", getattr(self, name), "at least 1")
        require(0 < self.energy_deviation < 1, "acoustic.energy_deviation", self.energy_deviation, "0 to 1")
        single = all(len(symbol) == 1 for symbol in self.symbols) and len(set(self.symbols)) == len(self.symbols)
        require(single and bool(self.symbols), "acoustic.symbols", self.symbols, "different characters")


@dataclass(frozen=True)
class AcousticDirectory:
    """An acoustic model's directory whose configuration is valid."""

    path: Path
    acoustic: AcousticConfig
    audio: AudioConfig
    source: dict[str, Any]
    """Origin of the weights and their licence."""

    def graph(self, name: str) -> bytes:
        """Returns the content of `ENCODER` or `FRAMES` after checking its hash; raises a ModelDirectoryError."""
        return read_listed(self.path, name)


def write_acoustic_config(path: Path, config: AcousticConfig, audio: AudioConfig, source: dict[str, Any]) -> None:
    """Writes ``config.json`` into a directory under construction."""
    values = {
        "schema_version": SCHEMA_VERSION,
        "acoustic": dataclasses.asdict(config),
        "audio": dataclasses.asdict(audio),
        "source": source,
    }
    (path / CONFIG).write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def open_acoustic_directory(path: str | Path) -> AcousticDirectory:
    """Reads an acoustic model's configuration.

    Raises:
        ModelDirectoryError: the directory is none of an acoustic model, or its configuration is damaged or invalid.
    """
    path = Path(path)
    missing = [name for name in (ENCODER, FRAMES, CONFIG) if name not in read_manifest(path / MANIFEST)]
    if missing:
        raise ModelDirectoryError(f"{path / MANIFEST} does not list {missing[0]}, expected an acoustic model")
    try:
        values = json.loads(read_listed(path, CONFIG))
        if values.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(
                f"schema version {values.get('schema_version')!r}, this wavernn-trt reads {SCHEMA_VERSION}"
            )
        acoustic = from_json(AcousticConfig, values.get("acoustic"), "acoustic")
        audio = from_json(AudioConfig, values.get("audio"), "audio")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ModelDirectoryError(f"{path / CONFIG}: {error}; export the acoustic model again") from None
    return AcousticDirectory(path, acoustic, audio, dict(values.get("source") or {}))
