"""The vocoder that people call: mel spectrograms in, waveforms out."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from numpy.typing import ArrayLike, NDArray

from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.copy_synthesis import mel_of_recording
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.health.probe import require_probe
from wavernn_trt.runtime.incremental_request import IncrementalRequests
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.loaded_model import LoadedModel, load_model
from wavernn_trt.runtime.loaded_model import shipped_voice as shipped_voice
from wavernn_trt.runtime.request import Request, prepare
from wavernn_trt.runtime.scheduling.bounded_submission import submit_bounded
from wavernn_trt.runtime.scheduling.in_flight import SchedulerState
from wavernn_trt.runtime.scheduling.limits import SchedulerLimits
from wavernn_trt.runtime.scheduling.scheduler import Scheduler
from wavernn_trt.runtime.scheduling.sinks import Collected, Sink
from wavernn_trt.runtime.scheduling.statistics import SchedulerStatistics
from wavernn_trt.runtime.scheduling.ticket import Ticket
from wavernn_trt.runtime.scheduling.utterance import URGENCIES, Urgency, Utterance
from wavernn_trt.runtime.streaming.audio_stream import AudioStream
from wavernn_trt.runtime.streaming.ring_buffer import RingBuffer
from wavernn_trt.runtime.streaming.ring_header import Encoding, Memory

DEFAULT_LIMITS = SchedulerLimits()
_AHEAD = 2
"""How many times what is decoded together `Vocoder.vocode_many` has under way: as much waits, conditioned."""


class Vocoder:
    """A loaded model. Any number of threads may use it; what they ask for is decoded together.

    A waveform depends on its mel, its seed and the backend, and never on what else is decoded beside it.

    A vocoder that `load` made can be pickled, for instance as an argument of a worker process that is spawned: the
    pickle holds the path, the hashes of the model's files and the load options, and the worker loads the model again,
    with the same backend and engine. A process that is forked cannot use it.
    """

    def __init__(self, loaded: LoadedModel, batch: int | None = None, limits: SchedulerLimits = DEFAULT_LIMITS) -> None:
        """Puts a vocoder around a loaded model; `load` is the usual way.

        Args:
            loaded: model and executor.
            batch: streams decoded together, for executors that leave it open; ``None`` is what the model was loaded
                with.
            limits: how much may wait and be decoded at a time.

        Raises:
            VocoderError: ``batch`` is not a positive integer.
        """
        self.loaded = loaded
        self.limits = limits
        self.executor = loaded.executor
        self.batch = loaded.slots(batch)
        self._scheduler = Scheduler(self.executor, loaded.windows, loaded.coding, self.batch, limits)
        self._incremental: dict[int | None, IncrementalRequests] = {}
        self._closing = weakref.finalize(self, self._scheduler.close)
        self._limits = limits

    @classmethod
    def load(
        cls,
        dir: str | Path | None = None,
        backend: str = "auto",
        *,
        batch: int | None = None,
        threads: int | None = None,
        precision: WeightPrecision | None = None,
        cache: str | Path | None = None,
        limits: SchedulerLimits = DEFAULT_LIMITS,
        probe: bool = False,
    ) -> Vocoder:
        """Loads a model directory; the same as `wavernn_trt.load`.

        Args:
            dir: a model directory, or with ``backend="torch"`` a checkpoint; ``None`` is the voice that is shipped.
            backend: ``onnxruntime``, ``torch`` (the reference, slow), ``tensorrt`` or ``tensorrt_rtx`` (engines on a
                GPU, built with ``wavernn-trt build``), ``cuda`` (a GPU without TensorRT, and nothing to build), or
                ``auto``: an engine, where one fits this machine, else ``cuda`` where that can run, else
                ``onnxruntime``.
            batch: streams decoded together by `vocode_batch` and by folding; ``None`` is 8, 1 for ``torch``, 32 for
                ``cuda``, and for an engine as many as it can.
            threads: CPU threads of a lane; ``None`` leaves it to the backend, with as many lanes as suit the machine.
            precision: ``fp32``, ``fp16``, ``bf16`` or, for ``cuda`` only, ``fp8`` (of weights alone), on a GPU:
                ``None`` takes the engine that was used last; ``cuda`` takes fp8 where all of a quantised directory's
                products are in it, else what suits the GPU.
            cache: the folder with the engines' plans; ``None`` is the user's own.
            limits: how much may wait, how many lanes decode, and when an executor is taken to hang.
            probe: whether to have the model speak its probe first, and to refuse it if that is not what it was.

        Raises:
            ValueError: the directory, the backend or a number is not usable; the message says what would be.
            ExecutorError: the probe failed: the model is damaged, or its executor computes something else.
        """
        options = LoadOptions(backend, batch, threads, precision, None if cache is None else Path(cache), probe)
        return cls._open(load_model(None if dir is None else Path(dir), options), None, limits)

    @classmethod
    def _open(cls, loaded: LoadedModel, batch: int | None, limits: SchedulerLimits) -> Vocoder:
        vocoder = cls(loaded, batch, limits)
        if loaded.options.probe:
            try:
                require_probe(vocoder)
            except BaseException:
                vocoder.close()
                raise
        return vocoder

    def __reduce__(self) -> tuple[Callable[..., Vocoder], tuple[LoadedModel, int, SchedulerLimits]]:
        """Pickles where the model is and how it was loaded, see `LoadedModel`.

        Raises:
            VocoderError: `load` did not make this vocoder.
        """
        return type(self)._open, (self.loaded, self.batch, self._limits)

    def check_process(self) -> None:
        """Checks that this is the process that loaded the vocoder; every method that computes does so first.

        Raises:
            VocoderError: the process was forked later. Threads and locks of the vocoder are not in it.
        """
        self._scheduler.check_process()

    @property
    def config(self) -> LoadedModel:
        """The loaded model: ``config.path``, ``config.model`` (family, sizes), ``config.audio`` (mel settings)."""
        return self.loaded

    @property
    def sample_rate(self) -> int:
        """Hz, of what comes out."""
        return self.loaded.audio.sample_rate

    @property
    def chunk(self) -> int:
        """Samples that are decoded at a time."""
        return self.loaded.windows.steps

    @property
    def engine(self) -> str | None:
        """The name of the engine's plan in the cache, where the backend runs one; for ``cuda``, of the kernel."""
        return self.loaded.engine

    @property
    def backend(self) -> str:
        """The executor's name."""
        return self.executor.name

    def vocode(
        self,
        mel: ArrayLike,
        *,
        seed: int = 0,
        uniforms: ArrayLike | None = None,
        fold: int | None = None,
        overlap: int | None = None,
        sample_rate: int | None = None,
    ) -> FloatArray:
        """Speaks a mel spectrogram.

        Args:
            mel: float [n_mels, frames], in the model's range (``config.audio.mel_range``).
            seed: of the random numbers that samples are drawn with, 0 … 2**64 - 1.
            uniforms: those random numbers themselves, [frames * hop_length] or, for mixtures, [frames * hop_length, 2].
            fold: cut the utterance into folds of this many samples, which are decoded together; faster for long ones.
            overlap: samples over which folds are crossfaded, by default 550.
            sample_rate: Hz that the mel was made for; if given, it is checked.

        Returns:
            float32 [frames * hop_length], about [-1, 1].

        Raises:
            VocoderError: an argument is not usable; the message says what was found and what is expected.
        """
        request = Request(mel, seed, uniforms, fold, overlap, sample_rate)
        return self._decode(self._prepare(request, copy=False), "batch")

    def vocode_batch(
        self,
        mels: Sequence[ArrayLike],
        *,
        seeds: Sequence[int] | None = None,
        uniforms: Sequence[ArrayLike] | None = None,
        fold: int | None = None,
        overlap: int | None = None,
        sample_rate: int | None = None,
    ) -> list[FloatArray]:
        """Speaks several mel spectrograms together; each waveform is, bit for bit, what `vocode` makes of it alone.

        Args:
            mels: each as for `vocode`; lengths may differ.
            seeds: one each; by default 0 for all, as for `vocode`.
            uniforms: one each, instead of seeds.
            fold: see `vocode`.
            overlap: see `vocode`.
            sample_rate: see `vocode`.

        Raises:
            VocoderError: as for `vocode`, or not as many seeds or uniforms as mels.
        """
        for name, values in (("seeds", seeds), ("uniforms", uniforms)):
            if values is not None and len(values) != len(mels):
                raise VocoderError(f"{name}: found {len(values)}, expected one for each of the {len(mels)} mels")
        requests = [
            Request(
                mel,
                0 if seeds is None else seeds[i],
                None if uniforms is None else uniforms[i],
                fold,
                overlap,
                sample_rate,
            )
            for i, mel in enumerate(mels)
        ]
        # All are checked before the work begins, and none is copied: the caller waits here.
        utterances = [self._prepare(request, copy=False) for request in requests]
        tickets: list[Ticket] = []
        try:
            for utterance in utterances:
                tickets.append(self._scheduler.submit(utterance, Collected(), owner=self))
            return [ticket.result() for ticket in tickets]
        except BaseException:
            for ticket in tickets:
                ticket.cancel()
            raise

    def vocode_many(
        self,
        requests: Iterable[Request],
        *,
        order: Literal["submitted", "completed"] = "submitted",
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, Ticket]]:
        """Speaks any number of requests, as many at a time as keep the slots full.

        Args:
            requests: a generator is pulled whenever there is room for another.
            order: of what is yielded.
            progress: see `submit`.

        Returns:
            An iterator over each request's number, from 0, and its ticket, which is done: ``result()`` is the waveform,
            or raises what is wrong with that request, the others going on.
        """

        def submit(request: Request) -> Ticket:
            return self.submit(request, progress=progress)

        return submit_bounded(requests, submit, _AHEAD * self._scheduler.slots, in_order=order == "submitted")

    def submit(
        self,
        request: Request,
        *,
        urgency: Urgency = "batch",
        deadline: float | None = None,
        wait: bool = True,
        sink: Sink | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Ticket:
        """Hands a request over, to be decoded beside whatever else is under way.

        Args:
            request: what to speak.
            urgency: ``batch``, as here and in `AsyncVocoder`, or ``interactive`` where a user waits for just this:
                it comes before batch work. Streams are always interactive.
            deadline: seconds from now by which the waveform must be whole; it is dropped as soon as it cannot be.
            wait: whether to wait while the queue is full.
            sink: takes the samples as they are decoded; the ticket's own waveform is then empty.
            progress: is told of steps as they are decoded, a fold's warm-up included; from another thread.

        Returns:
            A future of the waveform, float32 [samples]; cancelling it frees its slot at the next chunk. It ends with a
            `DeadlineError`, or an `ExecutorError` if the backend fails for it twice.

        Raises:
            VocoderError: the request is not usable; or the vocoder is closed.
            QueueFullError: the queue is full, and ``wait`` is false.
            DeadlineError: the queue had no room before the deadline.
            ExecutorError: the backend has failed too often, and was given up.
        """
        if urgency not in URGENCIES:
            raise VocoderError(f"urgency: found {urgency!r}, expected one of {', '.join(URGENCIES)}")
        utterance = self._prepare(request)
        if sink is not None and sink.room() is not None and utterance.folds:
            raise VocoderError("fold: found one for a sink with bounded room, whose samples would all come at once")
        return self._scheduler.submit(
            utterance,
            Collected() if sink is None else sink,
            urgency=urgency,
            deadline=_check_deadline(deadline),
            wait=wait,
            progress=progress,
            owner=self,
        )

    def statistics(self) -> SchedulerStatistics:
        """Slots, queue, speed and times, now.

        Raises:
            VocoderError: see `check_process`.
        """
        self.check_process()
        return self._scheduler.statistics()

    @property
    def state(self) -> SchedulerState:
        """``ready``, or why requests are refused.

        ``draining`` and ``closed`` refuse them with a `ClosedError`, ``broken`` with an `ExecutorError`: the backend
        failed too often and was given up.
        """
        self.check_process()
        return self._scheduler.state

    def drain(self, seconds: float | None = None) -> bool:
        """Refuses new requests from now on, and waits until those under way have ended.

        Args:
            seconds: the longest wait; ``None`` is no limit.

        Returns:
            Whether all have ended in time.
        """
        self.check_process()
        return self._scheduler.drain(seconds)

    def close(self) -> None:
        """Cancels what is under way and ends the threads. Happens of itself when the vocoder is let go."""
        self._closing()

    def __enter__(self) -> Vocoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def stream(
        self,
        mel: ArrayLike | Iterator[ArrayLike],
        *,
        seed: int = 0,
        uniforms: ArrayLike | None = None,
        frame: int | None = None,
        sample_rate: int | None = None,
        lookahead: int | None = None,
        encoding: Encoding = "float32",
        dither: bool = False,
        seconds: float = 1.0,
        memory: Memory | RingBuffer | None = None,
        deadline: float | None = None,
        wait: bool = True,
    ) -> AudioStream:
        """Speaks a mel spectrogram frame by frame; joined, float32 frames are exactly what `vocode` returns.

        It is decoded before batch work, ahead of the listener by ``seconds`` at most. The stream is iterated, or read
        in other ways (`AudioStream`); to close or drop it cancels the rest.

        The mel may itself be arriving: an iterator over pieces of it, float [n_mels, k] or single frames [n_mels], is
        pulled in a thread of its own, some two seconds ahead. Samples of a frame are drawn when `lookahead` frames
        behind it are there. Convolutional conditioners (fatchord, torchaudio, Coqui) then give what they make of the
        whole mel: bit for bit where it has more than 256 frames, else but for rounding; univoc's, which hears the
        whole mel in both directions, is run over windows, and more look-ahead makes that better. Bits never depend on
        how the mel is cut into pieces.

        Args:
            mel: see `vocode`; or an iterator over its pieces.
            seed: see `vocode`.
            uniforms: see `vocode`; not with an iterator.
            frame: samples of a frame, by default 20 ms; the last may be shorter.
            sample_rate: see `vocode`.
            lookahead: frames to wait for, where a model leaves the choice (univoc); only with an iterator.
            encoding: of the samples, ``float32`` or ``int16``.
            dither: whether int16 is dithered.
            seconds: of audio that may wait to be read.
            memory: of the ring buffer; see `AudioStream`.
            deadline: see `submit`.
            wait: see `submit`.

        Raises:
            VocoderError: as for `vocode`; raised here, not at the first frame.
            QueueFullError: see `submit`.
            ExecutorError: see `submit`.
        """
        stream = AudioStream(self.sample_rate, frame, encoding, dither, seconds, memory, chunk=self.chunk, seed=seed)
        self.speak_into(
            stream,
            mel,
            seed=seed,
            uniforms=uniforms,
            sample_rate=sample_rate,
            lookahead=lookahead,
            deadline=deadline,
            wait=wait,
        )
        return stream

    def speak_into(
        self,
        stream: AudioStream,
        mel: ArrayLike | Iterator[ArrayLike],
        *,
        seed: int = 0,
        uniforms: ArrayLike | None = None,
        sample_rate: int | None = None,
        lookahead: int | None = None,
        deadline: float | None = None,
        wait: bool = True,
        sink: Sink | None = None,
    ) -> Ticket:
        """Speaks into a stream that the caller made; `stream` makes one, and says what the arguments are.

        Args:
            stream: new, of the model's sample rate.
            mel: see `stream`.
            seed: see `stream`.
            uniforms: see `stream`.
            sample_rate: see `stream`.
            lookahead: see `stream`.
            deadline: see `stream`.
            wait: see `stream`.
            sink: takes the samples in the stream's own sink's place, to hand them on to it; ``None`` is that one.

        Returns:
            The ticket; its waveform is empty.

        Raises:
            VocoderError: as for `stream`.
            QueueFullError: as for `stream`.
            ExecutorError: as for `stream`.
        """
        if stream.sample_rate != self.sample_rate:
            raise VocoderError(f"stream: found one of {stream.sample_rate} Hz, expected {self.sample_rate} Hz")
        feed = None
        if isinstance(mel, Iterator):
            if uniforms is not None:
                raise VocoderError("uniforms: found some with an iterator over a mel, expected a seed")
            utterance, feed = self._incremental_requests(lookahead).begin(
                mel, seed, sample_rate, on_ready=self._scheduler.wake
            )
        else:
            if lookahead is not None:
                raise VocoderError(f"lookahead: found {lookahead} with a whole mel, expected it with an iterator only")
            utterance = self._prepare(Request(mel, seed, uniforms, sample_rate=sample_rate))
        ticket = self._scheduler.submit(
            utterance,
            stream.sink if sink is None else sink,
            urgency="interactive",
            deadline=_check_deadline(deadline),
            wait=wait,
            owner=self,
        )
        stream.connect(on_close=ticket.cancel, on_room=self._scheduler.wake)
        if feed is not None:
            ticket.add_done_callback(lambda _: feed.stop())
            feed.start()
        return ticket

    def lookahead(self, frames: int | None = None) -> int:
        """Frames that `stream` waits for behind a frame before it draws the frame's samples, where a mel is arriving.

        The first call for a number of frames runs the conditioner over short mels.

        Args:
            frames: as `stream` takes it.

        Raises:
            VocoderError: this model cannot speak a mel that is still arriving; the message says why.
        """
        return self._incremental_requests(frames).lookahead

    def _incremental_requests(self, lookahead: int | None) -> IncrementalRequests:
        self.check_process()
        if lookahead not in self._incremental:
            self._incremental[lookahead] = IncrementalRequests(self.loaded, lookahead)
        return self._incremental[lookahead]

    def _prepare(self, request: Request, *, copy: bool = True) -> Utterance:
        return prepare(request, self.loaded, self._scheduler.slots, copy=copy)

    def _decode(self, utterance: Utterance, urgency: Urgency, *, raw: bool = False) -> NDArray[Any]:
        ticket = self._scheduler.submit(utterance, Collected(), urgency=urgency, raw=raw, owner=self)
        try:
            return ticket.result()
        except BaseException:
            ticket.cancel()  # an interrupted caller needs it no more
            raise

    def labels(
        self, mel: ArrayLike, *, seed: int = 0, uniforms: ArrayLike | None = None, urgency: Urgency = "batch"
    ) -> NDArray[Any]:
        """The samples as drawn, before they become a waveform; they are not checked for damage.

        Args:
            mel: see `vocode`.
            seed: see `vocode`.
            uniforms: see `vocode`.
            urgency: see `submit`.

        Returns:
            [frames * hop_length]: int32 labels, or float32 values for mixtures.

        Raises:
            VocoderError: as for `vocode`.
            ExecutorError: as for `vocode`.
        """
        return self._decode(self._prepare(Request(mel, seed, uniforms), copy=False), urgency, raw=True)

    def teacher_forced(self, mel: ArrayLike, samples: ArrayLike) -> FloatArray:
        """The last layer's outputs where every step is fed with the given sample before it.

        Args:
            mel: see `vocode`; the conditioning is exactly generation's.
            samples: [n], n at most frames * hop_length: labels (integers), or values for mixtures. Step t is fed with
                samples[t - 1], and step 0 as in generation.

        Returns:
            float32 logits [n, outputs].

        Raises:
            VocoderError: as for `vocode`, or samples that this model cannot have emitted.
        """
        self.check_process()
        return self.loaded.teacher_forced(mel, samples)

    def mel(self, waveform: ArrayLike, sample_rate: float) -> FloatArray:
        """The mel spectrogram of a recording as this model takes it, for copy synthesis.

        Args:
            waveform: float [samples], mono, in [-1, 1].
            sample_rate: its rate in Hz, a whole number; it is resampled to the model's.

        Returns:
            float32 [n_mels, frames].

        Raises:
            VocoderError: not a mono waveform of finite numbers, or no sample rate.
        """
        return mel_of_recording(waveform, sample_rate, self.loaded.audio)


load = Vocoder.load


def _check_deadline(deadline: float | None) -> float | None:
    if deadline is not None and not (isinstance(deadline, int | float) and deadline > 0):
        raise VocoderError(f"deadline: found {deadline!r}, expected a positive number of seconds from now")
    return deadline
