"""`Vocoder`: the public API that converts mel spectrograms to waveforms."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from numpy.typing import ArrayLike, NDArray

from wavernn_trt.runtime.conditioning.windows import FloatArray
from wavernn_trt.runtime.copy_synthesis import mel_of_recording
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.health.probe import require_probe
from wavernn_trt.runtime.incremental_request import IncrementalRequests
from wavernn_trt.runtime.load_options import LoadOptions, LoadPrecision
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
"""Requests in flight in `Vocoder.vocode_many`, in multiples of the slots: as many wait, conditioned, as are decoded."""


class Vocoder:
    """A loaded vocoder model. It is thread-safe; requests of all threads are decoded together.

    A waveform depends on its mel, its seed and the backend, and never on the requests decoded together with it.

    A vocoder made by `load` can be pickled, for example as an argument of a spawned worker process: the pickle contains
    the path, the hashes of the model's files and the load options, and the worker loads the model again, with the same
    backend and engine. A forked process cannot use it.
    """

    def __init__(self, loaded: LoadedModel, batch: int | None = None, limits: SchedulerLimits = DEFAULT_LIMITS) -> None:
        """Makes a vocoder from a loaded model; usually `load` is called instead.

        Args:
            loaded: model and executor.
            batch: streams decoded together, for executors with an open number of slots; ``None`` uses the value that
                the model was loaded with.
            limits: bounds of queue, memory and lanes.

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

    @classmethod
    def load(
        cls,
        dir: str | Path | None = None,
        backend: str = "auto",
        *,
        batch: int | None = None,
        threads: int | None = None,
        precision: LoadPrecision | None = None,
        cache: str | Path | None = None,
        limits: SchedulerLimits = DEFAULT_LIMITS,
        probe: bool = False,
    ) -> Vocoder:
        """Loads a model directory; the same as `wavernn_trt.load`.

        Args:
            dir: a model directory, or with ``backend="torch"`` a checkpoint; ``None`` is the shipped voice.
            backend: ``native`` or ``onnxruntime`` (CPU), ``torch`` (the reference, slow), ``tensorrt`` or
                ``tensorrt_rtx`` (engines on a GPU, built with ``wavernn-trt build``), ``cuda`` (a GPU without TensorRT;
                needs no build), or ``auto``: an engine if one fits this machine, else ``cuda`` if it can run, else
                ``native`` if it can, else ``onnxruntime``.
            batch: streams decoded together by `vocode_batch` and by folding; ``None`` is 8, 1 for ``torch``, 32 for
                ``cuda``, and the maximum of an engine.
            threads: CPU threads of a lane; ``None`` lets the backend choose, with a number of lanes for the machine.
            precision: on a GPU: ``fp32``, ``fp16``, ``bf16`` or, for ``cuda`` only, ``fp8`` (weights only). ``None``
                selects the engine used last; for ``cuda``, fp8 if all products of a quantised directory are in it,
                else the best for the GPU. For ``native``: ``fp32``, ``bf16`` or ``int8`` (weights only); ``None`` is
                the directory's default.
            cache: folder of the engines' plans; ``None`` is the user's cache folder.
            limits: bounds of queue, memory and lanes, and the timeout of an executor.
            probe: whether to vocode the model's probe first, and to refuse the model if the result differs.

        Raises:
            ValueError: the directory, the backend or a number is not valid; the message names the valid ones.
            ExecutorError: the probe failed: the model is damaged, or its executor computes wrong results.
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
        """Pickles the model's path and load options, see `LoadedModel`.

        Raises:
            VocoderError: the vocoder was not made by `load`.
        """
        return type(self)._open, (self.loaded, self.batch, self.limits)

    def check_process(self) -> None:
        """Checks that this is the process that loaded the vocoder; every method that computes calls it first.

        Raises:
            VocoderError: the process was forked later, and does not have the vocoder's threads.
        """
        self._scheduler.check_process()

    @property
    def config(self) -> LoadedModel:
        """The loaded model: ``config.path``, ``config.model`` (family, sizes), ``config.audio`` (mel settings)."""
        return self.loaded

    @property
    def sample_rate(self) -> int:
        """Sample rate of the waveforms in Hz."""
        return self.loaded.audio.sample_rate

    @property
    def chunk(self) -> int:
        """Samples of a chunk, the unit of decoding."""
        return self.loaded.windows.steps

    @property
    def engine(self) -> str | None:
        """Name of the engine's plan in the cache, or of the ``cuda`` kernel; ``None`` for other backends."""
        return self.loaded.engine

    @property
    def precision(self) -> str | None:
        """Precision of the decoder's weights; ``None`` if the backend has no choice."""
        return self.loaded.precision

    @property
    def backend(self) -> str:
        """Name of the executor."""
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
        """Vocodes a mel spectrogram.

        Args:
            mel: float [n_mels, frames], in the model's range (``config.audio.mel_range``).
            seed: seed of the random numbers for sampling, 0 … 2**64 - 1.
            uniforms: the random numbers, instead of a seed: [frames * hop_length] or, for mixtures,
                [frames * hop_length, 2].
            fold: cuts the utterance into folds of this many samples, which are decoded together; faster for long mels.
            overlap: samples over which folds are crossfaded, by default 550.
            sample_rate: sample rate of the mel in Hz; checked if given.

        Returns:
            float32 [frames * hop_length], about [-1, 1].

        Raises:
            VocoderError: an argument is not valid; the message has the value found and the value expected.
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
        """Vocodes several mel spectrograms together; each waveform is bit-identical to that of `vocode`.

        Args:
            mels: each as for `vocode`; lengths may differ.
            seeds: one seed per mel; by default 0 for all, as for `vocode`.
            uniforms: one array per mel, instead of seeds.
            fold: see `vocode`.
            overlap: see `vocode`.
            sample_rate: see `vocode`.

        Raises:
            VocoderError: as for `vocode`, or the number of seeds or uniforms differs from that of mels.
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
        # All mels are checked before decoding starts. They are not copied: the caller waits here.
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
        """Vocodes any number of requests, with enough of them in flight to keep all slots busy.

        Args:
            requests: the iterator is advanced only when another request may be in flight.
            order: order of the results.
            progress: see `submit`.

        Returns:
            An iterator over each request's number, from 0, and its ticket, which is done: ``result()`` returns the
            waveform or raises that request's error; other requests are not affected.
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
        """Submits a request, which is decoded together with all others.

        Args:
            request: the request.
            urgency: ``batch`` (default, also in `AsyncVocoder`), or ``interactive`` if a user waits for this request:
                it comes before batch work. Streams are always interactive.
            deadline: seconds from now to the complete waveform; the request is dropped as soon as it cannot meet it.
            wait: whether to wait while the queue is full.
            sink: receives the samples as they are decoded; the ticket's waveform is then empty.
            progress: called with the number of steps of each decoded piece, including the warm-up of folds; from
                another thread.

        Returns:
            A future of the waveform, float32 [samples]; cancelling it frees its slot at the next chunk. It fails with a
            `DeadlineError`, or with an `ExecutorError` if the backend fails twice on this request.

        Raises:
            VocoderError: the request is not valid, or the vocoder is closed.
            QueueFullError: the queue is full, and ``wait`` is false.
            DeadlineError: the queue had no room before the deadline.
            ExecutorError: the backend has failed too often and is no longer used.
        """
        if urgency not in URGENCIES:
            raise VocoderError(f"urgency: found {urgency!r}, expected one of {', '.join(URGENCIES)}")
        utterance = self._prepare(request)
        if sink is not None and sink.room() is not None and utterance.folds:
            raise VocoderError(
                "fold: found one for a sink with bounded room, expected none: with folds, all samples come at once"
            )
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
        """Returns the current slots, queue, speed and latencies.

        Raises:
            VocoderError: see `check_process`.
        """
        self.check_process()
        return self._scheduler.statistics()

    @property
    def state(self) -> SchedulerState:
        """``ready``, or the state in which requests are refused.

        ``draining`` and ``closed`` refuse them with a `ClosedError`, ``broken`` with an `ExecutorError`: the backend
        has failed too often and is no longer used.
        """
        self.check_process()
        return self._scheduler.state

    def drain(self, seconds: float | None = None) -> bool:
        """Refuses new requests from now on, and waits until those in flight have ended.

        Args:
            seconds: maximum wait; ``None`` is no limit.

        Returns:
            Whether all requests have ended in time.
        """
        self.check_process()
        return self._scheduler.drain(seconds)

    def close(self) -> None:
        """Cancels all requests and ends the threads. Also runs when the vocoder is garbage-collected."""
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
        """Vocodes a mel spectrogram as a stream of PCM frames; joined, float32 frames equal the result of `vocode`.

        It is decoded before batch work, at most ``seconds`` ahead of the listener. The stream is iterated, or read in
        other ways (`AudioStream`); closing or dropping it cancels the rest.

        The mel may still be arriving: an iterator over its pieces, float [n_mels, k] or single frames [n_mels], is
        advanced in its own thread, about two seconds ahead. The samples of a frame are drawn when `lookahead` frames
        after it have arrived. Convolutional conditioners (fatchord, torchaudio, Coqui) then give the result of the
        whole mel: bit-identical if it has more than 256 frames, else up to rounding. The univoc conditioner, which
        reads the whole mel in both directions, is run over windows; a longer look-ahead improves the result. Bits never
        depend on how the mel is cut into pieces.

        Args:
            mel: see `vocode`; or an iterator over its pieces.
            seed: see `vocode`.
            uniforms: see `vocode`; not with an iterator.
            frame: samples per PCM frame, by default 20 ms; the last may be shorter.
            sample_rate: see `vocode`.
            lookahead: mel frames to wait for, if the model leaves the choice (univoc); only with an iterator.
            encoding: encoding of the samples, ``float32`` or ``int16``.
            dither: whether int16 is dithered.
            seconds: maximum seconds of unread audio.
            memory: memory of the ring buffer; see `AudioStream`.
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
        """Vocodes into a stream made by the caller; see `stream`, which makes one.

        Args:
            stream: a new stream with the model's sample rate.
            mel: see `stream`.
            seed: see `stream`.
            uniforms: see `stream`.
            sample_rate: see `stream`.
            lookahead: see `stream`.
            deadline: see `stream`.
            wait: see `stream`.
            sink: receives the samples and forwards them to the stream's sink; ``None`` is the stream's sink itself.

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
                raise VocoderError("uniforms: found some with an iterator over a mel, expected a seed instead")
            utterance, feed = self._incremental_requests(lookahead).begin(
                mel, seed, sample_rate, on_ready=self._scheduler.wake
            )
        else:
            if lookahead is not None:
                raise VocoderError(f"lookahead: found {lookahead} with a whole mel, expected it only with an iterator")
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
        """Returns the frames of an arriving mel that `stream` waits for after a frame before it draws its samples.

        The first call with each value runs the conditioner on short mels.

        Args:
            frames: ``lookahead`` of `stream`.

        Raises:
            VocoderError: this model cannot vocode an arriving mel; the message has the reason.
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
            ticket.cancel()  # the caller was interrupted and does not need it
            raise

    def labels(
        self, mel: ArrayLike, *, seed: int = 0, uniforms: ArrayLike | None = None, urgency: Urgency = "batch"
    ) -> NDArray[Any]:
        """Returns the samples as drawn, before conversion to a waveform; invalid output is not detected.

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
        """Returns the outputs of the last layer with teacher forcing: each step has the given previous sample as input.

        Args:
            mel: see `vocode`; the conditioning is the same as in generation.
            samples: [n], n at most frames * hop_length: labels (integers), or values for mixtures. The input of step t
                is samples[t - 1]; that of step 0 is the same as in generation.

        Returns:
            float32 logits [n, outputs].

        Raises:
            VocoderError: as for `vocode`, or the samples are outside this model's range.
        """
        self.check_process()
        return self.loaded.teacher_forced(mel, samples)

    def mel(self, waveform: ArrayLike, sample_rate: float) -> FloatArray:
        """Computes the mel spectrogram of a recording with the model's settings, for copy synthesis.

        Args:
            waveform: float [samples], mono, in [-1, 1].
            sample_rate: its sample rate in Hz, an integer; it is resampled to the model's.

        Returns:
            float32 [n_mels, frames].

        Raises:
            VocoderError: the waveform is not mono or not finite, or the sample rate is not valid.
        """
        return mel_of_recording(waveform, sample_rate, self.loaded.audio)


load = Vocoder.load


def _check_deadline(deadline: float | None) -> float | None:
    if deadline is not None and not (isinstance(deadline, int | float) and deadline > 0):
        raise VocoderError(f"deadline: found {deadline!r}, expected a positive number of seconds from now")
    return deadline
