"""What the scenarios speak: utterances of mixed lengths, cut and joined from mels that are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.files.audio import read_audio, read_mel
from wavernn_trt.runtime.files.input_files import describe_inputs, find_files, is_mel
from wavernn_trt.runtime.jobs.manifest import MANIFEST_SUFFIX, read_manifest
from wavernn_trt.runtime.mel import check_mel
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.vocoder import Vocoder, shipped_voice

_NOISE_SECONDS = 10.0
_MOST_SECONDS = 1200.0
"""Of mels that are read: 30 MB of 80 bands at 80 frames a second."""


@dataclass(frozen=True)
class Speech:
    """Mels to cut utterances from, one after the other."""

    mel: FloatArray
    """[n_mels, frames]; whoever needs more frames begins again at its beginning."""
    source: str
    """What it is, for people."""

    def cut(self, first: int, frames: int) -> FloatArray:
        """So many frames from one on."""
        return self.mel[:, (first + np.arange(frames)) % self.mel.shape[1]]


@dataclass(frozen=True)
class Mixture(Sequence[Request]):
    """Utterances whose lengths are spread evenly in their logarithm. Each is cut when it is asked for."""

    speech: Speech
    first: tuple[int, ...]
    frames: tuple[int, ...]

    def __len__(self) -> int:
        """How many utterances."""
        return len(self.frames)

    def __getitem__(self, number: int) -> Request:  # type: ignore[override]
        """One utterance; its seed is its number."""
        return Request(self.speech.cut(self.first[number], self.frames[number]), number)

    def __iter__(self) -> Iterator[Request]:
        """All of them, one at a time."""
        return map(self.__getitem__, range(len(self)))


def mix(
    vocoder: Vocoder, speech: Speech, utterances: int, shortest: float, longest: float, *, seed: int = 0
) -> Mixture:
    """Lays out utterances; the same arguments give the same.

    Args:
        vocoder: says how long a frame is.
        speech: what to cut them from.
        utterances: how many.
        shortest: seconds.
        longest: seconds.
        seed: of lengths and places.
    """
    audio = vocoder.config.audio
    random = np.random.default_rng(seed)
    seconds = np.exp(random.uniform(np.log(shortest), np.log(longest), utterances))
    frames = np.maximum(1, np.rint(seconds * audio.sample_rate / audio.hop_length)).astype(int)
    return Mixture(speech, tuple(random.integers(0, speech.mel.shape[1], utterances).tolist()), tuple(frames.tolist()))


def find_speech(vocoder: Vocoder, paths: Sequence[Path]) -> Speech:
    """Mels from files; without any, the shipped voice's sample, or noise for other models.

    Args:
        vocoder: whose mels; recordings are analysed as it wants them.
        paths: mels, recordings, folders of them and manifests, as ``vocode`` takes them.

    Raises:
        VocoderError: a file cannot be read, or is no mel of this model.
    """
    if paths:
        return _read_speech(vocoder, paths)
    sample = shipped_voice().parent / "sample_mel.npy"
    if vocoder.config.path.resolve() == shipped_voice().resolve() and sample.is_file():
        return Speech(check_mel(read_mel(sample), vocoder.config.audio), "the sample that is shipped")
    return Speech(noise_mel(vocoder, _NOISE_SECONDS), "noise over the model's range")


def noise_mel(vocoder: Vocoder, seconds: float) -> FloatArray:
    """A mel spectrogram of at least so many seconds, noise over the model's range."""
    audio = vocoder.config.audio
    low, high = (-11.0, 2.0) if audio.log == "natural" else audio.mel_range
    frames = max(1, round(seconds * audio.sample_rate / audio.hop_length))
    return np.random.default_rng(0).uniform(low, high, (audio.n_mels, frames)).astype(np.float32)


def _read_speech(vocoder: Vocoder, paths: Sequence[Path]) -> Speech:
    audio = vocoder.config.audio
    most = round(_MOST_SECONDS * audio.sample_rate / audio.hop_length)
    mels: list[FloatArray] = []
    for file in _files(paths):
        if sum(mel.shape[1] for mel in mels) >= most:
            break
        try:
            mel = read_mel(file) if is_mel(file) else vocoder.mel(*read_audio(file))
            mels.append(check_mel(mel, audio))
        except VocoderError as error:
            named = str(error) if str(error).startswith(str(file)) else f"{file}: {error}"
            raise VocoderError(f"--mels: {named}") from None
    joined = np.concatenate(mels, axis=1)
    seconds = joined.shape[1] * audio.hop_length / audio.sample_rate
    return Speech(joined, f"{seconds:.0f} s of {len(mels)} {'file' if len(mels) == 1 else 'files'}")


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
