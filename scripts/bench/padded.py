"""What continuous batching is compared with: fixed batches, in which everybody is decoded until the longest is done."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.runtime.conditioning.windows import ConditioningWindows, FloatArray, WholeConditioning
from wavernn_trt.runtime.decoding.chunk_loop import LaneLoop, Stream
from wavernn_trt.runtime.decoding.sample_coding import SampleCoding
from wavernn_trt.runtime.decoding.uniforms import SeededUniforms
from wavernn_trt.runtime.loaded_model import LoadedModel
from wavernn_trt.scripts.bench.meter import Meter, MeteredExecutor
from wavernn_trt.scripts.bench.speech import Mixture


@dataclass(frozen=True)
class PaddedRun:
    """What fixed batches took."""

    groups: int
    """Batches."""
    utterances: int
    """In them."""
    samples: int
    """Of their waveforms, without what padding adds."""
    rows: int
    """Streams of all chunks, by what each batch's longest utterance needs."""
    computed: Meter
    """What the executor counted."""
    elapsed: float
    """Seconds."""


class PaddedDecoder:
    """Decodes groups of utterances with the lanes, the slots and the chunks that the scheduler has.

    An utterance's conditioning is repeated at its end until it is as long as its group's longest. The conditioner
    itself is run over the utterance alone, as little as can be. So what is compared is the order of the work only.
    """

    def __init__(self, opened: LoadedModel, executor: MeteredExecutor, *, lanes: int, slots: int, steps: int) -> None:
        """Prepares.

        Args:
            opened: the model.
            executor: its executor, watched.
            lanes: that decode at the same time.
            slots: utterances of a group, over all lanes.
            steps: of a chunk.
        """
        self.slots = slots
        self._model = opened.model
        self._executor = executor
        self._lanes = lanes
        self._windows = ConditioningWindows(opened.model, opened.audio, steps, opened.upsampling)
        self._coding = SampleCoding(opened.model, opened.audio)

    def groups(self, utterances: int) -> int:
        """How many groups so many utterances make; the last may not be full."""
        return math.ceil(utterances / self.slots)

    def members(self, mixture: Mixture, group: int) -> range:
        """The numbers of a group's utterances: groups are taken as they come."""
        return range(group * self.slots, min((group + 1) * self.slots, len(mixture)))

    def rows(self, mixture: Mixture, group: int) -> int:
        """Streams of all chunks of a group."""
        members = self.members(mixture, group)
        return len(members) * self._chunks(max(mixture.frames[number] for number in members))

    def run(
        self,
        mixture: Mixture,
        groups: Sequence[int],
        take: Callable[[int, FloatArray], None],
        report: Callable[[int], None],
    ) -> PaddedRun:
        """Decodes groups, one after the other.

        Args:
            mixture: the utterances.
            groups: numbers of the groups.
            take: is given each utterance's number and waveform.
            report: is told how many groups are done.
        """
        before = self._executor.read()
        started = time.perf_counter()
        numbers: list[int] = []
        share = math.ceil(self.slots / self._lanes)
        with ExitStack() as stack:
            lanes = [stack.enter_context(self._executor.lane(share)) for _ in range(self._lanes)]
            loops: list[LaneLoop[Stream]] = [LaneLoop(lane, self._windows) for lane in lanes]
            threads = stack.enter_context(ThreadPoolExecutor(self._lanes, "padded lane"))
            for done, group in enumerate(groups):
                report(done)
                members = self.members(mixture, group)
                longest = max(mixture.frames[number] for number in members)
                shares = [members[i :: self._lanes] for i in range(self._lanes)]
                work = [
                    threads.submit(self._decode, loop, mixture, mine, longest)
                    for loop, mine in zip(loops, shares, strict=True)
                    if mine
                ]
                for one in work:
                    for number, samples in one.result().items():
                        take(number, self._coding.waveform(samples))
                numbers += members
        return PaddedRun(
            groups=len(groups),
            utterances=len(numbers),
            samples=sum(mixture.frames[number] for number in numbers) * self._windows.hop_length,
            rows=sum(self.rows(mixture, group) for group in groups),
            computed=self._executor.read() - before,
            elapsed=time.perf_counter() - started,
        )

    def _chunks(self, frames: int) -> int:
        return math.ceil(frames * self._windows.hop_length / self._windows.steps)

    def _decode(
        self, loop: LaneLoop[Stream], mixture: Mixture, members: Sequence[int], longest: int
    ) -> dict[int, NDArray[Any]]:
        """Decodes a lane's share of a group; returns each utterance's own samples."""
        for number in members:
            loop.enter(self._stream(mixture, number, longest))
        pieces: dict[int, list[NDArray[Any]]] = {number: [] for number in members}
        while loop.streams or loop.in_flight:
            if (streams := loop.streams) and not loop.full:
                loop.submit(streams)
                continue
            for piece in loop.collect():
                pieces[piece.stream.number].append(piece.samples)
                if piece.last:
                    loop.leave(piece.stream)
        hop = self._windows.hop_length
        return {number: np.concatenate(parts)[: mixture.frames[number] * hop] for number, parts in pieces.items()}

    def _stream(self, mixture: Mixture, number: int, longest: int) -> Stream:
        request = mixture[number]
        rows = self._executor.condition(np.asarray(request.mel, np.float32))
        padded = np.pad(rows, ((0, longest - mixture.frames[number]), (0, 0)), mode="edge")
        conditioning = WholeConditioning(self._windows, padded)
        return Stream(conditioning, SeededUniforms(self._model, request.seed), number=number)
