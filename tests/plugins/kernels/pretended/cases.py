"""Calls of the CUDA driver keep its rules, and calls that it refuses are errors, on the pretended driver.

../test_pretended_driver.py runs this in a process that finds that driver. It needs no GPU:
kernels are their host build.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from device_kernels import DeviceKernels
from kernel_cases import GruCase, SequenceCase, small_shapes

from wavernn_trt.export.operators import PRECISIONS, Precision
from wavernn_trt.plugins import driver, loaded_kernels
from wavernn_trt.plugins.arguments import THREADS, GruArguments
from wavernn_trt.plugins.choices import FILE, Row, write_rows
from wavernn_trt.plugins.compile import KernelCache
from wavernn_trt.plugins.compilers import Compiled
from wavernn_trt.plugins.device_stream import DeviceStream, on_device, scratch
from wavernn_trt.plugins.driver import primary_context
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.gru_cell import GruCellKernel
from wavernn_trt.plugins.kernel_family import Choice
from wavernn_trt.plugins.launch import SequenceKernel
from wavernn_trt.plugins.loaded_kernels import LoadedKernel, load_library
from wavernn_trt.plugins.operations import SequenceOperation
from wavernn_trt.plugins.resident import VARIANTS
from wavernn_trt.plugins.stored_weights import store_operands
from wavernn_trt.plugins.targets import DeviceProperties
from wavernn_trt.scripts.gpu.cases import Arrays

LIBRARY = ctypes.CDLL("libcuda.so.1")
CELL = GruCase(3, 16)
CHUNK = SequenceCase(small_shapes()["two layers, skip, values"])
GENERAL = Choice("sequence")
UNASKED = 48 * 1024
"""Bytes of dynamic shared memory that a block has without asking."""


@dataclasses.dataclass
class Prepared:
    """A kernel and its operands on the device."""

    launch: Callable[..., None]
    """Puts it on the stream; with other addresses than the operands' where they are given."""
    pointers: list[int]
    stream: DeviceStream
    copy_back: Callable[[], None]
    outputs: Arrays

    def fetch(self) -> Arrays:
        """The outputs as they are on the device now."""
        self.copy_back()
        return self.outputs


@contextlib.contextmanager
def cell(cache: KernelCache) -> Iterator[Prepared]:
    """CELL's kernel."""
    kernel = GruCellKernel(CELL.hidden_size, CELL.precision, cache)
    kernel.prepare()
    outputs = {"next_hidden": np.full((CELL.batch, CELL.hidden_size), np.nan, np.float32)}
    with (
        contextlib.closing(DeviceStream()) as stream,
        on_device([*CELL.inputs().values(), *outputs.values()]) as placed,
    ):
        pointers, copy_back = placed

        def launch(first: int = pointers[0]) -> None:
            kernel.launch(CELL.batch, [first, *pointers[1:]], stream.handle)

        yield Prepared(launch, pointers, stream, copy_back, outputs)


@contextlib.contextmanager
def chunk(kernel: SequenceKernel, case: SequenceCase, stream: DeviceStream, missing: int = 0) -> Iterator[Prepared]:
    """A chunk, with a workspace that is ``missing`` bytes too small."""
    sizes, inputs, outputs = (case.batch, case.steps, case.window), case.inputs(), case.poisoned_outputs()
    operands = [*store_operands(case.shape.inputs(), inputs, case.precision)[0], *outputs.values()]
    with scratch(kernel.workspace_bytes(*sizes) - missing) as workspace, on_device(operands) as (pointers, copy_back):

        def launch(shift: int = 0) -> None:
            kernel.launch(*sizes, pointers, workspace + shift, stream.handle)

        yield Prepared(launch, pointers, stream, copy_back, outputs)


@contextlib.contextmanager
def spoilt_capture(stream: DeviceStream) -> Iterator[None]:
    """A capture that is invalid after the calls inside."""
    mode = driver.constant("CUstreamCaptureMode", "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL")
    driver.call("cuStreamBeginCapture", stream.handle, mode)
    yield
    with pytest.raises(KernelError, match="cuStreamEndCapture failed with CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"):
        driver.call("cuStreamEndCapture", stream.handle)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> KernelCache:
    return KernelCache(tmp_path_factory.mktemp("cubins"))


@pytest.fixture
def device() -> Iterator[DeviceProperties]:
    """Its context is current, and everything made in it is freed."""
    with primary_context():
        yield driver.current_device()[1]
        assert LIBRARY.pretended_leftovers() == 0


@pytest.fixture
def stream(device: DeviceProperties) -> Iterator[DeviceStream]:
    with contextlib.closing(DeviceStream()) as stream:
        yield stream


@pytest.fixture
def room() -> Iterator[ctypes.c_int]:
    """How many blocks a multiprocessor takes."""
    number = ctypes.c_int.in_dll(LIBRARY, "pretended_room")
    yield number
    number.value = 1


def test_the_device_is_the_pretended_one(device: DeviceProperties) -> None:
    assert device == DeviceProperties("Pretended GPU", 90, 2, 227 * 1024)
    with pytest.raises(RuntimeError, match=r"cuMemAllocManaged.* not found"):
        driver.call("cuMemAllocManaged", 16, 1)


@pytest.mark.parametrize("captured", [False, True], ids=["launched", "captured"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_take_more_shared_memory_than_a_block_has_unasked(
    device: DeviceProperties, cache: KernelCache, precision: Precision, captured: bool
) -> None:
    case = SequenceCase(small_shapes(130, 140, 64)["two layers, skip, values"], precision, 2, steps=2)
    assert SequenceKernel(case.shape, precision, cache, GENERAL).plan(2).shared_bytes > UNASKED
    inputs = case.inputs()
    assert case.excess(DeviceKernels(cache).sequence(case, inputs, choice=GENERAL, captured=captured), inputs) <= 1


@pytest.mark.parametrize("captured", [False, True], ids=["launched", "captured"])
@pytest.mark.parametrize("kernel", [*VARIANTS, "stepped"])
def test_a_kernel_for_tensor_cores_gets_what_it_needs(
    device: DeviceProperties, cache: KernelCache, kernel: str, captured: bool
) -> None:
    for precision in ("fp16", "bf16", "fp8"):
        case = SequenceCase(CHUNK.shape, precision, 3, steps=3)  # type: ignore[arg-type]
        inputs = case.inputs()
        found = DeviceKernels(cache).sequence(case, inputs, choice=Choice(kernel), captured=captured)
        assert case.excess(found, inputs) <= 1


def test_measured_rows_come_first_and_the_table_where_they_do_not_run(
    device: DeviceProperties, tmp_path: Path, room: ctypes.c_int, caplog: pytest.LogCaptureFixture
) -> None:
    cache = KernelCache(tmp_path)
    write_rows(tmp_path / FILE, [Row((90, 90), ("fp16",), (3, 3), "sequence", 1)])
    kernel = SequenceKernel(CHUNK.shape, "fp16", cache)
    assert kernel.choice(3) == GENERAL
    assert kernel.choice(2) == Choice("resident_stamped_8")  # no row has this batch
    room.value = 0
    with pytest.raises(KernelError, match=r"needs \d+ blocks of"):
        SequenceKernel(CHUNK.shape, "fp16", cache, GENERAL).plan(3)
    caplog.clear()
    assert SequenceKernel(CHUNK.shape, "fp16", cache).choice(3) == Choice("stepped")  # its blocks wait for no other
    assert [record.getMessage().partition(":")[0] for record in caplog.records if record.levelname == "WARNING"] == [
        f"batch 3 on Pretended GPU is not decoded by {kernel}, 1 group of blocks"
        for kernel in ("sequence", "resident_stamped_8")
    ]
    with pytest.raises(KernelError, match=r"no kernel decodes this model in fp32 on Pretended GPU \(sm_90\): sequence"):
        SequenceKernel(CHUNK.shape, "fp32", cache).plan(3)


def test_one_kernel_decodes_batches_of_every_tile_in_turn(cache: KernelCache, stream: DeviceStream) -> None:
    kernel = SequenceKernel(CHUNK.shape, "bf16", cache, GENERAL)
    cases = [SequenceCase(CHUNK.shape, "bf16", batch) for batch in (1, 3, 9)]
    assert [kernel.plan(case.batch).tile for case in cases] == [1, 4, 8]
    with contextlib.ExitStack() as stack:
        chunks = [stack.enter_context(chunk(kernel, case, stream)) for case in cases]
        for one in chunks:
            one.launch()
        stream.synchronize()
        for case, one in zip(cases, chunks, strict=True):
            assert case.excess(one.fetch(), case.inputs()) <= 1


def test_a_launch_does_not_allocate_or_wait(device: DeviceProperties, cache: KernelCache) -> None:
    with cell(cache) as one:
        before = LIBRARY.pretended_leftovers()
        one.launch()
        assert LIBRARY.pretended_leftovers() == before
        assert np.isnan(one.fetch()["next_hidden"]).all()  # not launched yet
        one.stream.synchronize()
        assert CELL.excess(one.fetch()["next_hidden"]) <= 1


def test_a_captured_launch_is_timed(device: DeviceProperties, cache: KernelCache) -> None:
    with cell(cache) as one:
        replay = one.stream.captured(lambda stream: one.launch())
        assert one.stream.seconds(replay) > 0
        assert CELL.excess(one.fetch()["next_hidden"]) <= 1


def test_a_thread_without_a_context_gets_an_error(device: DeviceProperties, cache: KernelCache) -> None:
    cell, sequence = GruCellKernel(16, "fp32", cache), SequenceKernel(CHUNK.shape, "fp32", cache, GENERAL)
    calls = [
        cell.prepare,
        lambda: sequence.prepare(1),
        lambda: sequence.plan(1),
        lambda: cell.launch(1, [16, 16, 16, 16, 32], 0),
    ]
    with ThreadPoolExecutor(1) as other_thread:  # the device's context is current on this one alone
        for call in calls:
            with pytest.raises(KernelError, match="no CUDA context is current on this thread; create one"):
                other_thread.submit(call).result()
        with pytest.raises(KernelError, match="cuMemAlloc failed with CUDA_ERROR_INVALID_CONTEXT"):
            other_thread.submit(driver.call, "cuMemAlloc", 16).result()


@pytest.mark.parametrize(
    ("cubin", "code"), [(b"\x7fELF", "INVALID_IMAGE"), (b"pretended gru_cell Float sm_120", "NO_BINARY_FOR_GPU")]
)
def test_a_cubin_that_the_driver_refuses(device: DeviceProperties, tmp_path: Path, cubin: bytes, code: str) -> None:
    class Newer:
        kind, version = "newer", "14"

        def compile(self, source: Path, defines: Sequence[str], target: int) -> Compiled:
            return Compiled(cubin, "")

    words = rf"cuLibraryLoadData failed with CUDA_ERROR_{code}: .*\. This driver supports CUDA 13\.0; a cubin"
    with pytest.raises(KernelError, match=words):
        GruCellKernel(16, "fp32", KernelCache(tmp_path, Newer())).prepare()


def test_a_grid_that_is_not_resident_is_refused(
    device: DeviceProperties, cache: KernelCache, room: ctypes.c_int
) -> None:
    room.value = 0
    with pytest.raises(KernelError, match=r"needs 2 blocks of \d+ bytes .* Pretended GPU \(sm_90\) holds 0 of them"):
        SequenceKernel(CHUNK.shape, "fp32", cache, GENERAL).plan(1)


def test_a_grid_that_is_no_longer_resident_is_refused(
    cache: KernelCache, stream: DeviceStream, room: ctypes.c_int
) -> None:
    kernel = SequenceKernel(CHUNK.shape, "fp32", cache, GENERAL)
    kernel.plan(CHUNK.batch)
    room.value = 0
    with chunk(kernel, CHUNK, stream) as one:
        with pytest.raises(KernelError, match="cuLaunchKernelEx failed with CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE"):
            one.launch()
        stream.synchronize()


def test_a_workspace_that_is_not_aligned_is_refused(cache: KernelCache, stream: DeviceStream) -> None:
    with chunk(SequenceKernel(CHUNK.shape, "fp32", cache, GENERAL), CHUNK, stream) as one:
        with pytest.raises(ValueError, match=r"found a workspace at 0x\w+, expected a multiple of 16"):
            one.launch(8)
        stream.synchronize()
        assert np.isnan(one.fetch()["hidden_out"]).all()  # nothing was put on the stream


@pytest.mark.parametrize("missing", [256, 8192])
def test_a_workspace_that_is_too_small_is_an_error(cache: KernelCache, missing: int) -> None:
    def run() -> None:
        kernel = SequenceKernel(CHUNK.shape, "fp32", cache, GENERAL)
        with (
            primary_context(),
            contextlib.closing(DeviceStream()) as stream,
            chunk(kernel, CHUNK, stream, missing) as one,
        ):
            one.launch()
            stream.synchronize()

    with pytest.raises(KernelError, match="cuStreamSynchronize failed with CUDA_ERROR_ILLEGAL_ADDRESS"):
        run()


@pytest.mark.parametrize("fault", ["misaligned", "freed", "null", "of the host", "of too small a tensor"])
def test_an_address_that_no_kernel_can_read_ends_it(cache: KernelCache, fault: str) -> None:
    """The error is the kernel's, not that of a later call that frees memory."""
    gates = CELL.inputs()["gates"]

    def run() -> None:
        with primary_context(), cell(cache) as one, on_device([gates[:1]]) as ((small,), _):
            with on_device([gates]) as ((freed,), _):
                pass
            wrong = {"misaligned": one.pointers[0] + 2, "freed": freed, "null": 0, "of the host": gates.ctypes.data}
            one.launch(wrong.get(fault, small))
            one.stream.synchronize()

    code = "MISALIGNED" if fault == "misaligned" else "ILLEGAL"
    with pytest.raises(KernelError, match=f"cuStreamSynchronize failed with CUDA_ERROR_{code}_ADDRESS"):
        run()


def test_counters_that_are_not_cleared_end_the_kernel(cache: KernelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "fill", lambda address, word, size, stream: None)
    with (
        primary_context(),
        pytest.raises(KernelError, match="cuStreamSynchronize failed with CUDA_ERROR_LAUNCH_FAILED"),
    ):
        DeviceKernels(cache).sequence(CHUNK, CHUNK.inputs())


def test_a_lost_context_fails_every_call_until_it_is_released(cache: KernelCache) -> None:
    kernels, inputs = DeviceKernels(cache), CELL.inputs()
    with primary_context():
        with pytest.raises(KernelError, match="cuStreamSynchronize failed with CUDA_ERROR_ILLEGAL_ADDRESS"):
            kernels.gru_cell(CELL, {**inputs, "gates": inputs["gates"][:1]})
        with pytest.raises(KernelError, match=r"cuMemAlloc failed with CUDA_ERROR_ILLEGAL_ADDRESS: [^.]*$"):
            kernels.gru_cell(CELL)
    with primary_context():
        assert CELL.excess(kernels.gru_cell(CELL)) <= 1


def test_memory_freed_before_its_work_runs_is_an_error() -> None:
    with primary_context(), contextlib.closing(DeviceStream()) as stream:
        with scratch(64) as address:
            driver.fill(address, 0, 64, stream.handle)
        with pytest.raises(KernelError, match="cuStreamSynchronize failed with CUDA_ERROR_ILLEGAL_ADDRESS"):
            stream.synchronize()


def test_a_kernel_that_was_not_prepared_cannot_be_captured(device: DeviceProperties, cache: KernelCache) -> None:
    with cell(cache) as one, spoilt_capture(one.stream):
        kernel = GruCellKernel(CELL.hidden_size, CELL.precision, cache)
        with pytest.raises(KernelError, match=r"STREAM_CAPTURE_UNSUPPORTED.*Prepare a kernel before"):
            kernel.launch(CELL.batch, one.pointers, one.stream.handle)


def test_a_captured_first_launch_finds_its_code_loaded(
    device: DeviceProperties, cache: KernelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without cuFuncLoad the launch itself would load it, which invalidates the capture."""
    call = driver.call
    with cell(cache) as one:
        one.stream.captured(lambda stream: one.launch())
    monkeypatch.setattr(driver, "call", lambda name, *rest: () if name == "cuFuncLoad" else call(name, *rest))
    refused = pytest.raises(KernelError, match="cuLaunchKernelEx failed with CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")
    with cell(cache) as one, spoilt_capture(one.stream), refused:
        one.launch()


def test_the_function_allows_as_much_shared_memory_as_the_kernel(
    device: DeviceProperties, cache: KernelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = driver.call
    library = load_library(cache.get("gru_cell", "fp32", 90).cubin)
    assert LoadedKernel(library, "gru_cell_4", 0, device).blocks_per_multiprocessor(THREADS, UNASKED + 1) == 1
    monkeypatch.setattr(driver, "call", lambda name, *rest: () if name == "cuFuncSetAttribute" else call(name, *rest))
    kernel = LoadedKernel(library, "gru_cell_4", 0, device)
    with pytest.raises(KernelError, match="cuOccupancyMaxActiveBlocksPerMultiprocessor failed with"):
        kernel.blocks_per_multiprocessor(THREADS, UNASKED + 1)


def test_cases_of_one_precision_share_the_loaded_kernels(
    device: DeviceProperties, cache: KernelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[bytes] = []
    load = load_library
    monkeypatch.setattr(loaded_kernels, "load_library", lambda cubin: loaded.append(cubin) or load(cubin))
    kernels = DeviceKernels(cache)
    for shape in list(small_shapes().values())[:3]:
        case = SequenceCase(shape, "fp16", 1, steps=1)
        kernels.sequence(case, case.inputs(), choice=GENERAL)
    assert len(loaded) == 1


def test_many_launches_without_a_capture_log_one_warning(
    device: DeviceProperties, cache: KernelCache, stream: DeviceStream, caplog: pytest.LogCaptureFixture
) -> None:
    """The plugin's enqueue; launches that warm up before a capture do not count."""
    case = SequenceCase(CHUNK.shape, "fp16", 3, steps=2)
    bound = SequenceOperation(case.shape).bind("fp16")
    bound._kernel = SequenceKernel(case.shape, "fp16", cache, Choice("stepped"))  # type: ignore[attr-defined]
    inputs, outputs = case.inputs(), case.poisoned_outputs()
    operands = [*store_operands(case.shape.inputs(), inputs, case.precision)[0], *outputs.values()]
    sizes = {"B": case.batch, "T": case.steps, "W": case.window}
    bound.prepare(sizes)
    with scratch(bound.workspace_bytes(sizes)) as workspace, on_device(operands) as (pointers, _):

        def enqueue(handle: int = stream.handle) -> None:
            bound.launch(sizes, pointers, workspace, handle)

        for _ in range(3):  # as when a lane is opened
            enqueue()
            stream.captured(enqueue)
        assert not caplog.records
        for _ in range(4):
            enqueue()
        stream.synchronize()
    (record,) = caplog.records
    assert "3 chunks were enqueued on a stream that no CUDA graph captures; each is 13 launches" in record.getMessage()


@pytest.mark.parametrize("name", ["cuMemAlloc", "cuMemFree", "cuCtxSynchronize", "cuStreamSynchronize"])
def test_a_capture_refuses_what_allocates_or_waits(stream: DeviceStream, name: str) -> None:
    with scratch(16) as address, spoilt_capture(stream):
        arguments = {"cuMemAlloc": [16], "cuMemFree": [address], "cuStreamSynchronize": [stream.handle]}
        with pytest.raises(KernelError, match=f"{name} failed with CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
            driver.call(name, *arguments.get(name, []))


def test_a_block_has_no_more_shared_memory_than_it_asked_for(
    device: DeviceProperties, cache: KernelCache, stream: DeviceStream
) -> None:
    library = load_library(cache.get("gru_cell", "fp32", 90).cubin)
    with pytest.raises(KernelError, match="cuKernelSetAttribute failed with CUDA_ERROR_INVALID_VALUE"):
        LoadedKernel(library, "gru_cell_4", 0, dataclasses.replace(device, shared_per_block=228 * 1024))
    kernel = LoadedKernel(library, "gru_cell_4", 0, dataclasses.replace(device, shared_per_block=UNASKED))
    arguments = GruArguments(*[256] * 5, CELL.batch, CELL.hidden_size, 2)
    with pytest.raises(KernelError, match="cuLaunchKernelEx failed with CUDA_ERROR_INVALID_VALUE"):
        kernel.launch(2, THREADS, UNASKED + 1, arguments, stream.handle, cooperative=False)


def test_a_cooperative_launch_fits_the_device(
    device: DeviceProperties, cache: KernelCache, stream: DeviceStream
) -> None:
    library = load_library(cache.get("gru_cell", "fp32", 90).cubin)
    kernel = LoadedKernel(library, "gru_cell_4", 0, device)
    arguments = GruArguments(*[256] * 5, CELL.batch, 24, 3)
    with pytest.raises(KernelError, match="cuLaunchKernelEx failed with CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE"):
        kernel.launch(3, THREADS, UNASKED, arguments, stream.handle, cooperative=True)


def test_arguments_of_another_kernel_are_noticed(
    device: DeviceProperties, cache: KernelCache, stream: DeviceStream
) -> None:
    class Longer(ctypes.Structure):
        _fields_ = (("arguments", GruArguments), ("rest", ctypes.c_char * 1024))

    library = load_library(cache.get("sequence", "fp32", 90).cubin)
    kernel = LoadedKernel(library, "sequence_4", 0, device)
    arguments = Longer(GruArguments(*[256] * 5, CELL.batch, CELL.hidden_size, 2))
    with pytest.raises(KernelError, match="cuLaunchKernelEx failed with CUDA_ERROR_INVALID_VALUE"):
        kernel.launch(2, THREADS, UNASKED, arguments, stream.handle, cooperative=True)
