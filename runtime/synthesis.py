"""From utterances to waveforms: folds become streams, their samples amplitudes, and these one waveform."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.runtime.conditioning import ConditioningWindows, FloatArray, WholeConditioning
from wavernn_trt.runtime.emphasis import DeEmphasis
from wavernn_trt.runtime.executors.protocol import Executor
from wavernn_trt.runtime.folding import Fold, join_folds
from wavernn_trt.runtime.sample_coding import SampleCoding
from wavernn_trt.runtime.streams import Piece, Stream, decode_streams
from wavernn_trt.runtime.uniforms import UniformSource


@dataclass(frozen=True)
class Utterance:
    """What is to be spoken."""

    rows: FloatArray
    """Conditioning, [N + 2 * margin, columns]."""
    folds: Sequence[Fold]
    """How it is cut; one fold where it is not."""
    uniforms: Sequence[UniformSource]
    """Random numbers for each fold."""


@dataclass(frozen=True)
class WaveformPiece:
    """What a chunk yielded for one utterance."""

    utterance: int
    """The utterance's place in the order of arrival."""
    samples: FloatArray
    """The next samples of its waveform. Those of a folded utterance all come with its last piece."""
    decoded: int
    """Steps that were decoded for this piece, a fold's warm-up included."""
    last: bool
    """Whether the utterance is complete."""


@dataclass
class _Unfinished:
    index: int
    utterance: Utterance
    de_emphasis: DeEmphasis
    parts: list[list[NDArray[np.float64]]] = field(default_factory=list)
    folds_left: int = 0


def synthesise(
    executor: Executor,
    windows: ConditioningWindows,
    coding: SampleCoding,
    utterances: Iterable[Utterance],
    batch: int,
) -> Iterator[WaveformPiece]:
    """Decodes utterances together and yields their waveforms as they come.

    Args:
        executor: decodes.
        windows: cuts conditioning into chunks.
        coding: what samples mean.
        utterances: may be a generator; each is pulled when there is room for it.
        batch: streams (utterances or folds) at a time.
    """
    owners: dict[int, tuple[_Unfinished, int]] = {}  # stream -> its utterance and fold

    def streams() -> Iterator[Stream]:
        count = 0
        for index, utterance in enumerate(utterances):
            conditioning = WholeConditioning(windows, utterance.rows)
            folds = len(utterance.folds)
            unfinished = _Unfinished(index, utterance, coding.de_emphasis(), [[] for _ in range(folds)], folds)
            for number, (fold, uniforms) in enumerate(zip(utterance.folds, utterance.uniforms, strict=True)):
                owners[count] = (unfinished, number)
                count += 1
                yield Stream(conditioning, uniforms, fold.first, fold.stop)

    for piece in decode_streams(executor, windows, streams(), batch):
        unfinished, fold = owners[piece.stream]
        if piece.last:
            del owners[piece.stream]
        yield _piece(unfinished, fold, piece, coding.amplitudes(piece.samples))


def _piece(unfinished: _Unfinished, fold: int, piece: Piece, amplitudes: NDArray[np.float64]) -> WaveformPiece:
    decoded = len(piece.samples)
    unfinished.folds_left -= piece.last
    last = unfinished.folds_left == 0
    if len(unfinished.parts) > 1:
        unfinished.parts[fold].append(amplitudes)
        parts = [np.concatenate(part) for part in unfinished.parts] if last else []
        amplitudes = join_folds(unfinished.utterance.folds, parts) if last else np.zeros(0)
    waveform = unfinished.de_emphasis(amplitudes).astype(np.float32)
    return WaveformPiece(unfinished.index, waveform, decoded, last)
