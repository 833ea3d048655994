"""How a loaded model is pickled: where it is, the hashes of its files, and how it was loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.export.model_directory import MANIFEST, file_sha256, read_manifest
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.load_options import LoadOptions

_SHOWN = 12
"""Characters of a hash in a message."""


@dataclass(frozen=True)
class ModelReference:
    """What another process needs to load the same model with the same backend."""

    path: Path
    """Of the model directory or checkpoint; absolute."""
    files: Mapping[str, str]
    """SHA-256 of each of the model's files when it was loaded, see `file_hashes`."""
    model: ModelConfig
    audio: AudioConfig
    engine: str | None
    """The plan or kernel that was opened."""
    options: LoadOptions
    """What to load it with; ``backend`` is the one that was opened, also where ``auto`` was asked for."""

    def check_files(self) -> None:
        """Checks that the files are those of the model that was pickled.

        Raises:
            VocoderError: another model is at that path.
        """
        found = file_hashes(self.path)
        for name in sorted({*found, *self.files}):
            have, want = found.get(name), self.files.get(name)
            if have != want:
                raise VocoderError(
                    f"{self.path}: found another model than the vocoder was pickled from: {name} has SHA-256 "
                    f"{_shown(have)}, expected {_shown(want)}; pickle a vocoder of the model that is there now, or "
                    "put the other one back"
                )

    def check_opened(self, model: ModelConfig, audio: AudioConfig, engine: str | None) -> None:
        """Checks that what was opened is what was pickled.

        Raises:
            VocoderError: other settings (of a checkpoint, they may lie in a file beside it), or another engine.
        """
        for name, found, expected in (
            ("engine", engine, self.engine),
            ("model settings", model, self.model),
            ("audio settings", audio, self.audio),
        ):
            if found != expected:
                raise VocoderError(
                    f"{self.path}: found {name} {found}, expected {expected}, with which the vocoder was pickled"
                )


def file_hashes(path: Path) -> dict[str, str]:
    """SHA-256 of a model's files by name: those that a model directory's manifest lists, or a checkpoint's own.

    Raises:
        ModelDirectoryError: the manifest cannot be read.
    """
    if path.is_file():
        return {path.name: file_sha256(path)}
    manifest = path / MANIFEST
    if not manifest.is_file():
        return {}
    return {name: str(entry.get("sha256")) for name, entry in read_manifest(manifest).items()}


def _shown(digest: str | None) -> str:
    return "none, as it is not there" if digest is None else f"{digest[:_SHOWN]}…"
