"""Plans of ``tensorrt`` and ``tensorrt_rtx``, deserialised: the thin layer over what both modules call alike."""

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
from wavernn_trt.runtime.executors.device import Buffer, Device, Stream

logger = logging.getLogger(__name__)

_LAST_LINES = 4
"""Lines of TensorRT's log in an error message."""
_DIGEST = hashlib.sha256().digest_size


class TensorRTRuntime:
    """One TensorRT module with its plugins, and what deserialises plans in it."""

    def __init__(self, backend: Backend, device: Device) -> None:
        """Imports the module; a driver must be there, without which it may crash.

        Args:
            backend: which.
            device: where its plans run.

        Raises:
            TensorRTMissingError: it is not installed, or does not load.
        """
        from wavernn_trt.plugins.tensorrt_plugins import register

        self.backend = backend
        self._device = device
        self.trt = import_tensorrt(backend)
        self._words: deque[str] = deque(maxlen=_LAST_LINES)
        self._logger = _forwarding_logger(self.trt, self._words)
        register(self.trt)
        self._runtime = self.trt.Runtime(self._logger)

    def load(self, cached: CachedPlan, rebuild: str) -> TensorRTPlan:
        """Deserialises a plan; the device must be current.

        Args:
            cached: from the cache, which has compared its SHA-256.
            rebuild: the command that builds it again.

        Raises:
            VocoderError: TensorRT refuses it, or finds other bindings than its record names.
        """
        name = f"{NAMES[self.backend]} {self.trt.__version__}"
        self._words.clear()
        content = cached.plan.read_bytes()
        # Hashed once more: these very bytes are what TensorRT trusts.
        if hashlib.sha256(content).hexdigest() != cached.record.plan_sha256:
            raise VocoderError(f"{cached.plan} is not what its record says. Build it again: {rebuild}")
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            words = "; ".join(self._words) or "it gives no reason"
            raise VocoderError(
                f"{cached.plan}: {name} does not load it: {words}. Update the driver if that is what it finds too old, "
                f"else build the plan again: {rebuild}"
            )
        found = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        expected = {one.name for one in cached.record.bindings}
        if found != expected:
            raise VocoderError(
                f"{cached.plan}: found the bindings {', '.join(sorted(found))}, its record names "
                f"{', '.join(sorted(expected))}. Build it again: {rebuild}"
            )
        return TensorRTPlan(self.trt, engine, cached, self._words, self._device)


class TensorRTPlan:
    """See `BuiltPlan`."""

    def __init__(self, trt: Any, engine: Any, cached: CachedPlan, words: Sequence[str], device: Device) -> None:
        """Made by `TensorRTRuntime.load`."""
        self.record = cached.record
        self.bindings = cached.record.bindings
        self._trt = trt
        self._device = device
        self._engine = engine
        self._opening = threading.Lock()  # TensorRT does not promise contexts of one engine to several threads at once
        self._words = words
        self._name = cached.plan.name
        # TensorRT-RTX compiles kernels for the GPU at hand when a plan first runs there.
        self._compiled = _CompiledKernels(compiled_file(cached.plan)) if hasattr(trt, "IRuntimeCache") else None

    def context(self, *, one_shape: bool) -> TensorRTContext:
        with self._opening:
            context = self._create(one_shape)
        if context is None:
            words = "; ".join(self._words) or "TensorRT gives no reason"
            raise VocoderError(
                f"{self._name}: the GPU has no room to run it: {words}; end what else runs there ('nvidia-smi' shows "
                "it), or use an engine of a smaller --batch"
            )
        return TensorRTContext(context, self._words, self._device)

    def warmed_up(self) -> None:
        if self._compiled is not None:
            self._compiled.save()

    def _create(self, one_shape: bool) -> Any:
        if self._compiled is None:
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        strategy = self._trt.DynamicShapesKernelSpecializationStrategy
        # Mels of ever new lengths run in general kernels until special ones are compiled in the background; a decoder's
        # one shape is compiled for at once, since its graph keeps whatever it was captured with.
        config.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER if one_shape else strategy.LAZY
        self._compiled.attach(config)
        return self._engine.create_execution_context(config)

    def __del__(self) -> None:
        self._device.release(self._drop)

    def _drop(self) -> None:
        self._engine = None


class TensorRTContext:
    """See `PlanContext`."""

    def __init__(self, context: Any, words: Sequence[str], device: Device) -> None:
        """Takes an execution context."""
        self._context = context
        self._words = words
        self._device = device

    def __del__(self) -> None:
        self._device.release(self._drop)

    def _drop(self) -> None:
        self._context = None

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self._require(self._context.set_input_shape(name, shape), f"the shape {shape} of {name}")

    def bind(self, name: str, buffer: Buffer) -> None:
        self._require(self._context.set_tensor_address(name, buffer.address), f"the address of {name}")

    def enqueue(self, stream: Stream) -> None:
        self._require(self._context.execute_async_v3(stream.handle), "to run")

    def capturable(self, stream: Stream) -> bool:
        asked = getattr(self._context, "is_stream_capturable", None)
        if asked is None or asked(stream.handle):
            return True
        logger.warning("TensorRT says that this plan cannot be captured in a CUDA graph; each chunk is enqueued again")
        return False

    def _require(self, accepted: bool, what: str) -> None:
        if not accepted:
            raise RuntimeError(f"TensorRT refuses {what}: {'; '.join(self._words) or 'it gives no reason'}")


class _CompiledKernels:
    """TensorRT-RTX's runtime cache, in a file; it refuses what another GPU, driver or version has written.

    The file begins with the SHA-256 of the rest, so that TensorRT is never given a damaged one.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._cache: Any = None
        self._known = b""
        self._lock = threading.Lock()  # lanes may be opened by several threads

    def attach(self, config: Any) -> None:
        """Lets a context use what is known, and add to it."""
        with self._lock:
            if self._cache is None:
                self._known = self._read()
                self._cache = config.create_runtime_cache()
                if self._known and not self._cache.deserialize(self._known):
                    logger.debug("%s is of another GPU, driver or version, and is written again", self._file)
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Writes what is new; a folder that cannot be written costs only time, at the next start."""
        with self._lock:
            content = bytes(memoryview(self._cache.serialize()))
            if content == self._known:
                return
            try:
                write_atomic(self._file, hashlib.sha256(content).digest() + content)
            except OSError as error:
                logger.debug("%s is not kept: %s", self._file, error)
            self._known = content

    def _read(self) -> bytes:
        try:
            stored = self._file.read_bytes()
        except OSError:
            return b""
        if hashlib.sha256(stored[_DIGEST:]).digest() == stored[:_DIGEST]:
            return stored[_DIGEST:]
        logger.debug("%s is damaged, and is written again", self._file)
        return b""


def _forwarding_logger(trt: Any, words: deque[str]) -> Any:
    """TensorRT's logger, which passes on to ``logging`` and keeps the last errors and warnings for messages."""
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
                words.append(msg.strip())
            logger.log(level, "TensorRT: %s", msg.strip())

    return ForwardingLogger()
