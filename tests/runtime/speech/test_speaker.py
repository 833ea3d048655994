"""`Speaker`: equal bits however a text is spoken, timings, controls, and voices."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_voice import SMALL_ACOUSTIC, SMALL_VOICE

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.speech.acoustic_model import ConvolutionalAcousticModel
from wavernn_trt.runtime.speech.front_end import Sentence, Word
from wavernn_trt.runtime.speech.speaker import Controls, Speaker, read_voice, sentence_seed
from wavernn_trt.runtime.vocoder import Vocoder

TEXT = "one two.three and four.five"


class Letters:
    """A front end whose phonemes are the letters; full stops divide sentences."""

    def sentences(self, text: str | Iterable[str]) -> Iterator[Sentence]:
        for part in "".join(text).split("."):
            words, start = [], 0
            for word in part.split(" "):
                words.append(Word(word, start, start + len(word)))
                start += len(word) + 1
            yield Sentence(part, part, tuple(words))


@pytest.fixture(scope="module")
def vocoder() -> Iterator[Vocoder]:
    with Vocoder.load(SMALL_VOICE, "onnxruntime", threads=1) as vocoder:
        yield vocoder


@pytest.fixture(scope="module")
def speaker(vocoder: Vocoder) -> Speaker:
    return Speaker(Letters(), ConvolutionalAcousticModel.load(SMALL_ACOUSTIC), vocoder)


def test_a_stream_joined_is_the_speech(speaker: Speaker) -> None:
    speech = speaker.speak(TEXT, Controls(seed=3))
    assert speech.sample_rate == 16000
    frames = list(speaker.stream(TEXT, Controls(seed=3)))
    assert np.array_equal(np.concatenate(frames), speech.waveform)
    assert max(map(len, frames)) == 320


def test_speech_does_not_depend_on_how_the_text_arrives_or_what_else_is_spoken(speaker: Speaker) -> None:
    expected = speaker.speak(TEXT).waveform
    assert np.array_equal(speaker.speak(iter(TEXT)).waveform, expected)
    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(speaker.speak, text) for text in (TEXT, "another text.more", TEXT)]
        first, other, last = (one.result().waveform for one in done)
    assert np.array_equal(first, expected)
    assert np.array_equal(last, expected)
    assert len(other) != len(expected)


def test_sentences_have_seeds_of_their_own(speaker: Speaker) -> None:
    twice = [one.waveform for one in speaker.sentences("same words.same words")]
    assert len(twice[0]) == len(twice[1])
    assert not np.array_equal(*twice)
    assert not np.array_equal(speaker.speak("same words", Controls(seed=1)).waveform, twice[0])
    assert len({sentence_seed(seed, index) for seed in range(20) for index in range(20)}) == 400


def test_words_and_phonemes_follow_each_other_within_the_speech(speaker: Speaker) -> None:
    speech = speaker.speak(TEXT)
    assert [word.text for word in speech.words] == ["one", "two", "three", "and", "four", "five"]
    assert "".join(phoneme.text for phoneme in speech.phonemes) == "_one two__three and four__five_"
    for timings in (speech.words, speech.phonemes):
        assert all(one.start <= one.stop <= other.start + 1e-9 for one, other in pairwise(timings))
    assert speech.phonemes[0].start == 0
    assert speech.phonemes[-1].stop == pytest.approx(len(speech.waveform) / speech.sample_rate)
    first = [phoneme for phoneme in speech.phonemes if phoneme.text in "one"][:3]
    assert (speech.words[0].start, speech.words[0].stop) == (first[0].start, first[2].stop)


@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_speed_scales_the_duration(speaker: Speaker, speed: float) -> None:
    plain, scaled = speaker.speak("a longer sentence"), speaker.speak("a longer sentence", Controls(speed=speed))
    assert len(scaled.waveform) == pytest.approx(len(plain.waveform) / speed, abs=201)
    assert scaled.words[-1].stop == pytest.approx(plain.words[-1].stop / speed, abs=0.03)


def test_a_stream_that_is_closed_ends_its_decoding(speaker: Speaker, vocoder: Vocoder) -> None:
    stream = speaker.stream("a sentence of many letters that takes a while." * 5)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    until = threading.Event()
    for _ in range(200):
        if not vocoder.statistics().under_way:
            break
        until.wait(0.02)
    assert vocoder.statistics().under_way == 0


def test_sentences_are_read_as_they_are_spoken(speaker: Speaker) -> None:
    """A text without end is spoken with two sentences read ahead."""
    read = []

    class Endless(Letters):
        def sentences(self, text: str | Iterable[str]) -> Iterator[Sentence]:
            while True:
                read.append(text)
                yield from super().sentences("on and on")

    endless = Speaker(Endless(), speaker.acoustic, speaker.vocoder).sentences("")
    for _ in range(5):
        next(endless)
    endless.close()  # type: ignore[attr-defined]
    assert len(read) <= 7


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seed": -1}, "seed: found -1, expected 0 to"),
        ({"speed": 0.1}, "speed: found 0.1, expected 0.25 to 4"),
        ({"pitch": float("nan")}, "pitch: found nan, expected 0.5 to 2"),
    ],
)
def test_controls_out_of_range_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(VocoderError, match=words):
        Controls(**values)


def test_a_voice_file_names_two_models(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({"acoustic": str(SMALL_ACOUSTIC), "vocoder": "deep/voice"}))
    assert read_voice(tmp_path / "mine.json") == (SMALL_ACOUSTIC, tmp_path / "deep" / "voice")
    with pytest.raises(VocoderError, match=r"voice: found 'alto', expected heart, or the path of a voice file"):
        read_voice("alto")
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(VocoderError, match=r"bad\.json: expected JSON with the paths 'acoustic' and 'vocoder'"):
        read_voice(tmp_path / "bad.json")
    with pytest.raises(VocoderError, match=r"none\.json: expected JSON"):
        read_voice(tmp_path / "none.json")


def test_a_vocoder_of_other_mels_is_refused(speaker: Speaker) -> None:
    tiny = Vocoder.load(SMALL_VOICE.parent / "tiny", "onnxruntime", threads=1)
    with tiny, pytest.raises(VocoderError, match=r"hop_length 200 and 40.*n_mels 80 and 20"):
        Speaker(Letters(), speaker.acoustic, tiny)
