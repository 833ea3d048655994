"""Conditioning while the mel arrives: equal bits for all cuts of the mel, the least delay, and bounded memory."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conditioning_rows import condition_in_runs, expanded_columns
from numpy.typing import NDArray
from small_voice import SAMPLE_MEL

from wavernn_trt.export.model_directory import ModelDirectory
from wavernn_trt.runtime.conditioning.incremental_conditioning import IncrementalConditioning
from wavernn_trt.runtime.conditioning.incremental_runs import RECURRENT_LOOKAHEAD, IncrementalRuns, incremental_runs
from wavernn_trt.runtime.conditioning.mel_blocks import BLOCK_FRAMES
from wavernn_trt.runtime.conditioning.windows import ConditioningWindows, Window
from wavernn_trt.runtime.errors import ExecutorError, VocoderError
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.loaded_model import LoadedModel, load_model
from wavernn_trt.runtime.vocoder import shipped_voice

CONVOLUTIONAL = ("fatchord", "no_aux", "turian")
LAYOUTS = ("univoc", *CONVOLUTIONAL)

MakeModel = Callable[..., "Model"]


@dataclasses.dataclass(frozen=True)
class Model:
    """A loaded model, its windows and its runs."""

    opened: LoadedModel
    windows: ConditioningWindows
    blocks: IncrementalRuns

    @classmethod
    def of(cls, opened: LoadedModel, lookahead: int | None = None, steps: int | None = None) -> Model:
        model, audio = opened.model, opened.audio
        blocks = incremental_runs(model, audio.n_mels, opened.executor.condition, lookahead)
        # By default, chunks begin at any step of a frame and read several frames.
        steps = audio.hop_length * 10 // 3 if steps is None else steps
        return cls(opened, ConditioningWindows(model, audio, steps, opened.upsampling), blocks)

    @property
    def hop(self) -> int:
        return self.opened.audio.hop_length

    def mel(self, frames: int) -> NDArray[np.float32]:
        return np.random.default_rng(frames).random((self.opened.audio.n_mels, frames)).astype(np.float32)

    def starts(self, frames: int) -> range:
        """The chunks' first steps."""
        return range(0, frames * self.hop, self.windows.steps)

    def incremental(self, **options: Any) -> IncrementalConditioning:
        bins, condition = self.opened.audio.n_mels, self.opened.executor.condition
        return IncrementalConditioning(self.windows, self.blocks, bins, condition, **options)

    def rows(self, mel: NDArray[np.float32]) -> NDArray[np.float32]:
        """All conditioning rows of a mel, computed in a stream's runs."""
        return condition_in_runs(self.blocks, self.opened.model, mel, self.opened.executor.condition)

    def read(self, window: Window) -> list[NDArray[np.float32]]:
        return expanded_columns(self.opened.model, window)

    def whole(self, rows: NDArray[np.float32], start: int) -> list[NDArray[np.float32]]:
        """The conditioning of the chunk from ``start`` on, cut from all rows."""
        return self.read(self.windows.cut(rows, start))


@pytest.fixture(scope="module")
def make_model(request: pytest.FixtureRequest, small_directory: Callable[[str], ModelDirectory]) -> MakeModel:
    """A function (layout, backend, lookahead, steps) -> a model; univoc's on ONNX Runtime is the shipped voice."""

    def make(
        layout: str, backend: str = "onnxruntime", lookahead: int | None = None, steps: int | None = None
    ) -> Model:
        if backend == "torch":
            checkpoint = request.getfixturevalue("small_checkpoint")(layout)
            from wavernn_trt.runtime.executors.torch_executor import TorchExecutor

            model = checkpoint.model
            executor = TorchExecutor(model)
            opened = LoadedModel(Path(layout), model.config, checkpoint.audio, model.upsampling, executor)
        else:
            path = shipped_voice() if layout == "univoc" else small_directory(layout).path
            opened = load_model(path, LoadOptions(backend, threads=1))
        return Model.of(opened, lookahead, steps)

    return make


def cuts(mel: NDArray[np.float32]) -> Iterator[list[NDArray[np.float32]]]:
    """The mel whole, by single frames, and in pieces of random lengths, some of them empty."""
    frames = mel.shape[1]
    yield [mel]
    yield np.split(mel, range(1, frames), axis=1)
    random = np.random.default_rng(1)
    yield np.split(mel, np.sort(random.integers(0, frames, 1 + frames // 7)), axis=1)


def follow(
    model: Model, pieces: Sequence[NDArray[np.float32]]
) -> tuple[list[list[NDArray[Any]]], IncrementalConditioning]:
    """The conditioning of each chunk, cut as soon as it is ready."""
    conditioning = model.incremental()
    read: list[list[NDArray[Any]]] = []

    def take() -> None:
        while conditioning.ready(start := len(read) * model.windows.steps):
            read.append(model.read(conditioning.window(start)))

    for piece in pieces:
        conditioning.append(piece)
        take()
    conditioning.end()
    take()
    return read, conditioning


def assert_same(found: list[list[NDArray[np.float32]]], wanted: list[list[NDArray[np.float32]]]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("layout", "backend"),
    [*((layout, "onnxruntime") for layout in LAYOUTS), ("univoc", "torch"), ("fatchord", "torch")],
)
def test_bits_do_not_depend_on_how_the_mel_is_cut(layout: str, backend: str, make_model: MakeModel) -> None:
    model = make_model(layout, backend)
    for frames in (1, 2, 21, BLOCK_FRAMES + 1, 150):
        mel = model.mel(frames)
        rows = model.rows(mel)
        wanted = [model.whole(rows, start) for start in model.starts(frames)]
        for pieces in cuts(mel):
            read, conditioning = follow(model, pieces)
            assert_same(read, wanted)
            assert (conditioning.steps, conditioning.error) == (frames * model.hop, None)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the sums of MLAS on x86-64")
def test_a_convolutions_rows_are_those_of_the_whole_mel_bit_for_bit(reference: ModuleType, tmp_path: Path) -> None:
    import torch

    from wavernn_trt.export import export, read_checkpoint

    # With this many products, MLAS sums in parts, whose number depends on the number of frames.
    layout = dataclasses.replace(reference.SMALL, n_mels=80, compute_size=16)
    torch.save(reference.random_state(layout), tmp_path / "latest.pyt")
    directory = export(read_checkpoint(tmp_path / "latest.pyt"), tmp_path / "voice", steps=4).directory
    model = Model.of(load_model(directory.path, LoadOptions("onnxruntime", threads=1)))
    for frames in (BLOCK_FRAMES + 1, 130, 200):
        mel = model.mel(frames)
        rows, whole = model.rows(mel), model.opened.executor.condition(mel)
        starts = model.starts(frames)
        assert_same([model.whole(rows, start) for start in starts], [model.whole(whole, start) for start in starts])


@pytest.mark.parametrize("layout", CONVOLUTIONAL)
def test_a_convolutions_rows_are_those_of_the_whole_mel(layout: str, make_model: MakeModel) -> None:
    model = make_model(layout)
    for frames in (1, 3, 64, 129):
        mel = model.mel(frames)
        rows, whole = model.rows(mel), model.opened.executor.condition(mel)
        for start in model.starts(frames):
            for found, wanted in zip(model.whole(rows, start), model.whole(whole, start), strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_a_recurrent_conditioner_takes_a_short_mel_in_one_run(backend: str, make_model: MakeModel) -> None:
    model = make_model("univoc", backend)
    mel = model.mel(RECURRENT_LOOKAHEAD + 1)
    assert np.array_equal(model.rows(mel), model.opened.executor.condition(mel))


def test_a_longer_look_ahead_of_a_recurrent_conditioner_makes_a_smaller_error(make_model: MakeModel) -> None:
    mel = np.load(SAMPLE_MEL)[:, :200]
    errors = []
    for lookahead in (0, 4, RECURRENT_LOOKAHEAD, 80):
        model = make_model("univoc", lookahead=lookahead)
        assert model.blocks.lookahead == lookahead
        errors.append(float(np.abs(model.rows(mel) - model.opened.executor.condition(mel)).mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 5


@pytest.mark.parametrize(("layout", "frames"), [("fatchord", 2), ("no_aux", 2), ("turian", 2), ("univoc", 19)])
def test_a_frame_is_ready_once_its_look_ahead_has_arrived(layout: str, frames: int, make_model: MakeModel) -> None:
    hop = make_model(layout).hop
    model = make_model(layout, steps=hop)
    assert model.blocks.lookahead == frames
    conditioning, mel = model.incremental(), model.mel(39)
    for count in range(1, 40):
        conditioning.append(mel[:, count - 1 : count])
        ready = sum(conditioning.ready(start) for start in model.starts(40))
        if layout == "univoc":  # in blocks of four, each with 16 frames after it
            assert ready == max(0, (count - 16) // 4 * 4)
        else:
            assert ready == max(0, count - frames)
    conditioning.end()
    assert sum(conditioning.ready(start) for start in model.starts(40)) == 39
    assert conditioning.steps == 39 * hop


@pytest.mark.parametrize("layout", ["linear", "linear_no_aux"])
def test_models_that_need_the_length_of_the_mel_are_refused(layout: str, make_model: MakeModel) -> None:
    with pytest.raises(VocoderError, match=r"interpolates between its first and its last frame.*np\.concatenate"):
        make_model(layout, "torch")


@pytest.mark.parametrize(
    ("layout", "lookahead", "message"),
    [
        ("fatchord", 5, "found 5 frames, expected 2, the frames that this model's conditioner reads"),
        ("univoc", -1, "found -1, expected a number of frames from 0 on"),
        ("univoc", 1.5, "found 1.5, expected a number of frames"),
    ],
)
def test_an_invalid_look_ahead_is_refused(layout: str, lookahead: Any, message: str, make_model: MakeModel) -> None:
    with pytest.raises(VocoderError, match=message):
        make_model(layout, "torch", lookahead)


def test_a_conditioner_that_reads_the_whole_mel_is_not_taken_for_a_convolution(
    make_model: MakeModel,
) -> None:
    opened = make_model("univoc", "torch").opened
    other_family = dataclasses.replace(opened.model, family="coqui")
    with pytest.raises(VocoderError, match="reads more than 32 frames to either side"):
        incremental_runs(other_family, opened.audio.n_mels, opened.executor.condition)


@pytest.mark.parametrize("layout", ["univoc", "fatchord"])
def test_memory_does_not_grow_with_the_mel(layout: str, make_model: MakeModel) -> None:
    model = make_model(layout)
    piece = model.mel(10)
    conditioning = model.incremental()
    start = 0
    most = []
    for _ in range(2):
        sizes = []
        for _ in range(150):
            conditioning.append(piece)
            while conditioning.ready(start):
                conditioning.window(start)
                start += model.windows.steps
            sizes.append(conditioning.nbytes)
        most.append(max(sizes))
    assert start > 2900 * model.hop
    assert most[1] == most[0] < 400 * 4 * (model.opened.model.columns + model.opened.audio.n_mels)


@pytest.mark.parametrize("layout", ["univoc", "fatchord"])
def test_an_error_comes_after_all_steps_that_the_frames_before_it_allow(layout: str, make_model: MakeModel) -> None:
    model = make_model(layout)
    mel = model.mel(50)
    known: list[int | None] = []
    conditioning = model.incremental(on_ready=lambda: known.append(conditioning.steps))
    conditioning.append(mel)
    error = OSError("the connection is gone")
    conditioning.fail(error)
    conditioning.append(mel)
    conditioning.end()
    conditioning.fail(OSError("again"))
    assert conditioning.error is error
    steps = {"univoc": 32, "fatchord": 48}[layout] * model.hop
    assert conditioning.steps == steps
    assert known[:2] == [None, steps]
    rows = model.rows(mel)
    for start in range(0, steps, model.windows.steps):
        assert conditioning.ready(start)
        count = min(model.windows.steps, steps - start)
        read = [part[:count] for part in model.read(conditioning.window(start))]
        assert_same([read], [[part[:count] for part in model.whole(rows, start)]])
    assert not conditioning.ready(steps)


@pytest.mark.parametrize("ended", [False, True])
def test_an_utterance_can_be_decoded_again_while_its_beginning_is_kept(ended: bool, make_model: MakeModel) -> None:
    model = make_model("fatchord", "torch")
    mel = model.mel(150)
    wanted = model.whole(model.rows(mel), 0)
    dropping, keeping = model.incremental(), model.incremental(kept=200)
    for conditioning in (dropping, keeping):
        conditioning.append(mel)
        if ended:
            conditioning.end()
        for start in model.starts(140):
            assert conditioning.ready(start)
            conditioning.window(start)
    assert keeping.ready(0)
    assert_same([model.read(keeping.window(0))], [wanted])
    assert not dropping.ready(0)
    assert dropping.steps == 0  # so that decoding ends here, with the error
    assert isinstance(dropping.error, ExecutorError)
    assert "cannot be decoded again from its beginning" in str(dropping.error)


def test_a_failure_of_the_conditioner_becomes_an_executor_error(make_model: MakeModel) -> None:
    model = make_model("fatchord", "torch")
    answers = iter([model.opened.executor.condition])

    def once(mel: NDArray[np.float32]) -> NDArray[np.float32]:
        for condition in answers:
            return condition(mel)
        raise RuntimeError("out of memory")

    conditioning = IncrementalConditioning(model.windows, model.blocks, model.opened.audio.n_mels, once)
    conditioning.append(model.mel(20))
    with pytest.raises(RuntimeError, match="out of memory"):
        conditioning.append(model.mel(20))
    assert isinstance(conditioning.error, ExecutorError)
    assert str(conditioning.error) == "the conditioner failed: out of memory"
    assert conditioning.steps == 18 * model.hop
