"""`ModelReference`: the pickled form of a loaded model, with its path, file hashes and load options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wavernn_trt.export.config import AudioConfig, ModelConfig
from wavernn_trt.export.model_directory import MANIFEST, file_sha256, read_manifest
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.load_options import LoadOptions

_SHOWN = 12
"""Number of characters of a hash in messages."""


@dataclass(frozen=True)
class ModelReference:
    """Data with which another process loads the same model with the same backend."""

    path: Path
    """Absolute path of the model directory or checkpoint."""
    files: Mapping[str, str]
    """SHA-256 of each model file at load time, see `file_hashes`."""
    model: ModelConfig
    audio: AudioConfig
    engine: str | None
    """Name of the plan or kernel that was loaded."""
    options: LoadOptions
    """Load options; ``backend`` is the loaded one, also if ``auto`` was requested."""

    def check_files(self) -> None:
        """Checks that the files are those of the pickled model.

        Raises:
            VocoderError: the files at that path differ.
        """
        found = file_hashes(self.path)
        for name in sorted({*found, *self.files}):
            have, want = found.get(name), self.files.get(name)
            if have != want:
                raise VocoderError(
                    f"{self.path}: found another model than the vocoder was pickled from: {name} has SHA-256 "
                    f"{_shown(have)}, expected {_shown(want)}; pickle a vocoder of the current model, or "
                    "restore the previous files"
                )

    def check_opened(self, model: ModelConfig, audio: AudioConfig, engine: str | None) -> None:
        """Checks that settings and engine are those of the pickled model.

        Raises:
            VocoderError: the settings differ (a checkpoint may have them in a separate file), or the engine does.
        """
        for name, found, expected in (
            ("engine", engine, self.engine),
            ("model settings", model, self.model),
            ("audio settings", audio, self.audio),
        ):
            if found != expected:
                raise VocoderError(f"{self.path}: found {name} {found}, expected {expected} as in the pickled vocoder")


def file_hashes(path: Path) -> dict[str, str]:
    """Returns the SHA-256 of a model's files by name: the entries of a directory's manifest, or the checkpoint file.

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
    return "none (it is not there)" if digest is None else f"{digest[:_SHOWN]}…"
