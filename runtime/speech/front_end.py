"""Front end: English text to sentences of phonemes."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from importlib.util import find_spec
from itertools import chain
from typing import Any, Protocol
from unicodedata import normalize as composed

MOST_PHONEMES = 400
"""Phonemes of a sentence; longer ones are divided after punctuation, else between words, else anywhere."""
_WINDOW = 8000
"""Characters of a paragraph that are divided into sentences at once."""
_LONG_WORD = re.compile(r"(?:(?:\w{1,3}[^\w\s]){8}|\S{57,60})(?=[^\s,.;:!?])")
"""Longer words are divided, for the G2P's time grows with the cube of their pieces; not before a mark, which it joins
again."""
_MARKS = re.compile(r"[,.;:!?](?:\s*[,.;:!?]){3,}")
"""More than three punctuation marks, which are read like three."""
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n")
_SENTENCE_END = re.compile(r"[.!?…][\W_]{0,8}?\s")
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


_SITE = r"(?:(?:https?|ftp)://|www\.|(?:[\w-]{1,63}\.){1,4}(?:com|org|net|edu|gov)/)"
_READINGS: tuple[tuple[re.Pattern[str], Any], ...] = (
    (re.compile(r"</?[a-z][a-z0-9]*(?:\s[^<>=]*=[^<>]*)?\s?/?>", re.IGNORECASE), " "),
    (re.compile(rf"\b{_SITE}[^\s<>\"]*[\w/]", re.IGNORECASE), _spelled),
    (re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(\.[\w-]+)+\b"), _spelled),
    (re.compile(r"\be\.g\.", re.IGNORECASE), "for example"),
    (re.compile(r"\bi\.e\.", re.IGNORECASE), "that is"),
    (re.compile(r"\b24/7\b"), "twenty-four seven"),
    (re.compile(r"\b(no|fig|ed)\.(?!\s?\d)"), r"\1 ."),
    (re.compile(r"\((\d{3})\)\s?(?=\d{3}-\d{4}\b)"), r"\1-"),
    (re.compile(r"\d{13,}|\d[\d,]{24,}"), lambda number: " ".join(number[0].replace(",", ""))),
    (re.compile("[\u00bc-\u00be\u2150-\u215e]"), lambda part: " " + composed("NFKC", part[0]).replace("\u2044", "/")),
    (re.compile(r"(?<=\d) (?=[1-9]/[2-9]\b)"), " and "),
    (re.compile(r"(?<=\d)\s?[x\u00d7]\s?(?=\d)"), " by "),
    (re.compile(r"(?<=\w) ['\u2019]n['\u2019] (?=\w)"), " and "),
    (re.compile(r"\bp\.\s?(?=\d)"), "page "),
)
"""What hibari's G2P reads wrong, and how it is written so that it is read right."""
_SHOUTED = re.compile(r"\b(A[MNST]|B[EY]|DO|GO|HE|I[FNST]|M[EY]|NO|O[FNR]|SO|TO|UP|WE)\b")
"""Short words that are spelled in capitals, in sentences that are all capitals."""


class EnglishFrontEnd:
    """American English: sentences by sentencex, phonemes by hibari's G2P. What it cannot read is left out.

    A paragraph ends at an empty line. ``[word](/wɜɹd/)`` gives a word's phonemes; those that no voice has are left out.
    The sentences of a text do not depend on how it is cut into pieces; of a paragraph, 8,000 characters are held at a
    time. HTML tags are left out, and numbers of more than twelve digits are read digit by digit.
    """

    def __init__(self) -> None:
        """Loads the G2P, which takes a second; raises a ValueError if packages are missing."""
        missing = [name for name in ("hibari", "sentencex") if find_spec(name) is None]
        if missing:
            raise ValueError(f"text needs {' and '.join(missing)}: pip install 'wavernn-trt[speak]'")
        from hibari.g2p import G2P

        self._g2p = G2P()
        self._alphabet = set(json.loads((files("hibari") / "assets" / "vocab.json").read_text(encoding="utf-8")))

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
        sentence = composed("NFC", sentence)
        for pattern, reading in _READINGS:
            sentence = pattern.sub(reading, sentence)
        if not any(map(str.islower, sentence)):
            sentence = _SHOUTED.sub(lambda word: word[0].lower(), sentence)
        sentence = _MARKS.sub(lambda marks: "".join(marks[0].split())[:3], sentence)
        sentence = _LONG_WORD.sub(r"\g<0> ", sentence)
        found: list[tuple[str, str]] = []
        text = phonemes = ""
        for token in self._tokens(sentence):
            text, phonemes = text + token.text, phonemes + (token.phonemes or "")
            if token.whitespace:
                found.append((text, phonemes))
                text = phonemes = ""
        found.append((text, phonemes))
        return [(text, part) for text, phonemes in found for part in self._spoken(phonemes)]

    def _tokens(self, sentence: str) -> list[Any]:
        """Returns the G2P's tokens; of a sentence at which it fails, those of the words at which it does not."""
        from hibari.g2p import normalize

        try:
            return list(self._g2p.phonemize_tokens(self._g2p.tokenize(normalize(sentence))))
        except (IndexError, KeyError, TypeError, ValueError):
            words = sentence.split()
            tokens = [self._tokens(word) for word in words] if len(words) > 1 else []
        for word in filter(None, tokens):
            word[-1].whitespace = " "
        return [token for word in tokens for token in word]

    def _spoken(self, phonemes: str) -> list[str]:
        """Returns a word's phonemes without those that are in no voice's alphabet, in parts if they are too many."""
        known = "".join(symbol for symbol in phonemes if symbol in self._alphabet or symbol.isspace())
        return textwrap.wrap(" ".join(known.split()), MOST_PHONEMES, break_on_hyphens=False)

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
    slices = (piece[start : start + _WINDOW] for piece in pieces for start in range(0, len(piece), _WINDOW))
    for piece in chain(slices, [None]):
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
