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


def test_phonemes_outside_the_alphabet_and_too_many_of_a_word_are_mended() -> None:
    assert read("say [it](/bi\u672cn/)")[0].phonemes.endswith(" bin")
    sentences = read(f"say [it](/{'a ' * 900}/) and [that](/{'b' * 30}/) " + "%" * 60)
    assert all(0 < len(sentence.phonemes) <= MOST_PHONEMES for sentence in sentences)
    assert "".join(sentence.phonemes for sentence in sentences).count("a") > 890


def test_where_the_g2p_fails_the_other_words_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    front_end = EnglishFrontEnd()
    whole = front_end._g2p.tokenize

    def failing(text: str) -> object:
        if "bad" in text:
            raise IndexError("list index out of range")
        return whole(text)

    monkeypatch.setattr(front_end._g2p, "tokenize", failing)
    (sentence,) = front_end.sentences("Good words, bad words.")
    assert [word.text for word in sentence.words] == ["Good", "words,", "words."]
    with pytest.raises(ValueError, match=r"^the text has nothing"):
        list(front_end.sentences("bad"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "repeated",
    ["A plain sentence with a few words. ", "word ", "a", ".", "!?", ". ", ".a", "9", "999,", "a.b-", "1/2", "<a = "],
)
def test_the_time_of_a_long_line_grows_with_its_length(repeated: str) -> None:
    """The G2P and a search of marks from each mark on need minutes for some of these."""
    began = time.monotonic()
    read("a " + repeated * (16_000 // len(repeated)))
    assert time.monotonic() - began < 10


def test_a_book_in_one_piece_is_not_copied_for_each_paragraph() -> None:
    began = time.monotonic()
    assert sum(1 for _ in front_end._parts(["Hi.\n\n" * 400_000])) == 400_000
    assert time.monotonic() - began < 10


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_end, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"hibari and sentencex: pip install 'wavernn-trt\[speak\]'"):
        EnglishFrontEnd()


PIECES = st.sampled_from(
    [
        *"0123456789$€£%°½²⅓٣①Ⅳ.,:;-/'\"“()[]<>&@#*+=_\\!?… \n\t\x00\u2013\u2019\u202eİﬁ\ud800",
        *("1/2", "2024-13-45", "99:99", "$1.", "1.2.3", "9" * 40, "km/h", "'s", " x ", "Dr.", "St.", "No.", "Jan "),
        *("Louis ", "Hello", "[a](/b/)", "<b>", "http://", "www.", "a@b.c"),
    ]
)
"""What the G2P has rules for, or fails at."""


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.text(max_size=300) | st.lists(PIECES, max_size=40).map("".join))
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
