"""Deserialised plans of ``tensorrt`` and ``tensorrt_rtx``, over the API that both modules have in common."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wavernn_trt.engines.cache import CachedPlan
from wavernn_trt.engines.cache_entries import compiled_file
from wavernn_trt.engines.spec import Backend
from wavernn_trt.engines.tensorrt_module import NAMES, import_tensorrt
from wavernn_trt.export.atomic_file import write_atomic
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.bindings_device import Owned
from wavernn_trt.runtime.executors.device import Buffer, Device, Stream

logger = logging.getLogger(__name__)

_LAST_LINES = 4
"""Lines of TensorRT's log in an error message."""
_DIGEST = hashlib.sha256().digest_size


class TensorRTRuntime:
    """A TensorRT module with the project's plugins; deserialises plans."""

    def __init__(self, backend: Backend, device: Device) -> None:
        """Imports the module, which may crash if there is no driver.

        Raises:
            TensorRTMissingError: the module is not installed, or does not load.
        """
        from wavernn_trt.plugins.tensorrt_plugins import register

        self.backend = backend
        self._device = device
        self.trt = import_tensorrt(backend)
        self._log: deque[str] = deque(maxlen=_LAST_LINES)
        self._logger = _forwarding_logger(self.trt, self._log)
        register(self.trt)
        self._runtime = self.trt.Runtime(self._logger)

    def load(self, cached: CachedPlan, rebuild: str) -> TensorRTPlan:
        """Deserialises a plan; the device must be current.

        Args:
            cached: from the cache, which has verified its SHA-256.
            rebuild: the command that builds it again, for errors.

        Raises:
            VocoderError: TensorRT refuses the plan, or its bindings differ from its record.
        """
        name = f"{NAMES[self.backend]} {self.trt.__version__}"
        self._log.clear()
        content = cached.plan.read_bytes()
        # Verified again, because TensorRT trusts these bytes.
        if hashlib.sha256(content).hexdigest() != cached.record.plan_sha256:
            raise VocoderError(f"the SHA-256 of {cached.plan} differs from its record. Build it again: {rebuild}")
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            reason = "; ".join(self._log) or "it gives no reason"
            raise VocoderError(
                f"{cached.plan}: {name} does not load it: {reason}. If the driver is too old, update it; else build "
                f"the plan again: {rebuild}"
            )
        found = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        expected = {binding.name for binding in cached.record.bindings}
        if found != expected:
            raise VocoderError(
                f"{cached.plan}: found the bindings {', '.join(sorted(found))}, expected "
                f"{', '.join(sorted(expected))}. Build it again: {rebuild}"
            )
        return TensorRTPlan(self.trt, engine, cached, self._log, self._device)


class TensorRTPlan(Owned):
    """A deserialised plan, made by `TensorRTRuntime.load`; see `wavernn_trt.runtime.executors.device.BuiltPlan`."""

    def __init__(self, trt: Any, engine: Any, cached: CachedPlan, log: Sequence[str], device: Device) -> None:
        super().__init__(device, engine)
        self.record = cached.record
        self.bindings = cached.record.bindings
        self._trt = trt
        self._opening = threading.Lock()  # TensorRT does not document that this is thread-safe
        self._log = log
        self._name = cached.plan.name
        # TensorRT-RTX compiles kernels for the GPU at a plan's first execution.
        self._compiled = _CompiledKernels(compiled_file(cached.plan)) if hasattr(trt, "IRuntimeCache") else None

    def context(self, *, one_shape: bool) -> TensorRTContext:
        with self._opening:
            context = self._create(one_shape)
        if context is None:
            reason = "; ".join(self._log) or "TensorRT gives no reason"
            raise VocoderError(
                f"{self._name}: the GPU has no memory to run it: {reason}; end other programs on the GPU ('nvidia-smi' "
                "lists them), or use an engine with a smaller --batch"
            )
        return TensorRTContext(context, self._log, self._device)

    def warmed_up(self) -> None:
        if self._compiled is not None:
            self._compiled.save()

    def _create(self, one_shape: bool) -> Any:
        if self._compiled is None:
            return self.native.create_execution_context()
        config = self.native.create_runtime_config()
        strategy = self._trt.DynamicShapesKernelSpecializationStrategy
        # Mels of new lengths use general kernels until specialised ones are compiled in the background. For the only
        # shape of a decoder, kernels are compiled at once, because its graph keeps the kernels that were captured.
        config.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER if one_shape else strategy.LAZY
        self._compiled.attach(config)
        return self.native.create_execution_context(config)


class TensorRTContext(Owned):
    """An execution context; see `wavernn_trt.runtime.executors.device.PlanContext`."""

    def __init__(self, context: Any, log: Sequence[str], device: Device) -> None:
        super().__init__(device, context)
        self._log = log

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self._require(self.native.set_input_shape(name, shape), f"the shape {shape} of {name}")

    def bind(self, name: str, buffer: Buffer) -> None:
        self._require(self.native.set_tensor_address(name, buffer.address), f"the address of {name}")

    def enqueue(self, stream: Stream) -> None:
        self._require(self.native.execute_async_v3(stream.handle), "to run")

    def capturable(self, stream: Stream) -> bool:
        is_capturable = getattr(self.native, "is_stream_capturable", None)
        if is_capturable is None or is_capturable(stream.handle):
            return True
        logger.warning("TensorRT cannot capture this plan in a CUDA graph; each chunk is enqueued separately")
        return False

    def _require(self, accepted: bool, what: str) -> None:
        if not accepted:
            raise RuntimeError(f"TensorRT refuses {what}: {'; '.join(self._log) or 'it gives no reason'}")


class _CompiledKernels:
    """TensorRT-RTX's runtime cache in a file; TensorRT-RTX refuses a file of another GPU, driver or version.

    The file starts with the SHA-256 of its content, so that damage is detected before TensorRT reads it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._cache: Any = None
        self._known = b""
        self._lock = threading.Lock()  # lanes may be opened by several threads

    def attach(self, config: Any) -> None:
        """Sets the runtime cache of a context; reads the file at the first call."""
        with self._lock:
            if self._cache is None:
                self._known = self._read()
                self._cache = config.create_runtime_cache()
                if self._known and not self._cache.deserialize(self._known):
                    logger.debug("%s is of another GPU, driver or version, and is replaced", self._file)
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Writes the file if the content is new; an error is only logged, since kernels can be compiled again."""
        with self._lock:
            content = bytes(memoryview(self._cache.serialize()))
            if content == self._known:
                return
            try:
                write_atomic(self._file, hashlib.sha256(content).digest() + content)
            except OSError as error:
                logger.debug("%s cannot be written: %s", self._file, error)
            self._known = content

    def _read(self) -> bytes:
        try:
            stored = self._file.read_bytes()
        except OSError:
            return b""
        if hashlib.sha256(stored[_DIGEST:]).digest() == stored[:_DIGEST]:
            return stored[_DIGEST:]
        logger.debug("%s is damaged, and is replaced", self._file)
        return b""


def _forwarding_logger(trt: Any, last: deque[str]) -> Any:
    """A TensorRT logger that forwards to ``logging``, and appends errors and warnings to ``last``."""
    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.DEBUG,
    }

    class ForwardingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity)
            if level is None:
                return
            if level >= logging.WARNING:
                last.append(msg.strip())
            logger.log(level, "TensorRT: %s", msg.strip())

    return ForwardingLogger()
