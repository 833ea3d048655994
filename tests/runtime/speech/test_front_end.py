"""The English front end: readings, sentences, and text of any kind."""

from __future__ import annotations

import json
import random
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

hibari = pytest.importorskip("hibari", reason="text is read by hibari-tts (the extra 'speak')")
pytest.importorskip("sentencex", reason="texts are divided by sentencex (the extra 'speak')")

from wavernn_trt.runtime.speech import front_end
from wavernn_trt.runtime.speech.front_end import MOST_PHONEMES, EnglishFrontEnd, Sentence

READINGS = json.loads((Path(__file__).parent / "readings.json").read_text(encoding="utf-8"))
"""Texts, and how they are read in words, or phonemes that their reading contains."""
FRONT_END = EnglishFrontEnd()
VOCABULARY = set(json.loads((Path(hibari.__file__).parent / "assets" / "vocab.json").read_text(encoding="utf-8")))


def read(text: str) -> list[Sentence]:
    return list(FRONT_END.sentences(text))


def sounds(text: str) -> str:
    """The phonemes of a text without stress, pauses and spaces."""
    return re.sub(r"[\W\u02c8\u02cc]", "", "".join(sentence.phonemes for sentence in read(text)))


@pytest.mark.parametrize("case", READINGS, ids=lambda case: case["text"])
def test_readings(case: dict[str, str]) -> None:
    if "contains" in case:
        assert case["contains"] in read(case["text"])[0].phonemes
    else:
        assert sounds(case["text"]) == sounds(case["reads"])


def test_there_are_a_hundred_readings() -> None:
    assert len(READINGS) >= 100


def test_sentences_have_their_words_in_order() -> None:
    one, other = read("Hello there, Dr. Smith!\nHow are you?")
    assert (one.text, other.text) == ("Hello there, Dr. Smith!", "How are you?")
    assert [word.text for word in one.words] == ["Hello", "there,", "Dr", "Smith!"]
    assert [one.phonemes[word.start : word.stop] for word in one.words] == one.phonemes.split(" ")
    assert one.phonemes.endswith("!")


def test_an_empty_line_ends_a_sentence_and_a_single_newline_does_not() -> None:
    assert [sentence.text for sentence in read("A title\n\nThe text goes\r\non\r\n \t\r\nand ends")] == [
        "A title", "The text goes on", "and ends",
    ]  # fmt: skip


def test_sentences_do_not_depend_on_how_the_text_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_end, "_WINDOW", 60)
    text = (
        "One sentence. Another one, with Mr. Jones!\n\nA paragraph \r\n\r\nthat is longer than the window of some " * 3
    )
    whole = read(text)
    assert len(whole) > 9
    for seed in range(20):
        order = random.Random(seed)
        cuts = sorted(order.sample(range(len(text)), order.randrange(1, 40)))
        pieces = [text[start:stop] for start, stop in pairwise([0, *cuts, len(text)])]
        assert list(FRONT_END.sentences(pieces)) == whole
    assert list(FRONT_END.sentences(iter(text))) == whole


def test_a_text_is_read_only_as_far_as_it_is_needed() -> None:
    taken = []

    def book() -> object:
        for number in range(10_000):
            taken.append(number)
            yield f"This is sentence number {number}. "

    sentences = FRONT_END.sentences(book())  # type: ignore[arg-type]
    for _ in range(20):
        next(sentences)
    assert len(taken) < 1000


@pytest.mark.parametrize(
    "text",
    ["and so on " * 1000, "clause after clause, " * 200, "x" * 5000, "Verylongword" * 300 + ". End."],
    ids=["no punctuation", "clauses", "one letter", "one word"],
)
def test_long_text_is_divided_and_nothing_is_lost(text: str) -> None:
    began = time.monotonic()
    sentences = read(text)
    assert time.monotonic() - began < 20
    assert all(0 < len(sentence.phonemes) <= MOST_PHONEMES for sentence in sentences)
    said = "".join(sentence.text for sentence in sentences)
    assert re.sub(r"\s", "", said) == re.sub(r"\s", "", text)
    if "," in text:
        assert all(sentence.phonemes.endswith(",") for sentence in sentences)


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00\u200b"])
def test_an_empty_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^the text is empty$"):
        read(text)


@pytest.mark.parametrize("text", ["日本語", "\N{GRINNING FACE}", "…", "— !"])
def test_a_text_of_other_scripts_is_refused_with_its_beginning(text: str) -> None:
    with pytest.raises(ValueError, match="the text has nothing that can be read as English: "):
        read(text)


def test_what_cannot_be_read_is_left_out() -> None:
    assert sounds("Hello 日本 \N{GRINNING FACE} world\ud800\u202e") == sounds("Hello world")


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        sentences = read(text)
    except ValueError as error:
        assert str(error).startswith("the text ")  # noqa: PT017
        return
    for sentence in sentences:
        assert set(sentence.phonemes) <= VOCABULARY
        stop = -1
        for word in sentence.words:
            assert stop < word.start < word.stop <= len(sentence.phonemes)
            stop = word.stop
