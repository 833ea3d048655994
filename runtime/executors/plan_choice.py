"""Which of the cache's plans run a model on the GPU at hand, or why none does and how to build one."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from wavernn_trt.engines.cache import CachedPlan, EngineCache
from wavernn_trt.engines.cache_entries import CacheEntry
from wavernn_trt.engines.gpu import DriverState, Gpu
from wavernn_trt.engines.plan_names import plugin_sources
from wavernn_trt.engines.plan_record import PlanRecord
from wavernn_trt.engines.spec import ROLES, RTX_TARGETS, Backend, Extent, Role, able_targets, default_form
from wavernn_trt.engines.tensorrt_module import INSTALL, NAMES, tensorrt_version
from wavernn_trt.export.model_directory import MANIFEST, ModelDirectory, file_sha256
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.executors.device import require_gpu
from wavernn_trt.runtime.load_options import LoadOptions


class NoEngineError(VocoderError):
    """No plan fits; the message says why not, and how to build one."""


@dataclass(frozen=True)
class ChosenEngine:
    """The two plans that were found."""

    conditioner: CachedPlan
    decoder: CachedPlan


def require_machine(backend: Backend, state: DriverState) -> Gpu:
    """The GPU that plans run on, where everything is there that runs them.

    Args:
        backend: whose plans.
        state: the driver's GPUs.

    Raises:
        NoMachineError: what is missing.
    """
    needed = ((backend, NAMES[backend]), ("pycuda.driver", "pycuda"), ("cuda.bindings", "cuda-bindings"))
    return require_gpu(state, needed, INSTALL[backend].replace("]'", ",gpu]'"))


def choose_engine(directory: ModelDirectory, backend: Backend, options: LoadOptions, gpu: Gpu) -> ChosenEngine:
    """The plans that were used last among those that fit.

    Args:
        directory: the model.
        backend: whose plans.
        options: the cache, and the precision and batch that are wanted.
        gpu: the GPU.

    Raises:
        NoEngineError: there are none.
        EngineCacheError: the cache cannot be read.
    """
    cache = EngineCache(options.cache)
    entries = sorted(cache.scan(), key=lambda entry: entry.used, reverse=True)
    model = file_sha256(directory.file(MANIFEST))
    found: dict[Role, CachedPlan] = {}
    for role in ROLES:
        mine = [entry for entry in entries if entry.record is not None and _is(entry.record, role, model)]
        fitting, reason = _sift(mine, backend, options, gpu)
        plan = _first_whole(cache, fitting)
        if plan is None:
            why = reason or (f"its {role}'s plan is damaged" if fitting else f"there is no plan of its {role}")
            raise NoEngineError(
                f"no engine of {directory.path} for {gpu.name} (sm{gpu.sm}) in {cache.folder}: {why}. "
                f"Build one: {build_command(directory, backend, options, gpu)}"
            )
        found[role] = plan
    return ChosenEngine(found["conditioner"], found["decoder"])


def build_command(
    directory: ModelDirectory,
    backend: Backend,
    options: LoadOptions,
    gpu: Gpu,
    like: PlanRecord | None = None,
    frames: Extent | None = None,
) -> str:
    """The command that builds an engine that fits, as one line for a shell.

    Args:
        directory: the model.
        backend: whose engine.
        options: the cache, and precision and batch where they matter.
        gpu: the GPU.
        like: a decoder's plan that fits, whose settings are kept.
        frames: of mel, where they are to be other than usual.
    """
    # By default fp8 would be built in a form that this GPU may not have.
    fp8_lacks = not able_targets((gpu.sm,), default_form(directory.quantization), directory.quantization)
    # TensorRT-RTX does not build for every GPU.
    regular = backend == "tensorrt" or gpu.sm not in RTX_TARGETS
    arguments: list[tuple[str, object]] = [
        ("--backend", "tensorrt" if regular else "tensorrt-rtx"),
        ("--sm", None if regular else gpu.sm),
        ("--precision", like.precision if like else options.precision),
        ("--batch", Extent(*like.batch) if like else options.batch),
        ("--form", like.form if like else "sequence" if fp8_lacks else None),
        ("--steps", like.steps if like else None),
        ("--frames", frames),
        ("-o", options.cache),
    ]
    given = [str(word) for argument in arguments if argument[1] is not None for word in argument]
    return shlex.join(["wavernn-trt", "build", str(directory.path), *given])


def _is(record: PlanRecord, role: Role, model: str) -> bool:
    return record.role == role and record.model_sha256 == model


def _sift(
    entries: list[CacheEntry], backend: Backend, options: LoadOptions, gpu: Gpu
) -> tuple[list[CacheEntry], str | None]:
    """Those that fit; or none, and what the last ones lacked."""
    target = f"sm{gpu.sm}" if backend == "tensorrt_rtx" else f"{gpu.name} sm{gpu.sm}"
    tests: list[tuple[Callable[[PlanRecord], bool], Callable[[PlanRecord], str], str]] = [
        (lambda one: one.backend == backend, lambda one: NAMES[one.backend], f"not for {NAMES[backend]}"),
        (
            lambda one: one.backend_version == tensorrt_version(backend),
            lambda one: one.backend_version,
            f"not from {NAMES[backend]} {tensorrt_version(backend)}, which is installed",
        ),
        (lambda one: target in one.targets, lambda one: " ".join(one.targets), f"not for {target}"),
        (
            lambda one: not one.plugins or one.kernels_sha256 == plugin_sources(),
            lambda one: one.builder,
            "not with this installation's plugins",
        ),
        (
            lambda one: one.role == "conditioner" or options.precision in (None, one.precision),
            lambda one: one.precision,
            f"not in {options.precision}",
        ),
        (
            lambda one: one.role == "conditioner" or options.batch is None or _holds(one.batch, options.batch),
            lambda one: f"batch {Extent(*one.batch)}",
            f"not for a batch of {options.batch}",
        ),
    ]
    left = [(entry, entry.record) for entry in entries if entry.record is not None]
    for fits, found, lacking in tests:
        staying = [(entry, one) for entry, one in left if fits(one)]
        if left and not staying:
            return [], f"there are plans of this model, {lacking} ({_list(found(one) for _, one in left)})"
        left = staying
    return [entry for entry, _ in left], None


def _holds(batch: tuple[int, int, int], wanted: int) -> bool:
    return batch[0] <= wanted <= batch[2]


def _list(words: Iterable[str]) -> str:
    return ", ".join(sorted(set(words)))


def _first_whole(cache: EngineCache, entries: list[CacheEntry]) -> CachedPlan | None:
    for entry in entries:
        assert entry.record is not None
        stem = entry.name.removesuffix(f"_{entry.digits}")
        if (plan := cache.find(stem, entry.record.key)) is not None:
            return plan
    return None
