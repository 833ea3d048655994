"""The ``cuda`` executor on the pretended driver: the host build of the kernels decodes models.

../test_pretended_driver.py runs this in a process that finds that driver. Expected samples are computed by PyTorch
in double precision, or by the kernel's reference in numpy.
"""

from __future__ import annotations

import ctypes
import functools
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_work import LIBRARY, held, work
from kernel_cases import SequenceCase, small_shapes
from numpy.typing import NDArray
from small_voice import SAMPLE_MEL, SMALL_VOICE

from wavernn_trt.engines.gpu import DriverState, Gpu, driver_state
from wavernn_trt.export.model_directory import CONFIG, ModelDirectory, open_model_directory, write_manifest
from wavernn_trt.export.operators import Precision
from wavernn_trt.export.sequence import FusedSequence
from wavernn_trt.plugins import compilers, driver
from wavernn_trt.plugins.choices import Row, write_rows
from wavernn_trt.plugins.compile import KernelCache
from wavernn_trt.plugins.reference import decode_sequence
from wavernn_trt.plugins.stored_weights import store_operands
from wavernn_trt.runtime.conditioning.windows import ConditioningWindows, WholeConditioning
from wavernn_trt.runtime.decoding.chunk_loop import LaneLoop, Stream, decode_streams
from wavernn_trt.runtime.decoding.uniforms import SeededUniforms
from wavernn_trt.runtime.errors import KernelStallError, NoLogitsError, VocoderError
from wavernn_trt.runtime.executors import cuda_executor, kernel_plan, registry
from wavernn_trt.runtime.executors import device as gpu_device
from wavernn_trt.runtime.executors.bindings_device import BindingsDevice
from wavernn_trt.runtime.executors.cuda_executor import SLOTS, CudaExecutor, open_cuda, require_machine
from wavernn_trt.runtime.executors.device import NoMachineError
from wavernn_trt.runtime.executors.kernel_plan import KernelDecoder, KernelPlan
from wavernn_trt.runtime.executors.lanes import DeviceLane
from wavernn_trt.runtime.executors.protocol import Chunk, Executor, State
from wavernn_trt.runtime.load_options import LoadOptions
from wavernn_trt.runtime.loaded_model import LoadedModel, load_model
from wavernn_trt.runtime.request import Request
from wavernn_trt.runtime.vocoder import Vocoder
from wavernn_trt.scripts.cli import main

SHAPES = small_shapes()
MEL = np.load(SAMPLE_MEL)
STEPS, BATCH = 4, 3
WAITS = 1 << 16
"""Polls of a kernel that is to give up: a quarter of a second or so, where a thread is stopped for far less."""
LENGTHS = [STEPS * 2 + 5, 7, STEPS, STEPS + 1]


@pytest.fixture(scope="module")
def voice() -> ModelDirectory:
    return open_model_directory(SMALL_VOICE)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> KernelCache:
    return KernelCache(tmp_path_factory.mktemp("cubins"))


Open = Callable[..., CudaExecutor]


@pytest.fixture
def open_voice(voice: ModelDirectory, cache: KernelCache) -> Open:
    """A function precision -> the shipped voice's executor."""

    def make(precision: Precision = "fp32") -> CudaExecutor:
        return open_cuda(voice, LoadOptions(precision=precision, batch=BATCH, threads=1), cache=cache, steps=STEPS)[0]

    return make


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend, opened by its name, has chunks of few steps."""
    monkeypatch.setattr(cuda_executor, "STEPS", 50)


@pytest.fixture
def memory() -> Iterator[ctypes.c_size_t]:
    """Bytes of device memory in all."""
    size = ctypes.c_size_t.in_dll(LIBRARY, "pretended_memory")
    before = size.value
    yield size
    size.value = before


@pytest.fixture
def room() -> Iterator[ctypes.c_int]:
    """Blocks that a multiprocessor takes."""
    number = ctypes.c_int.in_dll(LIBRARY, "pretended_room")
    yield number
    number.value = 1


@pytest.fixture
def absent() -> Iterator[ctypes.c_int]:
    """How many of the launches to come lack their last block."""
    number = ctypes.c_int.in_dll(LIBRARY, "pretended_absent")
    yield number
    number.value = 0


def windows_of(directory: ModelDirectory) -> ConditioningWindows:
    return ConditioningWindows(directory.model, directory.audio, STEPS, directory.upsampling)


def streams_of(directory: ModelDirectory, executor: Executor, lengths: Sequence[int]) -> list[Stream]:
    """Pieces of a mel as new streams of the given lengths in steps."""
    windows, found = windows_of(directory), []
    for seed, steps in enumerate(lengths):
        rows = WholeConditioning(windows, executor.condition(MEL[:, 10 * seed + 10 : 10 * seed + 12]))
        found.append(Stream(rows, SeededUniforms(windows.model, seed), 0, steps, number=seed))
    return found


def decode(directory: ModelDirectory, executor: Executor, streams: Sequence[Stream], slots: int) -> list[NDArray[Any]]:
    """The samples of each stream, decoded ``slots`` at a time."""
    parts: list[list[NDArray[Any]]] = [[] for _ in streams]
    for piece in decode_streams(executor, windows_of(directory), streams, slots):
        parts[piece.stream.number].append(piece.samples)
    return [np.concatenate(part) for part in parts]


def equal(found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> bool:
    return all(
        one.dtype == other.dtype and np.array_equal(one, other) for one, other in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize(
    ("model", "precision"), [*((model, "fp32") for model in SHAPES), ("two layers, skip, values", "fp16")]
)
def test_a_lane_decodes_every_kind_of_model_as_the_reference_does(
    cache: KernelCache, model: str, precision: Precision
) -> None:
    """In two chunks; the order of sums may differ, but no label here depends on it."""
    shape = SHAPES[model]
    case = SequenceCase(shape, precision, BATCH, STEPS)
    inputs = case.inputs()
    silence = State(np.zeros(1, inputs["previous"].dtype), np.zeros((shape.layers, 1, shape.hidden_size), np.float32))
    inputs |= {"previous": np.zeros_like(inputs["previous"]), "hidden": np.zeros_like(inputs["hidden"])}
    device = BindingsDevice()
    weights, scales = store_operands(shape.weight_inputs(), inputs, precision)
    decoder = KernelDecoder(shape, precision, tuple(weights), tuple(scales))
    plan = KernelPlan(device, decoder, slots=BATCH, steps=STEPS, window=case.window, cache=cache)
    lane = DeviceLane(device, plan, BATCH, silence)
    empty = np.zeros(0, np.float32)
    chunk = Chunk(
        inputs["conditioning"], inputs.get("frame_index", empty), inputs.get("interpolation", empty), inputs["uniforms"]
    )
    lane.submit(chunk, range(BATCH), range(BATCH))
    lane.submit(chunk, range(BATCH), [])
    for _ in range(2):
        expected = decode_sequence(shape, inputs, precision)
        found = lane.collect()
        if shape.output == "categorical":
            assert np.array_equal(found, expected["samples"])
        else:
            np.testing.assert_allclose(found, expected["samples"], atol=1e-4 if precision == "fp32" else 0.05)
        inputs |= {"previous": expected["previous_out"], "hidden": expected["hidden_out"]}


def test_a_file_of_measured_rows_chooses_the_kernel(voice: ModelDirectory, cache: KernelCache, tmp_path: Path) -> None:
    open_voice = functools.partial(
        open_cuda, voice, LoadOptions(precision="fp16", batch=BATCH, threads=1), cache=cache, steps=2
    )
    assert open_voice()[1] == "resident_stamped_8_fp16_sm90"
    write_rows(tmp_path / "measured.json", [Row((90, 90), ("fp16",), (BATCH, BATCH), "stepped")])
    assert open_voice(table=tmp_path / "measured.json")[1] == "stepped_fp16_sm90"
    with pytest.raises(VocoderError, match=r"missing\.json cannot be read .* a built-in table is used without it"):
        open_voice(table=tmp_path / "missing.json")


def test_labels_in_float32_are_those_of_the_trained_modules(open_voice: Open, voice: ModelDirectory) -> None:
    """PyTorch computes in double precision: labels differ only where a random number lies within the difference."""
    reference, executor = load_model(voice.path, LoadOptions("torch")).executor, open_voice()
    expected = decode(voice, reference, streams_of(voice, reference, LENGTHS), 1)
    assert equal(decode(voice, executor, streams_of(voice, executor, LENGTHS), BATCH), expected)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_stream_has_the_same_bits_alone_and_beside_others(
    open_voice: Open, voice: ModelDirectory, precision: Precision
) -> None:
    executor = open_voice(precision)
    together = decode(voice, executor, streams_of(voice, executor, LENGTHS), BATCH)
    for number in (0, 3):
        alone = streams_of(voice, executor, LENGTHS)[number : number + 1]
        assert equal(decode(voice, executor, alone, 1), together[number : number + 1])


def test_bits_do_not_depend_on_pauses_or_other_lanes(open_voice: Open, voice: ModelDirectory) -> None:
    executor, windows = open_voice("fp16"), windows_of(voice)
    lengths = [4 * STEPS, 3 * STEPS, 2 * STEPS]
    expected = decode(voice, executor, streams_of(voice, executor, lengths), BATCH)
    streams = streams_of(voice, executor, lengths)
    found: dict[int, list[NDArray[Any]]] = {0: [], 1: [], 2: []}

    def collect(loop: LaneLoop[Stream]) -> None:
        for piece in loop.collect():
            found[piece.stream.number].append(piece.samples)

    with executor.lane(BATCH) as first, executor.lane(BATCH) as second:
        one: LaneLoop[Stream] = LaneLoop(first, windows)
        other: LaneLoop[Stream] = LaneLoop(second, windows)
        one.enter(streams[0])
        one.submit([streams[0]])
        other.enter(streams[1])
        other.submit([streams[1]])
        one.enter(streams[2])
        one.submit([streams[2]])  # the first stream is paused, and two chunks are in flight
        collect(one)
        other.submit([streams[1]])
        collect(one)
        one.submit([streams[2], streams[0]])
        collect(other)
        collect(one)
        while one.streams or other.streams or one.in_flight or other.in_flight:
            for loop in (one, other):
                if loop.streams and not loop.full:
                    loop.submit(list(loop.streams))
                if loop.in_flight:
                    collect(loop)
    assert equal([np.concatenate(found[n]) for n in range(3)], expected)


def test_lanes_share_the_weights_and_everything_is_freed_by_any_thread(
    open_voice: Open,
) -> None:
    assert held() == (0, 0)
    kept = [open_voice()]
    weights, pinned = held()
    assert pinned == 0  # what the weights were copied from
    with kept[0].lane(1):
        one = held()
        with kept[0].lane(1):
            two = held()
    assert [count - weights for count in (one[0], two[0])] == [one[0] - weights, 2 * (one[0] - weights)]
    with kept[0].lane(1):
        assert held() == two  # it was used again
    with ThreadPoolExecutor(1) as thread:
        thread.submit(kept.clear).result(10)
    assert held() == (0, 0)


def test_a_stalled_kernel_loses_no_utterance_and_changes_no_bit(
    voice: ModelDirectory, cache: KernelCache, absent: ctypes.c_int
) -> None:
    """Its lane fails, the utterance is decoded again, and the context stays usable."""
    executor, name = open_cuda(
        voice, LoadOptions(precision="fp32", batch=BATCH, threads=1), cache=cache, steps=STEPS, waits=WAITS
    )
    mel = MEL[:, :1]
    with Vocoder(LoadedModel.of(voice, executor, name)) as vocoder:
        expected = vocoder.vocode(mel, seed=1)
        absent.value = 1
        found = vocoder.submit(Request(mel, 1)).result(100)
        assert absent.value == 0
        counted = vocoder.statistics()
    assert np.array_equal(found, expected)
    assert counted.lost_lanes == counted.restarted >= 1  # a busy machine may stop a thread for longer than the bound
    assert (counted.failed, counted.done) == (0, 2)
    with BindingsDevice().current():
        assert not driver.is_lost()


def test_the_error_of_a_stalled_chunk_names_the_wait(
    voice: ModelDirectory, cache: KernelCache, absent: ctypes.c_int
) -> None:
    executor, _ = open_cuda(
        voice, LoadOptions(precision="fp16", batch=BATCH, threads=1), cache=cache, steps=STEPS, waits=WAITS
    )
    expected = decode(voice, executor, streams_of(voice, executor, LENGTHS), BATCH)
    absent.value = 1
    with pytest.raises(
        KernelStallError, match=r"gave up on a chunk: block \d waited .* in step \d+, longer than its bound"
    ):
        decode(voice, executor, streams_of(voice, executor, LENGTHS), BATCH)
    assert equal(decode(voice, executor, streams_of(voice, executor, LENGTHS), BATCH), expected)


@pytest.mark.parametrize("made_in_a_thread", [False, True])
def test_the_device_runs_work_in_order_and_frees_everything(made_in_a_thread: bool) -> None:
    with ThreadPoolExecutor(1) as thread:
        kept = thread.submit(work, BindingsDevice()).result(10) if made_in_a_thread else work(BindingsDevice())
        assert held() == (6, 2)
        thread.submit(kept.clear).result(10)
    assert held() == (0, 0)


def test_out_of_memory_has_a_way_out_and_frees_everything(open_voice: Open, memory: ctypes.c_size_t) -> None:
    memory.value = 2048
    with pytest.raises(VocoderError, match=r"memory is full: 0 MiB needed.* decode fewer streams together \(--batch\)"):
        open_voice()
    assert held() == (0, 0)


def test_a_kernel_that_does_not_fit_is_refused_when_the_model_is_opened(open_voice: Open, room: ctypes.c_int) -> None:
    room.value = 0
    with pytest.raises(
        VocoderError, match=r"models/voice: the sequence kernel does not run in fp32 on Pretended GPU \(sm90\)"
    ):
        open_voice()
    assert held() == (0, 0)


def test_weights_that_a_precision_cannot_hold_are_refused(open_voice: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    read = kernel_plan.read_sequence

    def large(directory: ModelDirectory) -> FusedSequence:
        fused = read(directory)
        assert fused is not None
        return FusedSequence(
            fused.shape, {**fused.weights, "output_weight": fused.weights["output_weight"] * np.float32(1e6)}
        )

    monkeypatch.setattr(kernel_plan, "read_sequence", large)
    with pytest.raises(VocoderError, match=r"weight output_weight: found values up to .* use --precision bf16 or fp32"):
        open_voice("fp16")
    open_voice("bf16")


def test_a_model_of_another_layout_is_refused_with_the_way_out(
    open_voice: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise kernel_plan.PatternError("tensor logits sums 2 products, expected one")

    monkeypatch.setattr(kernel_plan, "read_sequence", lambda _: None)
    monkeypatch.setattr(kernel_plan, "fuse_directory", refuse)
    with pytest.raises(VocoderError, match=r"does not compute this model: tensor logits .* --form cell\), or use"):
        open_voice()


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("model", "outputs", 255, r"its decoder is not that of config\.json; export the checkpoint again"),
        ("model", "hidden_size", 128, r"its decoder is not that of config\.json; export the checkpoint again"),
        ("audio", "n_mels", 81, r"config\.json says that mel is 81 wide, the graphs have 80; export it again"),
    ],
)
def test_a_configuration_of_other_sizes_than_the_graphs_is_refused(
    voice: ModelDirectory, tmp_path: Path, part: str, field: str, value: int, message: str
) -> None:
    model = shutil.copytree(voice.path, tmp_path / "model")
    values = json.loads((model / CONFIG).read_text())
    values[part][field] = value
    (model / CONFIG).write_text(json.dumps(values))
    write_manifest(model)
    with pytest.raises(ValueError, match=message):
        open_cuda(open_model_directory(model), LoadOptions(precision="fp32", batch=1), steps=STEPS)


def test_without_a_compiler_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise compilers.KernelError("NVRTC cannot be used (no module); install a CUDA toolkit")

    monkeypatch.setattr(compilers, "find_nvcc", lambda: None)
    monkeypatch.setattr(compilers, "Nvrtc", refuse)
    with pytest.raises(NoMachineError, match=r"no CUDA compiler: nvcc is not on PATH, and NVRTC .* install a CUDA"):
        require_machine(driver_state())


@pytest.mark.parametrize("module", ["cuda.bindings", "onnx", "filelock"])
def test_a_package_that_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setattr(gpu_device, "_installed", lambda asked: asked != module)
    name = module.replace(".", "-")
    with pytest.raises(NoMachineError, match=rf"{name} is not installed; install it with: pip install '\.\[cuda\]'"):
        require_machine(driver_state())


@pytest.mark.parametrize(("sm", "precision"), [(75, "fp32"), (80, "fp16"), (90, "fp16")])
def test_older_gpus_compute_in_float32_by_default(
    voice: ModelDirectory, cache: KernelCache, sm: int, precision: Precision
) -> None:
    state = DriverState((Gpu("Old", sm),), None)
    executor, kernel = open_cuda(voice, LoadOptions(), state, cache)
    assert (executor.precision, executor.slots, executor.steps) == (precision, SLOTS, 1024)
    assert kernel == f"{'sequence_fp32' if precision == 'fp32' else 'resident_stamped_16_fp16_groups2'}_sm{sm}"


@pytest.mark.usefixtures("short_chunks")
def test_auto_uses_the_kernel_if_no_engine_fits_and_logs_it(
    voice: ModelDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, registry.logger.name):
        opened = load_model(voice.path, LoadOptions(batch=2, cache=tmp_path))
    assert (opened.executor.name, opened.engine, opened.executor.slots) == ("cuda", "resident_stamped_8_fp16_sm90", 2)
    assert "backend auto: not tensorrt_rtx: " in caplog.text
    assert "backend auto: cuda with the kernel resident_stamped_8_fp16_sm90" in caplog.text
    with Vocoder(opened) as vocoder, pytest.raises(NoLogitsError, match="cuda draws samples and gives no logits"):
        vocoder.teacher_forced(MEL[:, :1], np.zeros(200, np.int32))


@pytest.mark.usefixtures("short_chunks")
def test_the_command_line_vocodes_on_the_pretended_driver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "mel.npy", MEL[:, :1])
    command = ["vocode", tmp_path / "mel.npy", "-o", tmp_path / "a.wav", "--backend", "cuda"]
    assert main([*map(str, command), "--precision", "bf16", "--batch", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["backend"], report["engine"]) == ("cuda", "resident_stamped_8_bf16_sm90")
    assert (tmp_path / "a.wav").exists()
