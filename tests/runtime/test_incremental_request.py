"""Requests whose mel comes from an iterator while it is decoded."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conditioning_rows import condition_in_runs
from numpy.typing import ArrayLike, NDArray

from wavernn_trt.runtime.conditioning.incremental_conditioning import IncrementalConditioning
from wavernn_trt.runtime.conditioning.incremental_runs import incremental_runs
from wavernn_trt.runtime.conditioning.windows import ConditioningWindows, WholeConditioning
from wavernn_trt.runtime.decoding.chunk_loop import LaneLoop, Stream
from wavernn_trt.runtime.decoding.uniforms import SeededUniforms
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.incremental_request import MelReader

if TYPE_CHECKING:
    from wavernn_trt.export.config import AudioConfig
    from wavernn_trt.runtime.vocoder import Vocoder

MakeMel = Callable[..., NDArray[np.float32]]
SECONDS = 20
STEPS = 50


class Watched(IncrementalConditioning):
    """Records when the reader of the mel begins to wait for room."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.full: queue.Queue[int] = queue.Queue()

    def wait_for_room(self, ahead: int) -> bool:
        with self._changed:
            if self._frames - self._window_first >= ahead:
                self.full.put(self._frames)
        return super().wait_for_room(ahead)

    def wait_until_full(self, frames: int) -> None:
        """Waits until the reader waits with this number of frames."""
        while self.full.get(timeout=SECONDS) != frames:
            pass


class Listener:
    """Decodes a stream in the test's own thread."""

    def __init__(self, vocoder: Vocoder) -> None:
        self.audio = audio = vocoder.config.audio
        self.model = vocoder.config.model
        self.executor = vocoder.executor
        self.windows = ConditioningWindows(self.model, audio, STEPS)
        self.blocks = incremental_runs(self.model, audio.n_mels, self.executor.condition)
        self.woken = threading.Event()
        self.conditioning = Watched(
            self.windows, self.blocks, audio.n_mels, self.executor.condition, on_ready=self.woken.set
        )

    def feed(self, pieces: Iterable[ArrayLike], **options: Any) -> MelReader:
        feed = MelReader(pieces, self.conditioning, self.audio, **options)
        feed.start()
        return feed

    def take_windows(self, first: int, last: int) -> None:
        """Takes the windows of chunks as soon as they are ready, without decoding."""
        for start in range(first * STEPS, (last + 1) * STEPS, STEPS):
            while self.woken.clear() or not self.conditioning.ready(start):
                assert self.woken.wait(SECONDS)
            self.conditioning.window(start)

    def labels(self, conditioning: Any = None) -> Iterator[NDArray[Any]]:
        """Labels chunk by chunk, each as soon as possible."""
        conditioning = self.conditioning if conditioning is None else conditioning
        with self.executor.lane(1) as lane:
            loop: LaneLoop[Stream] = LaneLoop(lane, self.windows)
            stream = Stream(conditioning, SeededUniforms(self.model, 3))
            loop.enter(stream)
            while loop.streams and not stream.ended:
                self.woken.clear()
                if stream.ready():
                    loop.submit([stream])
                    yield loop.collect()[0].samples
                elif not stream.ended and conditioning.steps is None:
                    assert self.woken.wait(SECONDS)
                if not loop.streams:
                    return

    def decoded(self) -> NDArray[Any]:
        return np.concatenate([np.zeros(0, np.int32), *self.labels()])

    def expected(self, mel: NDArray[np.float32]) -> NDArray[Any]:
        rows = condition_in_runs(self.blocks, self.model, mel, self.executor.condition)
        return np.concatenate(list(self.labels(WholeConditioning(self.windows, rows))))


@pytest.fixture
def audio(tiny_vocoder: Vocoder) -> AudioConfig:
    return tiny_vocoder.config.audio


@pytest.fixture
def listener(tiny_vocoder: Vocoder) -> Listener:
    return Listener(tiny_vocoder)


def test_single_frames_and_pieces_of_any_length_make_one_mel(listener: Listener, tiny_mel: MakeMel) -> None:
    mel = tiny_mel(60)
    pieces = [mel[:, 0], mel[:, 1:30], mel[:, 30:30], list(mel[:, 30]), mel[:, 31:].astype(np.float64)]
    feed = listener.feed(pieces)
    decoded = listener.decoded()
    assert feed.join(SECONDS)
    assert listener.conditioning.error is None
    assert np.array_equal(decoded, listener.expected(mel))
    assert len(decoded) == 60 * 40


def test_the_first_chunk_comes_before_the_frame_after_the_look_ahead(listener: Listener, tiny_mel: MakeMel) -> None:
    mel, first_chunk_came = tiny_mel(40), threading.Event()
    enough = 4 + listener.blocks.after  # type: ignore[attr-defined]  # the first block, which a chunk lies in

    def frames() -> Iterator[NDArray[np.float32]]:
        yield from mel.T[:enough]
        assert first_chunk_came.wait(SECONDS)
        yield mel[:, enough:]

    listener.feed(frames())
    chunks = listener.labels()
    first = next(chunks)
    first_chunk_came.set()
    assert np.array_equal(np.concatenate([first, *chunks]), listener.expected(mel))


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        (np.full((20, 3), np.nan, np.float32), "mel, piece 2: found NaN or infinite values, expected finite numbers"),
        (
            np.zeros((3, 20), np.float32),
            r"mel, piece 2: found shape \(3, 20\), expected \[20, frames\]; it looks trans",
        ),
        (np.zeros(19, np.float32), r"mel, piece 2: found shape \(19,\), expected \[20, frames\]"),
        (np.zeros((20, 3), np.int16), "mel, piece 2: found int16, expected floating-point numbers"),
        ([[0.0, 1.0], [0.0]], "mel, piece 2: found rows of different lengths"),
    ],
)
def test_the_error_of_a_wrong_piece_comes_after_the_steps_that_earlier_frames_allow(
    listener: Listener, tiny_mel: MakeMel, piece: Any, message: str
) -> None:
    mel = tiny_mel(30)
    feed = listener.feed([mel[:, :20], mel[:, 20:], piece, mel])
    decoded = listener.decoded()
    assert feed.join(SECONDS)
    assert isinstance(listener.conditioning.error, VocoderError)
    with pytest.raises(VocoderError, match=message):
        raise listener.conditioning.error
    assert len(decoded) == 12 * 40
    assert np.array_equal(decoded, listener.expected(mel)[: 12 * 40])


def test_a_mel_for_another_sample_rate_is_refused(listener: Listener, tiny_mel: MakeMel) -> None:
    listener.feed([tiny_mel(30)], sample_rate=22050)
    assert not len(listener.decoded())
    assert "mel, piece 0: found one made for 22050 Hz, expected 16000 Hz" in str(listener.conditioning.error)


@pytest.mark.parametrize("pieces", [[], [np.zeros((20, 0), np.float32)]])
def test_an_iterator_without_a_frame_is_an_error(listener: Listener, pieces: list[Any]) -> None:
    listener.feed(pieces)
    assert not len(listener.decoded())
    assert str(listener.conditioning.error) == "mel: found no frames, expected at least one"


def test_other_objects_are_refused_at_once(listener: Listener) -> None:
    with pytest.raises(VocoderError, match=r"found int, expected an array, or an iterator over pieces \[20, k\]"):
        listener.feed(3)  # type: ignore[arg-type]


def test_frames_are_read_only_a_bounded_time_ahead(listener: Listener, tiny_mel: MakeMel) -> None:
    taken = 0

    def frames() -> Iterator[NDArray[np.float32]]:
        nonlocal taken
        for frame in tiny_mel(400).T:
            taken += 1
            yield frame

    feed = listener.feed(frames(), read_ahead=0.25)  # seconds: 100 frames
    listener.conditioning.wait_until_full(100)
    assert taken == 100
    listener.take_windows(0, 7)  # the last window begins in frame 8
    listener.conditioning.wait_until_full(108)
    assert taken == 108
    listener.take_windows(8, 400 * 40 // STEPS - 1)
    assert feed.join(SECONDS)
    assert taken == 400


def test_a_long_piece_is_conditioned_as_it_is_decoded(listener: Listener, tiny_mel: MakeMel) -> None:
    feed = listener.feed([tiny_mel(1000)], read_ahead=0.25)
    listener.conditioning.wait_until_full(128)  # in parts of 64
    assert listener.conditioning.nbytes < 600 * 4 * listener.model.columns
    assert listener.conditioning.ready(0)
    listener.take_windows(0, 1000 * 40 // STEPS - 1)
    assert listener.conditioning.nbytes < 600 * 4 * listener.model.columns
    assert feed.join(SECONDS)
    assert listener.conditioning.steps == 1000 * 40


def test_without_reading_ahead_a_chunk_still_gets_its_frames(listener: Listener, tiny_mel: MakeMel) -> None:
    mel = tiny_mel(60)
    listener.feed(iter(mel.T), read_ahead=0.0)
    assert np.array_equal(listener.decoded(), listener.expected(mel))


def test_stopping_closes_the_generator_in_the_reader_s_thread(listener: Listener, tiny_mel: MakeMel) -> None:
    closed: list[str] = []

    def pieces() -> Iterator[NDArray[np.float32]]:
        try:
            while True:
                yield tiny_mel(50)
        finally:
            closed.append(threading.current_thread().name)

    feed = listener.feed(pieces(), read_ahead=0.5)
    listener.conditioning.wait_until_full(200)  # half a second is 200 frames
    feed.stop()
    feed.stop()
    assert feed.join(SECONDS)
    assert closed == ["wavernn-trt-mel-feed"]


def test_stopping_does_not_wait_for_an_iterator_that_is_busy(listener: Listener, tiny_mel: MakeMel) -> None:
    begun, go_on, requested = threading.Event(), threading.Event(), []

    def pieces() -> Iterator[NDArray[np.float32]]:
        for number in range(9):
            requested.append(number)
            begun.set()
            assert go_on.wait(SECONDS)
            yield tiny_mel(50)

    feed = listener.feed(pieces())
    assert begun.wait(SECONDS)
    feed.stop()
    assert not feed.join(0)
    go_on.set()
    assert feed.join(SECONDS)
    assert requested == [0]
    assert not listener.conditioning.ready(0)  # frames that came later were not conditioned
