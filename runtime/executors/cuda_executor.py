"""The ``cuda`` executor: a model's decoder in the project's own sequence kernel, without TensorRT and without a build.

The weights come from the model directory, the kernel is compiled for the GPU at hand once, and mels are conditioned by
ONNX Runtime. Of a quantised directory it takes the rounded weights; activations have the kernel's own precision.
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
from wavernn_trt.runtime.executors.onnx_runtime import CPU, OnnxConditioner, conditioner_providers, usable_cores
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
)
"""Modules, and what they are installed as: the driver's calls, the cache of kernels, and the way to the weights."""
_HALVES_FROM = 80
"""Compute capability from which float16 is the default: that of the smallest GPU that the kernels ship compiled for."""
SLOTS = 32
"""Streams of a chunk by default. Each step ends several times with all blocks waiting for each other, which takes
as long for one stream as for many: with 32 as many utterances share it as ``vocode`` takes together, and a service has
room for as many callers. Fewer make each chunk come earlier."""
STEPS = EngineSpec.steps
"""Samples of a chunk: those of an engine, so that the one can stand in for the other."""
_MOST_THREADS = 8
"""For conditioning, which is a small part of the work, and shares the cores with reading and writing audio."""


class CudaExecutor:
    """Runs the sequence kernel; slots and steps are fixed when it is made.

    Several lanes decode at once, each with streams and a workspace of its own, and each may have its own thread. They
    read the same weights.
    """

    name = "cuda"
    lanes = 1
    """A lane already has the next chunk's inputs under way while the device computes, and a chunk takes all of it."""

    def __init__(
        self, directory: ModelDirectory, device: Device, decoder: KernelPlan, conditioner: OnnxConditioner
    ) -> None:
        """Takes what `open_cuda` has opened; the first lane is opened when it is needed.

        Args:
            directory: the model.
            device: where the decoder is.
            decoder: the kernel with the model's weights.
            conditioner: the model's.
        """
        self.precision = decoder.precision
        """Of the decoder's products; how closely they can be held to the model depends on it."""
        self.slots: int = decoder.slots
        self.steps: int | None = decoder.steps
        self._conditioner = conditioner
        initial = initial_state(directory.model, 1)
        self._lanes = LanePool(lambda: DeviceLane(device, decoder, decoder.slots, initial))

    def condition(self, mel: FloatArray) -> FloatArray:
        return self._conditioner(mel)

    def lane(self, streams: int) -> AbstractContextManager[Lane]:
        """See `Executor`. A lane that was used before is used again, with its memory and its captured graphs."""
        return self._lanes.lane()

    def teacher_forced(self, chunk: Chunk, previous: NDArray[Any], hidden: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The kernel cannot.

        Raises:
            NoLogitsError: always.
        """
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
        options: precision, batch, and the CPU threads that condition a mel where that is not the GPU's work.
        state: the driver's GPUs; by default the driver is asked.
        cache: of compiled kernels; the user's unless given.
        steps: samples of a chunk, `STEPS` unless given.
        table: a file of measured rows, from which the kernel for a batch is chosen; by default ``choices.json`` in the
            cache's folder, where there is one.
        waits: polls before the kernel gives up; see `wavernn_trt.plugins.launch.SequenceKernel.launch`.

    Returns:
        The executor, and a name for what it runs: the kernel, its precision and the GPU's compute capability.

    Raises:
        NoMachineError: a driver, a GPU, a compiler or a package is missing.
        ModelDirectoryError: the directory's files do not fit together.
        VocoderError: the GPU does not start, or the kernel cannot run the model on it.
    """
    gpu = require_machine(state or driver_state())
    precision = options.precision or default_precision(directory, gpu)
    conditioner = _open_conditioner(directory, options.threads)
    # Deferred: it imports ONNX, an optional package.
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
        float32 where the GPU's compute capability is below 8.0; ``fp8`` where the directory has all of its weights in
        it, which are then stored as they are; else float16.
    """
    if gpu.sm < _HALVES_FROM:
        return "fp32"
    products = directory.quantization.products if directory.quantization is not None else {}
    grids = {products[name].grid if name in products else None for name in product_names(directory.model)}
    return "fp8" if grids == {"fp8"} else "fp16"


def require_machine(state: DriverState) -> Gpu:
    """The GPU that the kernel runs on, where everything is there that compiles and launches it.

    Args:
        state: the driver's GPUs.

    Raises:
        NoMachineError: what is missing.
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
        logger.warning("mels are conditioned on the CPU: onnxruntime-gpu is here, and its CUDA libraries do not load")
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
