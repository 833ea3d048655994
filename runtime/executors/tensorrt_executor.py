"""The ``tensorrt`` and ``tensorrt_rtx`` executors, which run an engine: the plans of a conditioner and a decoder."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.engines.gpu import DriverState, Gpu, driver_state
from wavernn_trt.engines.spec import Backend, Extent, Form
from wavernn_trt.export.arrays import FloatArray
from wavernn_trt.export.model_directory import ModelDirectory, window_rows
from wavernn_trt.export.operators import Precision
from wavernn_trt.runtime.errors import NoLogitsError, VocoderError
from wavernn_trt.runtime.executors.device import Buffer, BuiltPlan, Device
from wavernn_trt.runtime.executors.lanes import DeviceLane, LanePool, shape_of
from wavernn_trt.runtime.executors.plan_choice import (
    ChosenEngine,
    build_command,
    choose_engine,
    require_machine,
)
from wavernn_trt.runtime.executors.protocol import Chunk, Lane, initial_state
from wavernn_trt.runtime.executors.pycuda_device import PycudaDevice
from wavernn_trt.runtime.executors.tensorrt_plan import TensorRTRuntime
from wavernn_trt.runtime.load_options import LoadOptions


@dataclass(frozen=True)
class Engine:
    """Two deserialised plans and their device."""

    device: Device
    conditioner: BuiltPlan
    decoder: BuiltPlan


class TensorRTExecutor:
    """Runs an engine.

    Lanes have their own CUDA streams and execution context, and can decode at the same time, each in a thread.
    """

    lanes = 1
    conditioners = 1
    """A lane overlaps uploads with computation."""

    def __init__(
        self, directory: ModelDirectory, backend: Backend, options: LoadOptions, gpu: Gpu, engine: Engine
    ) -> None:
        """Checks the sizes of the engine; lanes are opened on demand.

        Args:
            directory: the model.
            backend: of the engine.
            options: ``batch`` is the number of slots; by default the batch that the engine is optimised for.
            gpu: name and compute capability of the device.
            engine: inside whose range the batch is.

        Raises:
            VocoderError: sizes of the engine and the model differ.
        """
        self.name: str = backend
        record = engine.decoder.record
        self.precision: Precision = record.precision
        """Precision of the decoder's products; selects the probe's tolerance."""
        self.form: Form | None = record.form
        """Form of the decoder; only ``cell`` rounds the activations of a quantised model."""
        self.slots: int = options.batch or record.batch[1]
        self.steps: int | None = record.steps
        self._directory = directory
        self._engine = engine
        self._build = (directory, backend, options, gpu, record)
        _compare(directory, engine, self.slots, build_command(*self._build))
        self._conditioner = DeviceConditioner(
            engine.device, engine.conditioner, directory.audio.n_mels, directory.model.columns, directory.model.margin
        )
        slots, initial = self.slots, initial_state(directory.model, 1)
        self._lanes = LanePool(lambda: DeviceLane(engine.device, engine.decoder, slots, initial))

    def condition(self, mel: FloatArray) -> FloatArray:
        """Conditions a mel.

        Raises:
            VocoderError: the mel's length is outside of the engine's range.
        """
        frames = mel.shape[1]
        extent = Extent(*(self._engine.conditioner.record.frames or (1, 1, 1)))
        if not extent.minimum <= frames <= extent.maximum:
            longest = max(extent.maximum, 1 << (frames - 1).bit_length())
            wider = Extent(min(extent.minimum, frames), min(max(extent.optimum, frames), longest), longest)
            raise VocoderError(
                f"mel: found {frames} frames, this engine accepts {extent.minimum} to {extent.maximum}; build another "
                f"one: {build_command(*self._build, frames=wider)}"
            )
        return self._conditioner(mel)

    def lane(self, streams: int) -> AbstractContextManager[Lane]:
        return self._lanes.lane()

    def teacher_forced(self, chunk: Chunk, previous: NDArray[Any], hidden: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Raises `NoLogitsError`: engines give no logits."""
        raise NoLogitsError(self.name)


class DeviceConditioner:
    """Conditions mels on a device. Thread-safe; calls are serialised."""

    def __init__(self, device: Device, plan: BuiltPlan, bins: int, columns: int, margin: int) -> None:
        """Opens a context; memory is allocated on demand. The conditioning has ``margin`` more rows on each side."""
        self._device = device
        self._plan = plan
        self._margin = margin
        self._bins, self._columns = bins, columns
        self._capacity = 0
        self._host: dict[str, NDArray[Any]] = {}
        self._buffers: dict[str, Buffer] = {}
        self._warm = False
        self._lock = threading.Lock()
        with device.current():
            self._stream = device.stream()
            self._context = plan.context(one_shape=False)

    def __call__(self, mel: FloatArray) -> FloatArray:
        frames = mel.shape[1]
        with self._lock, self._device.current():
            if frames > self._capacity:
                self._reserve(frames)
            given = self._host["mel"][: mel.size]
            given.reshape(mel.shape)[...] = mel
            rows = self._host["conditioning"][: self._rows(frames) * self._columns]
            self._context.set_shape("mel", (1, *mel.shape))
            self._stream.copy_in(self._buffers["mel"], given)
            self._context.enqueue(self._stream)
            self._stream.copy_out(rows, self._buffers["conditioning"])
            self._stream.synchronize()
            if not self._warm:
                self._plan.warmed_up()
                self._warm = True
            return rows.reshape(-1, self._columns).copy()

    def _rows(self, frames: int) -> int:
        return frames + 2 * self._margin

    def _reserve(self, frames: int) -> None:
        """Allocates memory for mels of this length, rounded up to a power of two."""
        assert self._plan.record.frames is not None
        capacity = min(1 << (frames - 1).bit_length(), self._plan.record.frames[2])
        sizes = {"mel": capacity * self._bins, "conditioning": self._rows(capacity) * self._columns}
        self._capacity = 0
        self._buffers.clear()  # frees them before the larger ones are allocated
        for name, size in sizes.items():
            self._host[name] = self._device.pinned((size,), "float32")
            self._buffers[name] = self._device.allocate(size * np.dtype(np.float32).itemsize)
            self._context.bind(name, self._buffers[name])
        self._capacity = capacity


def open_tensorrt(
    directory: ModelDirectory, backend: Backend, options: LoadOptions, state: DriverState | None = None
) -> tuple[TensorRTExecutor, str]:
    """Opens an engine from the cache, on the first GPU.

    Args:
        directory: a verified model directory.
        backend: of the engine.
        options: precision, batch and cache.
        state: the driver's GPUs; ``None`` queries the driver.

    Returns:
        The executor, and the name of the decoder's plan.

    Raises:
        NoMachineError: a driver, a GPU or a package is missing.
        NoEngineError: no plan fits.
        VocoderError: the engine does not load.
        EngineCacheError: the cache cannot be read.
        TensorRTMissingError: the TensorRT module does not load.
    """
    gpu = require_machine(backend, state or driver_state())
    chosen = choose_engine(directory, backend, options, gpu)
    rebuild = build_command(directory, backend, options, gpu, chosen.decoder.record)
    engine = load_engine(backend, chosen, rebuild)
    return TensorRTExecutor(directory, backend, options, gpu, engine), chosen.decoder.name


def load_engine(backend: Backend, chosen: ChosenEngine, rebuild: str) -> Engine:
    """Deserialises both plans on the first GPU; ``rebuild`` is the command that builds them again, for errors.

    Raises:
        VocoderError: a plan does not load, or the GPU does not start.
        TensorRTMissingError: the TensorRT module does not load.
    """
    device = PycudaDevice()
    with device.current():
        runtime = TensorRTRuntime(backend, device)
        return Engine(device, runtime.load(chosen.conditioner, rebuild), runtime.load(chosen.decoder, rebuild))


def _compare(directory: ModelDirectory, engine: Engine, slots: int, rebuild: str) -> None:
    """Raises `VocoderError` if inputs or outputs of the plans do not match the model."""
    model = directory.model
    record = engine.decoder.record
    steps = record.steps or 1
    window = window_rows(model, directory.audio, steps)
    expected: dict[str, tuple[int, ...]] = {
        "conditioning": (slots, window, model.columns),
        "uniforms": (slots, steps, model.uniforms),
        "previous": (slots,),
        "hidden": (model.layers, slots, model.hidden_size),
        "samples": (slots, steps),
        "previous_out": (slots,),
        "hidden_out": (model.layers, slots, model.hidden_size),
    }
    if any(group.expansion == "held" for group in model.groups):
        expected["frame_index"] = (slots, steps)
    if model.interpolated:
        expected["interpolation"] = (slots, model.interpolated, steps, window)
    found = {binding.name: shape_of(binding, slots) for binding in record.bindings}
    rows = {binding.name: binding.shape for binding in engine.conditioner.record.bindings}
    for name, shape in (("mel", (1, directory.audio.n_mels, -1)), ("conditioning", (1, -1, model.columns))):
        found[f"conditioner's {name}"] = rows.get(name, ())
        expected[f"conditioner's {name}"] = shape
    for name in (*expected, *found):
        if found.get(name) != expected.get(name):
            raise VocoderError(
                f"{directory.path}: the engine's {name} is {found.get(name, 'missing')}, the model's "
                f"{expected.get(name, 'missing')}; build the engine again: {rebuild}"
            )
