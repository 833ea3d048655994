"""Load of the scenarios ``batch``, ``stream`` and ``mixed``: options, and utterances cut from mels or files."""

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
"""Most speech that is read: 30 MB of mels with 80 bands at 80 frames a second."""
_SAMPLE = "the sample that is shipped"
"""Part of reports: ``--compare`` needs equal texts."""


@dataclass(frozen=True)
class ScenarioOptions:
    """Size of a load; each scenario uses some of the options."""

    batch: int | None = 32
    """Slots; ``None`` is the executor's number."""
    lanes: int | None = None
    """``None`` is the executor's default."""
    mels: Sequence[Path] = ()
    """Files from which utterances are cut; see `find_speech`."""
    lengths: tuple[float, float] = (0.2, 20.0)
    """Shortest and longest utterance of a job (of a listener with ``stream``), in seconds."""
    utterances: int = 128
    """Utterances of a batch job."""
    verify: int | Literal["all"] = 16
    """Utterances of a job that are decoded again alone; ``all``: the beginnings of all, and some to their end."""
    listeners: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Numbers of listeners at the same time."""
    seconds: float = 10.0
    """Duration with each number of listeners; of ``mixed``, of each repeat with and without listeners."""
    repeats: int = 2
    """Repeats of ``mixed``."""
    buffer: float = 0.0
    """Seconds between a listener's first frame and the beginning of its playback."""
    openings: int = 50
    """Streams opened one at a time to measure the time to the first frame."""


@dataclass(frozen=True)
class Speech:
    """One long mel, from which utterances are cut."""

    mel: FloatArray
    """[n_mels, frames]; after its end it starts again."""
    source: str
    """Its origin, for reports."""

    def cut(self, first: int, frames: int) -> FloatArray:
        """Returns ``frames`` frames from frame ``first`` on."""
        return self.mel[:, (first + np.arange(frames)) % self.mel.shape[1]]


@dataclass(frozen=True)
class Mixture(Sequence[Request]):
    """Utterances whose lengths are uniform in their logarithm. Each is cut from the mel when it is read."""

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
    """Chooses random lengths (between two numbers of seconds) and positions of utterances; ``seed`` repeats them."""
    audio = vocoder.config.audio
    random = np.random.default_rng(seed)
    seconds = np.exp(random.uniform(np.log(lengths[0]), np.log(lengths[1]), utterances))
    frames = np.maximum(1, np.rint(seconds * audio.sample_rate / audio.hop_length)).astype(int)
    return Mixture(speech, tuple(random.integers(0, speech.mel.shape[1], utterances).tolist()), tuple(frames.tolist()))


def find_speech(vocoder: Vocoder, paths: Sequence[Path]) -> Speech:
    """Reads mels from files; without any, takes the shipped voice's sample, or noise for other models.

    Args:
        vocoder: of the model, whose settings are used to analyse recordings.
        paths: mels, recordings, folders of them and manifests, as for ``vocode``.

    Raises:
        VocoderError: a file cannot be read, or its mel does not fit the model.
    """
    audio = vocoder.config.audio
    if not paths:
        sample = shipped_voice().parent / "sample_mel.npy"
        if vocoder.config.path.resolve() == shipped_voice().resolve() and sample.is_file():
            return Speech(check_mel(read_mel(sample), audio), _SAMPLE)
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
    """Makes a mel spectrogram [n_mels, frames] of noise over the model's range."""
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
