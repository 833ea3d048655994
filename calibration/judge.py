"""Judges pitch, voicing and intelligibility of a model's output, with librosa and pocketsphinx (extra ``judge``)."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.arrays import DoubleArray, FloatArray
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.files.audio import resample
from wavernn_trt.runtime.streaming.pcm import to_int16

_LOWEST, _HIGHEST = 60.0, 500.0
"""Hz: range of pitch."""
_FRAME_SECONDS = 0.0125
_RECOGNISED_RATE = 16000
"""Hz: rate of pocketsphinx's English model."""


@dataclass(frozen=True)
class Judgement:
    """Sums over one or more recordings."""

    frames: int = 0
    """Of 12.5 ms."""
    misvoiced: int = 0
    """Frames that are voiced in only one of output and recording."""
    voiced: int = 0
    """Frames that are voiced in both."""
    squared_cents: float = 0.0
    """Squared differences of their fundamental frequencies, in cents."""
    words: int = 0
    """In the texts."""
    wrong: int = 0
    """Words substituted, left out or inserted where the output is recognised."""
    wrong_in_recording: int = 0

    def __add__(self, other: Judgement) -> Judgement:
        names = [field.name for field in dataclasses.fields(self)]
        return Judgement(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def measures(self) -> dict[str, float | None]:
        """Returns the measures by name; ``None`` for those that were not taken.

        ``f0_error_cents``: root mean square. ``voicing_error``: share of frames. ``words_wrong`` and
        ``recording_words_wrong``: word error rates of output and recording.
        """
        return {
            "f0_error_cents": math.sqrt(self.squared_cents / self.voiced) if self.voiced else None,
            "voicing_error": self.misvoiced / self.frames if self.frames else None,
            "words_wrong": self.wrong / self.words if self.words else None,
            "recording_words_wrong": self.wrong_in_recording / self.words if self.words else None,
        }


class Judge:
    """Compares outputs with recordings. Keeps what was found in each recording, for several outputs of it."""

    def __init__(self) -> None:
        """Raises a VocoderError if a package of the extra ``judge`` is missing."""
        try:
            import jiwer as jiwer
            import librosa as librosa
            import pocketsphinx as pocketsphinx
        except ImportError as error:
            raise VocoderError(
                f"judging needs {error.name}; install it with: pip install '.[judge]' in a clone of the project"
            ) from None
        self._recordings: dict[bytes, tuple[DoubleArray, str]] = {}

    def judge(self, output: FloatArray, original: FloatArray, sample_rate: int, text: str | None) -> Judgement:
        """Judges an output.

        Args:
            output: float32 [samples].
            original: float32 [samples], the recording, aligned with ``output``.
            sample_rate: Hz.
            text: spoken in the recording, English; ``None`` judges no words.
        """
        key = hashlib.sha256(original.tobytes()).digest()
        if key not in self._recordings:
            self._recordings[key] = pitch(original, sample_rate), recognise(original, sample_rate) if text else ""
        expected, heard = self._recordings[key]
        found = pitch(output, sample_rate)
        both = ~np.isnan(expected) & ~np.isnan(found)
        cents = 1200 * np.log2(found[both] / expected[both])
        words, wrong, wrong_in_recording = 0, 0, 0
        if text:
            words, wrong = count_wrong(text, recognise(output, sample_rate))
            _, wrong_in_recording = count_wrong(text, heard)
        return Judgement(
            frames=len(expected),
            misvoiced=int((np.isnan(expected) != np.isnan(found)).sum()),
            voiced=int(both.sum()),
            squared_cents=float(np.square(cents).sum()),
            words=words,
            wrong=wrong,
            wrong_in_recording=wrong_in_recording,
        )


def pitch(waveform: FloatArray, sample_rate: int) -> DoubleArray:
    """Returns the fundamental frequency in Hz every 12.5 ms, by pYIN; NaN where unvoiced. Needs librosa."""
    import librosa

    frequencies: NDArray[np.float64] = librosa.pyin(
        np.asarray(waveform, np.float32),
        fmin=_LOWEST,
        fmax=_HIGHEST,
        sr=sample_rate,
        frame_length=1 << round(sample_rate / 16).bit_length(),
        hop_length=round(_FRAME_SECONDS * sample_rate),
    )[0]
    return frequencies


def recognise(waveform: FloatArray, sample_rate: int) -> str:
    """Returns the English words that pocketsphinx recognises, independent of earlier calls."""
    import pocketsphinx

    decoder = pocketsphinx.Decoder(samprate=_RECOGNISED_RATE, loglevel="FATAL")
    decoder.start_utt()
    decoder.process_raw(to_int16(resample(waveform, sample_rate, _RECOGNISED_RATE)).tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return hypothesis.hypstr if hypothesis else ""


def count_wrong(text: str, recognised: str) -> tuple[int, int]:
    """Returns the number of words in a text, and the smallest number of edits that makes them the recognised ones."""
    import jiwer

    words, others = (re.findall(r"[a-z0-9']+", each.lower()) for each in (text, recognised))
    if not words:
        return 0, 0
    compared = jiwer.process_words(" ".join(words), " ".join(others))
    return len(words), compared.substitutions + compared.deletions + compared.insertions


def read_transcripts(path: Path) -> Mapping[str, str]:
    """Reads the texts of recordings in the layout of LJ Speech: ``NAME|text``, or ``NAME|text|normalised text``.

    Returns:
        Name of a recording, without folder and suffix -> the last text of its line.

    Raises:
        VocoderError: a line is not of that layout, or a name has two.
        OSError: the file cannot be read.
    """
    texts: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise VocoderError(f"{path}: expected UTF-8 text ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, *columns = line.split("|")
        if not columns or not columns[-1].strip():
            raise VocoderError(f"{path}: line {number}: expected 'NAME|text' or 'NAME|text|normalised text'")
        if name in texts:
            raise VocoderError(f"{path}: line {number}: found a second text for {name}")
        texts[name] = columns[-1].strip()
    return texts
