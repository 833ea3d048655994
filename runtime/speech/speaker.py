"""`Speaker`: text to speech with an acoustic model and a WaveRNN vocoder."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.loaded_model import shipped_voice
from wavernn_trt.runtime.speech.acoustic_model import AcousticModel, ConvolutionalAcousticModel, Prosody
from wavernn_trt.runtime.speech.audio_match import conversion
from wavernn_trt.runtime.speech.front_end import EnglishFrontEnd, FrontEnd, Sentence
from wavernn_trt.runtime.streaming.audio_stream import AudioStream
from wavernn_trt.runtime.vocoder import Vocoder

VOICES = shipped_voice().parent
DEFAULT_VOICE = "heart"
_AHEAD = 2
"""Sentences whose decoding has begun while the first of them is read."""


@dataclass(frozen=True)
class Timing:
    """When a word or a phoneme is spoken, in seconds from the beginning of the speech."""

    text: str
    start: float
    stop: float


@dataclass(frozen=True)
class Controls:
    """How a text is spoken."""

    seed: int = 0
    """Of the vocoder's random numbers, 0 … 2**64 - 1; each sentence has a seed of its own, derived from it."""
    speed: float = 1.0
    """Factor of the speed, 0.25 to 4."""
    pitch: float = 1.0
    """Factor of the fundamental frequency, 0.5 to 2."""

    def __post_init__(self) -> None:
        """Raises a VocoderError for a value outside of its range."""
        for name, low, high in (("seed", 0, 2**64 - 1), ("speed", 0.25, 4), ("pitch", 0.5, 2)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise VocoderError(f"{name}: found {value!r}, expected {low} to {high}")


DEFAULT_CONTROLS = Controls()


@dataclass(frozen=True)
class SpokenSentence:
    """A sentence with its speech."""

    text: str
    waveform: FloatArray
    """float32 [samples]."""
    words: tuple[Timing, ...]
    phonemes: tuple[Timing, ...]


@dataclass(frozen=True)
class Speech:
    """A spoken text."""

    waveform: FloatArray
    """float32 [samples]."""
    sample_rate: int
    words: tuple[Timing, ...]
    phonemes: tuple[Timing, ...]


@dataclass
class _Beginning:
    """A sentence whose decoding has begun."""

    sentence: Sentence
    prosody: Prosody
    start: int
    """Frames before it."""
    stream: AudioStream


class Speaker:
    """Speaks texts. It is thread-safe; sentences of all threads are decoded together.

    The speech of a text depends on the text, the controls and the installation, and never on how the text arrives,
    on what else is spoken, or on whether it is streamed.
    """

    def __init__(self, front_end: FrontEnd, acoustic: AcousticModel, vocoder: Vocoder) -> None:
        """Makes a speaker from its parts; usually `load` is called instead.

        Raises:
            VocoderError: the vocoder reads other mels than the acoustic model computes.
        """
        self.front_end = front_end
        self.acoustic = acoustic
        self.vocoder = vocoder
        self._convert = conversion(acoustic.audio, vocoder.config.audio)

    @classmethod
    def load(cls, voice: str | Path | None = None, backend: str = "auto", *, threads: int | None = None) -> Speaker:
        """Loads a voice.

        Args:
            voice: name of a shipped voice, or path of a voice file: JSON with the paths ``acoustic`` and ``vocoder``,
                relative to the file. ``None`` is the default voice.
            backend: the vocoder's, see `Vocoder.load`.
            threads: CPU threads of the vocoder, see `Vocoder.load`.

        Raises:
            ValueError: the voice or one of its models is missing or damaged, or packages are missing.
        """
        acoustic, vocoder = read_voice(voice or DEFAULT_VOICE)
        front_end = EnglishFrontEnd()
        return cls(
            front_end, ConvolutionalAcousticModel.load(acoustic), Vocoder.load(vocoder, backend, threads=threads)
        )

    @property
    def sample_rate(self) -> int:
        """Of the speech, in Hz."""
        return self.vocoder.sample_rate

    def speak(self, text: str | Iterable[str], controls: Controls = DEFAULT_CONTROLS) -> Speech:
        """Speaks a text.

        Args:
            text: English; or its pieces, cut anywhere.
            controls: seed, speed and pitch.

        Raises:
            ValueError: the text is empty or has nothing that can be read.
            VocoderError: the vocoder failed.
        """
        spoken = list(self.sentences(text, controls))
        words, phonemes = (
            tuple(one for part in spoken for one in getattr(part, name)) for name in ("words", "phonemes")
        )
        return Speech(np.concatenate([part.waveform for part in spoken]), self.sample_rate, words, phonemes)

    def sentences(self, text: str | Iterable[str], controls: Controls = DEFAULT_CONTROLS) -> Iterator[SpokenSentence]:
        """Speaks a text of any length sentence by sentence; see `speak`."""
        for one in self._begun(text, controls):
            waveform = np.concatenate(list(one.stream))
            yield SpokenSentence(one.sentence.text, waveform, self._words(one), self._phonemes(one))

    def stream(self, text: str | Iterable[str], controls: Controls = DEFAULT_CONTROLS) -> Iterator[FloatArray]:
        """Speaks a text as a stream of PCM frames, float32 [samples] of 20 ms or, at a sentence's end, shorter.

        The first sentence's speech begins before its end is computed. Joined, the frames equal the result of `speak`.
        Closing the iterator ends the decoding.
        """
        for one in self._begun(text, controls):
            yield from one.stream

    def close(self) -> None:
        """Closes the vocoder."""
        self.vocoder.close()

    def __enter__(self) -> Speaker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begun(self, text: str | Iterable[str], controls: Controls) -> Iterator[_Beginning]:
        """Yields the sentences of a text in their order; decoding of those that follow has begun."""
        ahead: deque[_Beginning] = deque()
        frames = 0
        try:
            for index, sentence in enumerate(self.front_end.sentences(text)):
                prosody = self.acoustic.prosody(sentence.phonemes).scaled(controls.speed, controls.pitch)
                mel = map(self._convert, self.acoustic.mel(prosody))
                stream = self.vocoder.stream(mel, seed=sentence_seed(controls.seed, index))
                ahead.append(_Beginning(sentence, prosody, frames, stream))
                frames += prosody.frames
                if len(ahead) == _AHEAD:
                    yield ahead[0]
                    ahead.popleft()
            while ahead:
                yield ahead[0]
                ahead.popleft()
        finally:
            for one in ahead:
                one.stream.close()

    def _words(self, one: _Beginning) -> tuple[Timing, ...]:
        found = []
        for word in one.sentence.words:
            inside = [n for n, place in enumerate(one.prosody.places) if word.start <= place < word.stop]
            if inside:
                found.append(self._timing(one, word.text, inside[0], inside[-1]))
        return tuple(found)

    def _phonemes(self, one: _Beginning) -> tuple[Timing, ...]:
        return tuple(self._timing(one, symbol, n, n) for n, symbol in enumerate(one.prosody.symbols))

    def _timing(self, one: _Beginning, text: str, first: int, last: int) -> Timing:
        ends = one.prosody.ends
        begin = int(ends[first - 1]) if first else 0
        second = self.acoustic.audio.hop_length / self.sample_rate
        return Timing(text, (one.start + begin) * second, (one.start + int(ends[last])) * second)


def sentence_seed(seed: int, index: int) -> int:
    """Returns the seed of a text's sentence: 64 bits that depend on the text's seed and the sentence's index."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])


def read_voice(voice: str | Path) -> tuple[Path, Path]:
    """Returns the directories of a voice's acoustic model and vocoder.

    Args:
        voice: see `Speaker.load`.

    Raises:
        VocoderError: there is no such voice, or its file is not valid.
    """
    path = Path(voice)
    if path.suffix != ".json":
        path = VOICES / f"{voice}.json"
        if not path.is_file():
            names = ", ".join(sorted(file.stem for file in VOICES.glob("*.json")))
            raise VocoderError(f"voice: found {str(voice)!r}, expected {names}, or the path of a voice file (*.json)")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        acoustic, vocoder = (path.parent / str(values[name]) for name in ("acoustic", "vocoder"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VocoderError(f"{path}: expected JSON with the paths 'acoustic' and 'vocoder' ({error})") from None
    return acoustic, vocoder
