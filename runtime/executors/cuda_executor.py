"""The ``cuda`` executor: decodes with the project's sequence kernel, without TensorRT and without building an engine.

The weights come from the model directory, the kernel is compiled once for the GPU, and mels are conditioned by ONNX
Runtime. Of a quantised directory, the rounded weights are used; activations have the kernel's precision.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from wavernn_trt.engines.gpu import DriverState, Gpu, driver_state
from wavernn_trt.engines.spec import EngineSpec
from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.model_directory import ModelDirectory, ModelDirectoryError, window_rows
from wavernn_trt.export.quantization import product_names
from wavernn_trt.plugins.compile import KernelCache
from wavernn_trt.plugins.compilers import find_compiler
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.stalls import WAITS
from wavernn_trt.runtime.errors import NoLogitsError, VocoderError
from wavernn_trt.runtime.executors.bindings_device import BindingsDevice
from wavernn_trt.runtime.executors.device import Device, NoMachineError, require_gpu
from wavernn_trt.runtime.executors.lanes import DeviceLane, LanePool
from wavernn_trt.runtime.executors.onnx_runtime import (
    CPU,
    OnnxBlockConditioner,
    OnnxConditioner,
    conditioner_providers,
    usable_cores,
)
from wavernn_trt.runtime.executors.protocol import Chunk, Lane, initial_state
from wavernn_trt.runtime.load_options import LoadOptions

if TYPE_CHECKING:
    from wavernn_trt.runtime.executors.kernel_plan import KernelPlan

logger = logging.getLogger(__name__)

INSTALL = "pip install '.[cuda]' in a clone of the project"
_NEEDED = (
    ("cuda.bindings", "cuda-bindings"),
    ("filelock", "filelock"),
    ("platformdirs", "platformdirs"),
    ("onnx", "onnx"),
    ("onnx_graphsurgeon", "onnx-graphsurgeon"),
    ("ml_dtypes", "ml-dtypes"),
)
"""Modules and their packages: for the driver, the cache of kernels, and reading the weights."""
_HALVES_FROM = 80
"""Compute capability from which float16 is the default; the lowest for which compiled kernels are shipped."""
SLOTS = 32
"""Default number of streams. In each step all blocks synchronise several times, which takes the same time for one or
many streams. 32 is the number of utterances that ``vocode`` decodes together, and leaves room for the callers of a
service. With fewer streams, a chunk takes less time."""
STEPS = EngineSpec.steps
"""Samples of a chunk: the default of engines, so that one backend can replace the other."""
_MOST_THREADS = 8
"""For conditioning, a small part of the work, which shares the cores with reading and writing audio."""


class CudaExecutor:
    """Runs the sequence kernel with a fixed number of slots and steps.

    Lanes share the weights, have their own CUDA streams and workspace, and can decode at the same time in several
    threads.
    """

    name = "cuda"
    lanes = 1
    """A lane overlaps uploads with computation, and a chunk uses the whole device."""

    def __init__(
        self, directory: ModelDirectory, device: Device, decoder: KernelPlan, conditioner: OnnxConditioner
    ) -> None:
        """Made by `open_cuda`; lanes are opened on demand."""
        self.precision = decoder.precision
        """Precision of the decoder's products; selects the probe's tolerance."""
        self.slots: int = decoder.slots
        self.steps: int | None = decoder.steps
        self._conditioner = conditioner
        # One thread each, unless the session has several or runs on the GPU.
        alone = conditioner.provider not in CPU or directory.model.family == "univoc"
        self.conditioners = 1 if alone else min(usable_cores(), _MOST_THREADS)
        self.block_conditioner = OnnxBlockConditioner.of(directory)
        initial = initial_state(directory.model, 1)
        self._lanes = LanePool(lambda: DeviceLane(device, decoder, decoder.slots, initial))

    def condition(self, mel: FloatArray) -> FloatArray:
        return self._conditioner(mel)

    def lane(self, streams: int) -> AbstractContextManager[Lane]:
        return self._lanes.lane()

    def teacher_forced(self, chunk: Chunk, previous: NDArray[Any], hidden: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Raises `NoLogitsError`: the kernel gives no logits."""
        raise NoLogitsError(self.name)


def open_cuda(
    directory: ModelDirectory,
    options: LoadOptions,
    state: DriverState | None = None,
    cache: KernelCache | None = None,
    *,
    steps: int | None = None,
    table: Path | None = None,
    waits: int = WAITS,
) -> tuple[CudaExecutor, str]:
    """Opens a model on the first GPU.

    Args:
        directory: a verified model directory.
        options: precision, batch, and CPU threads for conditioning (unless the GPU does it).
        state: the driver's GPUs; ``None`` queries the driver.
        cache: of compiled kernels; ``None`` is the user's.
        steps: samples of a chunk; ``None`` is `STEPS`.
        table: a file of measured times, which select the kernel for a batch; ``None`` is ``choices.json`` in the
            cache's folder, if it exists.
        waits: polls before the kernel gives up; see `wavernn_trt.plugins.launch.SequenceKernel.launch`.

    Returns:
        The executor; and the names of kernel, precision and compute capability.

    Raises:
        NoMachineError: a driver, a GPU, a compiler or a package is missing.
        ModelDirectoryError: the directory's files are inconsistent.
        VocoderError: the GPU does not start, or the kernel cannot run the model on it.
    """
    gpu = require_machine(state or driver_state())
    precision = options.gpu_precision or default_precision(directory, gpu)
    conditioner = _open_conditioner(directory, options.threads)
    # Imported here because it imports ONNX, an optional package.
    from wavernn_trt.runtime.executors.kernel_plan import KernelPlan, read_decoder

    weights = read_decoder(directory, precision)
    steps = steps or STEPS
    device = BindingsDevice()
    window = window_rows(directory.model, directory.audio, steps)
    try:
        slots = options.batch or SLOTS
        sizes = {"slots": slots, "steps": steps, "window": window}
        plan = KernelPlan(device, weights, **sizes, cache=cache, table=table, waits=waits)
    except KernelError as error:
        raise VocoderError(
            f"{directory.path}: the sequence kernel does not run in {precision} on {gpu.name} (sm{gpu.sm}): {error}"
        ) from error
    return CudaExecutor(directory, device, plan, conditioner), f"{plan.name}_sm{gpu.sm}"


def default_precision(directory: ModelDirectory, gpu: Gpu) -> WeightPrecision:
    """The default precision of a model's weights.

    Returns:
        ``fp32`` below compute capability 8.0; ``fp8`` if all weights of the directory are in fp8; else ``fp16``.
    """
    if gpu.sm < _HALVES_FROM:
        return "fp32"
    products = directory.quantization.products if directory.quantization is not None else {}
    grids = {products[name].grid if name in products else None for name in product_names(directory.model)}
    return "fp8" if grids == {"fp8"} else "fp16"


def require_machine(state: DriverState) -> Gpu:
    """Returns the first GPU, after a check for all packages and a compiler.

    Raises:
        NoMachineError: there is no GPU, or a package or compiler is missing.
    """
    gpu = require_gpu(state, _NEEDED, INSTALL)
    try:
        find_compiler()
    except KernelError as error:
        raise NoMachineError(str(error)) from error
    return gpu


def _open_conditioner(directory: ModelDirectory, threads: int | None) -> OnnxConditioner:
    providers = conditioner_providers()
    conditioner = OnnxConditioner(directory, threads or min(usable_cores(), _MOST_THREADS), providers)
    if providers != CPU and conditioner.provider in CPU:
        logger.warning("mels are conditioned on the CPU: onnxruntime-gpu is here, but its CUDA libraries do not load")
    else:
        logger.debug("mels are conditioned by ONNX Runtime's %s", conditioner.provider)
    expected = {"mel": directory.audio.n_mels, "conditioning": directory.model.columns}
    for name, axis in (("mel", 1), ("conditioning", 2)):
        if conditioner.shapes[name][axis] != expected[name]:
            raise ModelDirectoryError(
                f"{directory.path}: config.json says that {name} is {expected[name]} wide, the graphs have "
                f"{conditioner.shapes[name][axis]}; export it again"
            )
    return conditioner
