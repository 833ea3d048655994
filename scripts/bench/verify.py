"""Whether utterances are, bit for bit, what they are alone."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.errors import ExecutorError, VocoderError
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.bench.speech import Mixture

PREFIX_SECONDS = 0.1
"""Of an utterance's beginning, where all of them are compared: five chunks of 20 ms."""


@dataclass
class Digests:
    """Hashes of waveforms, and of their beginnings, by the utterance's number."""

    prefix: int
    """Samples of a beginning."""
    whole: dict[int, bytes] = field(default_factory=dict)
    beginning: dict[int, bytes] = field(default_factory=dict)

    def take(self, number: int, waveform: FloatArray) -> None:
        """Keeps a waveform's hashes."""
        self.whole[number] = digest(waveform)
        self.beginning[number] = digest(waveform[: self.prefix])


@dataclass
class Verification:
    """What was compared with the same utterance alone."""

    compared: int = 0
    """Whole utterances."""
    beginnings: int = 0
    """Utterances of which only the first samples were."""
    different: list[int] = field(default_factory=list)
    """The numbers of those that differ, or did not come."""

    @property
    def equal(self) -> bool:
        """Whether everything that was compared is equal."""
        return not self.different

    def describe(self) -> dict[str, Any]:
        """For the report."""
        return {"compared": self.compared, "beginnings": self.beginnings, "different": self.different}


def digest(waveform: FloatArray) -> bytes:
    """A hash of a waveform's bits."""
    return hashlib.blake2b(np.ascontiguousarray(waveform).tobytes(), digest_size=16).digest()


def verify(
    vocoder: Vocoder,
    mixture: Mixture,
    digests: Digests,
    *,
    whole: Iterable[int],
    beginnings: Iterable[int],
    report: Callable[[int], None],
) -> Verification:
    """Speaks utterances again, each with nobody beside it.

    Args:
        vocoder: on the same executor, and idle.
        mixture: the utterances.
        digests: of what was spoken together.
        whole: the numbers of those to speak to their end.
        beginnings: the numbers of those to speak the first samples of.
        report: is told how many are done.
    """
    result = Verification()
    for number in whole:
        report(result.compared)
        result.compared += 1
        if not _equal(vocoder, mixture[number], digests.whole.get(number)):
            result.different.append(number)
    for number in beginnings:
        report(result.compared + result.beginnings)
        result.beginnings += 1
        beginning = dataclasses.replace(mixture[number], samples=digests.prefix)
        if not _equal(vocoder, beginning, digests.beginning.get(number)):
            result.different.append(number)
    result.different = sorted(set(result.different))
    return result


def choose(utterances: int, count: int) -> Sequence[int]:
    """Numbers of some utterances, at random and always the same."""
    chosen = np.random.default_rng(1).choice(utterances, min(count, utterances), replace=False)
    return sorted(chosen.tolist())


def _equal(vocoder: Vocoder, request: Request, expected: bytes | None) -> bool:
    try:
        return digest(vocoder.submit(request).result()) == expected
    except (VocoderError, ExecutorError):
        return False
