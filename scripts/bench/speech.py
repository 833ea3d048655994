"""The load of the scenarios ``batch``, ``stream`` and ``mixed``: its options, and utterances cut from mels or files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.protocol import FloatArray
from wavernn_trt.runtime.files.audio import read_audio, read_mel
from wavernn_trt.runtime.files.input_files import describe_inputs, find_files, is_mel
from wavernn_trt.runtime.jobs.manifest import MANIFEST_SUFFIX, read_manifest
from wavernn_trt.runtime.loaded_model import shipped_voice
from wavernn_trt.runtime.mel import check_mel
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.vocoder import Vocoder

_NOISE_SECONDS = 10.0
_MOST_SECONDS = 1200.0
"""Of mels that are read: 30 MB of 80 bands at 80 frames a second."""


@dataclass(frozen=True)
class ScenarioOptions:
    """Size of a load; a scenario ignores what it does not use."""

    batch: int | None = 32
    """Slots; ``None`` is what the executor has."""
    lanes: int | None = None
    """``None`` is what suits the executor."""
    mels: Sequence[Path] = ()
    """Files that utterances are cut from; see `find_speech`."""
    lengths: tuple[float, float] = (0.2, 20.0)
    """Shortest and longest utterance of a job (of a listener with ``stream``), in seconds."""
    utterances: int = 128
    """In a batch job."""
    verify: int | Literal["all"] = 16
    """Utterances of a job that are decoded again alone; ``all`` is the beginnings of all, and some to their end."""
    listeners: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Numbers of listeners at a time."""
    seconds: float = 10.0
    """Of each number of listeners; with ``mixed`` of each repeat with listeners, and as long without."""
    repeats: int = 2
    """Of ``mixed``."""
    buffer: float = 0.0
    """Seconds that a listener waits after its first frame before it begins to play."""
    openings: int = 50
    """Streams that are opened one after the other, alone, for the time to the first frame."""


@dataclass(frozen=True)
class Speech:
    """Mels to cut utterances from, joined."""

    mel: FloatArray
    """[n_mels, frames]; its beginning follows its end."""
    source: str
    """Where it comes from, for reports."""

    def cut(self, first: int, frames: int) -> FloatArray:
        """A number of frames from one on."""
        return self.mel[:, (first + np.arange(frames)) % self.mel.shape[1]]


@dataclass(frozen=True)
class Mixture(Sequence[Request]):
    """Utterances whose lengths are spread evenly in their logarithm. Each is cut when it is read."""

    speech: Speech
    first: tuple[int, ...]
    frames: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, number: int) -> Request:  # type: ignore[override]
        return Request(self.speech.cut(self.first[number], self.frames[number]), number)

    def __iter__(self) -> Iterator[Request]:
        return map(self.__getitem__, range(len(self)))


def mix(vocoder: Vocoder, speech: Speech, utterances: int, lengths: tuple[float, float], *, seed: int = 0) -> Mixture:
    """Chooses utterances; equal arguments give equal ones.

    Args:
        vocoder: its model has the length of a frame.
        speech: what to cut them from.
        utterances: how many.
        lengths: seconds of the shortest and the longest.
        seed: of lengths and places.
    """
    audio = vocoder.config.audio
    random = np.random.default_rng(seed)
    seconds = np.exp(random.uniform(np.log(lengths[0]), np.log(lengths[1]), utterances))
    frames = np.maximum(1, np.rint(seconds * audio.sample_rate / audio.hop_length)).astype(int)
    return Mixture(speech, tuple(random.integers(0, speech.mel.shape[1], utterances).tolist()), tuple(frames.tolist()))


def find_speech(vocoder: Vocoder, paths: Sequence[Path]) -> Speech:
    """Mels from files; without any, the shipped voice's sample, or noise for other models.

    Args:
        vocoder: of the model; recordings are analysed with its settings.
        paths: mels, recordings, folders of them and manifests, as ``vocode`` takes them.

    Raises:
        VocoderError: a file cannot be read, or is no mel of this model.
    """
    audio = vocoder.config.audio
    if not paths:
        sample = shipped_voice().parent / "sample_mel.npy"
        if vocoder.config.path.resolve() == shipped_voice().resolve() and sample.is_file():
            return Speech(check_mel(read_mel(sample), audio), "the sample that is shipped")
        return Speech(noise_mel(vocoder, _NOISE_SECONDS), "noise over the model's range")
    most = round(_MOST_SECONDS * audio.sample_rate / audio.hop_length)
    mels: list[FloatArray] = []
    for file in _files(paths):
        if sum(mel.shape[1] for mel in mels) >= most:
            break
        try:
            mels.append(check_mel(read_mel(file) if is_mel(file) else vocoder.mel(*read_audio(file)), audio))
        except VocoderError as error:
            named = str(error) if str(error).startswith(str(file)) else f"{file}: {error}"
            raise VocoderError(f"--mels: {named}") from None
    joined = np.concatenate(mels, axis=1)
    seconds = joined.shape[1] * audio.hop_length / audio.sample_rate
    return Speech(joined, f"{seconds:.0f} s of {len(mels)} {'file' if len(mels) == 1 else 'files'}")


def noise_mel(vocoder: Vocoder, seconds: float) -> FloatArray:
    """A mel spectrogram of some seconds, noise over the model's range, [n_mels, frames]."""
    audio = vocoder.config.audio
    low, high = (-11.0, 2.0) if audio.log == "natural" else audio.mel_range
    frames = max(1, round(seconds * audio.sample_rate / audio.hop_length))
    return np.random.default_rng(0).uniform(low, high, (audio.n_mels, frames)).astype(np.float32)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            found, _ = find_files(path)
            if not found:
                raise VocoderError(f"--mels: {path}: found no {describe_inputs()} in this folder")
            yield from found
        elif path.suffix.lower() == MANIFEST_SUFFIX:
            for entry in read_manifest(path):
                yield path.parent / (entry if isinstance(entry, str) else entry[0])
        else:
            yield path
