"""Front end: English text to sentences of phonemes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import chain
from typing import Any, Protocol

MOST_PHONEMES = 400
"""Phonemes of a sentence; longer ones are divided after punctuation, else between words."""
_WINDOW = 8000
"""Characters of a paragraph that are divided into sentences at once."""
_LONGEST_WORD = 60
"""Characters; longer words are divided."""
_PARAGRAPH = re.compile(r"\r?\n[ \t]*\r?\n")
_SENTENCE_END = re.compile(r"[.!?…][\W_]*?\s")
_PUNCTUATION = ",.;:!?—…"
_UNREADABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Control characters, marks of direction and half surrogates."""


@dataclass(frozen=True)
class Word:
    """A word of a sentence with the punctuation behind it, as the G2P normalises it (numbers stay figures)."""

    text: str
    start: int
    """Place of its first phoneme in the sentence's phonemes."""
    stop: int
    """Place behind its last."""


@dataclass(frozen=True)
class Sentence:
    """A sentence, or a part of a very long one."""

    text: str
    phonemes: str
    """In misaki's alphabet, that of Kokoro; spaces between words."""
    words: tuple[Word, ...]


class FrontEnd(Protocol):
    """Divides text into sentences and finds their phonemes."""

    def sentences(self, text: str | Iterable[str]) -> Iterator[Sentence]:
        """Yields the sentences of a text, or of its pieces.

        Raises:
            ValueError: the text is empty, or nothing in it can be read.
        """
        ...


def _spelled(found: re.Match[str]) -> str:
    """Returns an address of the web or of mail as words: example.com/a is "example dot com slash a"."""
    address = re.sub(r"^([a-z]+://)?(www\.)?", "", found[0], flags=re.IGNORECASE).rstrip("/")
    names = {".": "dot", "/": "slash", "@": "at", "-": "dash", "_": "underscore", "?": "question mark", "=": "equals"}
    return " ".join(names.get(part, part) for part in re.findall(r"[a-z]+|\d+|[./@_?=-]", address, re.IGNORECASE))


_READINGS: tuple[tuple[re.Pattern[str], Any], ...] = (
    (re.compile(r"\bhttps?://[^\s<>\"]*[\w/]", re.IGNORECASE), _spelled),
    (re.compile(r"\b[\w.+-]+@[\w-]+(\.[\w-]+)+\b"), _spelled),
    (re.compile(r"\bwww\.[\w-]+(\.[\w-]+)+\b", re.IGNORECASE), _spelled),
    (re.compile(r"\be\.g\.", re.IGNORECASE), "for example"),
    (re.compile(r"\bi\.e\.", re.IGNORECASE), "that is"),
    (re.compile(r"\b24/7\b"), "twenty-four seven"),
    (re.compile(r"(?<=\d) (?=[1-9]/[2-9]\b)"), " and "),
    (re.compile(r"(?<=\d)\s?[x\u00d7]\s?(?=\d)"), " by "),
    (re.compile(r"(?<=\w) ['\u2019]n['\u2019] (?=\w)"), " and "),
    (re.compile(r"\bp\.\s?(?=\d)"), "page "),
)
"""What hibari's G2P reads wrong, and how it is written so that it is read right."""


class EnglishFrontEnd:
    """American English: sentences by sentencex, phonemes by hibari's G2P. What it cannot read is left out.

    A paragraph ends at an empty line. ``[word](/wɜɹd/)`` gives a word's phonemes. The sentences of a text do not depend
    on how it is cut into pieces; of a paragraph, 8,000 characters are held at a time.
    """

    def __init__(self) -> None:
        """Loads the G2P, which takes a second; raises a ValueError if packages are missing."""
        missing = [name for name in ("hibari", "sentencex") if find_spec(name) is None]
        if missing:
            raise ValueError(f"text needs {' and '.join(missing)}: pip install 'wavernn-trt[speak]'")
        from hibari.g2p import G2P

        self._g2p = G2P()

    def sentences(self, text: str | Iterable[str]) -> Iterator[Sentence]:
        from sentencex import segment

        first, readable = "", False
        for part in _parts([text] if isinstance(text, str) else text):
            first = first or part
            for sentence in segment("en", part):
                divided = list(self._divided(self._words(sentence)))
                if len(divided) == 1:
                    divided = [replace(divided[0], text=sentence.strip())]
                readable = readable or bool(divided)
                yield from divided
        if not first:
            raise ValueError("the text is empty")
        if not readable:
            raise ValueError(f"the text has nothing that can be read as English: {first[:40]!r}")

    def _words(self, sentence: str) -> list[tuple[str, str]]:
        """Returns the words of a sentence, each with its phonemes."""
        from hibari.g2p import normalize

        for pattern, reading in _READINGS:
            sentence = pattern.sub(reading, sentence)
        sentence = re.sub(rf"\S{{{_LONGEST_WORD}}}(?=\S)", r"\g<0> ", sentence)
        found: list[tuple[str, str]] = []
        text = phonemes = ""
        for token in self._g2p.phonemize_tokens(self._g2p.tokenize(normalize(sentence))):
            text, phonemes = text + token.text, phonemes + (token.phonemes or "").replace("\n", " ")
            if token.whitespace:
                found.append((text, phonemes.strip()))
                text = phonemes = ""
        found.append((text, phonemes.strip()))
        return [(text, phonemes) for text, phonemes in found if phonemes]

    def _divided(self, words: list[tuple[str, str]]) -> Iterator[Sentence]:
        """Yields a sentence, or its parts if it is too long."""
        begin, length, pause = 0, 0, 0
        for number, (_, phonemes) in enumerate(words):
            if length and length + len(phonemes) > MOST_PHONEMES:
                stop = pause if pause > begin else number
                yield from _sentence(words[begin:stop])
                begin = stop
                length = sum(len(phonemes) + 1 for _, phonemes in words[begin:number])
            length += len(phonemes) + 1
            if phonemes[-1] in _PUNCTUATION:
                pause = number + 1
        yield from _sentence(words[begin:])


def _sentence(words: list[tuple[str, str]]) -> Iterator[Sentence]:
    """Yields the sentence of these words, unless it is punctuation only."""
    phonemes = " ".join(phonemes for _, phonemes in words)
    if any(symbol.isalpha() for symbol in phonemes):
        places, start = [], 0
        for text, sounds in words:
            places.append(Word(text, start, start + len(sounds)))
            start += len(sounds) + 1
        yield Sentence(" ".join(text for text, _ in words), phonemes, tuple(places))


def _parts(pieces: Iterable[str]) -> Iterator[str]:
    """Yields paragraphs, or parts of long ones that end with a sentence or a word; each on one line and not blank."""
    held = ""
    for piece in chain(pieces, [None]):
        held += piece or ""
        while len(held) > _WINDOW or (piece is None and held):
            window = held[:_WINDOW]
            if paragraph := _PARAGRAPH.search(window):
                stop = paragraph.end()
            elif len(held) <= _WINDOW:
                stop = len(held)
            else:
                ends = [end.end() for end in _SENTENCE_END.finditer(window)] or [
                    space.end() for space in re.finditer(r"\s", window)
                ]
                stop = ends[-1] if ends else _WINDOW
            part, held = " ".join(_UNREADABLE.sub(" ", held[:stop]).split()), held[stop:]
            if part:
                yield part
