"""The shipped voice's speech, as a recogniser and a pitch tracker hear it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("hibari", reason="text is read by hibari-tts (the extra 'speak')")
pytest.importorskip("sentencex", reason="texts are divided by sentencex (the extra 'speak')")
pytest.importorskip("pocketsphinx", reason="words are recognised by pocketsphinx (the extra 'judge')")
pytest.importorskip("jiwer", reason="words are compared by jiwer (the extra 'judge')")
pytest.importorskip("librosa", reason="pitch is measured by librosa (the extra 'judge')")

from wavernn_trt.calibration.judge import count_wrong, pitch, recognise
from wavernn_trt.runtime.speech.speaker import Controls, Speaker

pytestmark = pytest.mark.slow

SENTENCES = (
    "The old man walked slowly along the river.",
    "She opened the door and looked into the garden.",
    "We have never seen so many people in one place.",
    "The train to the city leaves in twenty minutes.",
    "He wrote a long letter to his mother every week.",
)
MOST_WRONG = 0.25
"""Share of wrong words. The recogniser is a plain one: the speaker that this voice imitates has up to a fifth."""


@pytest.fixture(scope="module")
def speaker() -> Iterator[Speaker]:
    with Speaker.load(threads=1) as speaker:
        yield speaker


def test_words_are_recognised(speaker: Speaker) -> None:
    counts = [
        count_wrong(text, recognise(speech.waveform, speech.sample_rate))
        for text in SENTENCES
        if (speech := speaker.speak(text))
    ]
    words, wrong = np.sum(counts, axis=0)
    assert wrong <= MOST_WRONG * words, counts


@pytest.mark.parametrize(("factor", "lowest", "highest"), [(0.85, 0.8, 0.97), (1.2, 1.05, 1.3)])
def test_pitch_is_scaled(speaker: Speaker, factor: float, lowest: float, highest: float) -> None:
    """The vocoder draws pitches that its speakers do not have towards theirs, so the range is wide."""
    plain, scaled = (
        np.nanmedian(pitch(speaker.speak(SENTENCES[1], Controls(pitch=value)).waveform, speaker.sample_rate))
        for value in (1.0, factor)
    )
    assert lowest < scaled / plain < highest


def test_words_are_spoken_at_their_times(speaker: Speaker) -> None:
    """Pauses of the speech lie outside of its words; speed scales both."""
    for speed in (0.7, 1.0, 1.4):
        speech = speaker.speak("Stop. Now go on.", Controls(speed=speed))
        level = np.sqrt(np.convolve(np.square(speech.waveform), np.ones(320) / 320, "same"))
        stop, now = (round(speech.sample_rate * time) for time in (speech.words[0].stop, speech.words[1].start))
        inside = [level[round(16000 * word.start) : round(16000 * word.stop)].max() for word in speech.words]
        assert level[stop + 1600 : now - 1600].max() < 0.1 * min(inside)
