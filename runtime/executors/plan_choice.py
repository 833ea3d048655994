"""Selection of the cached plans that run a model on the GPU; if none fits, the reason and the command to build one."""

from __future__ import annotations

import shlex
from collections.abc import Callable
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
    """No plan fits; the message has the reason and the command to build one."""


@dataclass(frozen=True)
class ChosenEngine:
    """The two plans of an engine."""

    conditioner: CachedPlan
    decoder: CachedPlan


def require_machine(backend: Backend, state: DriverState) -> Gpu:
    """Returns the first GPU, after a check that all packages of the backend are installed.

    Raises:
        NoMachineError: there is no GPU, or a package is missing.
    """
    needed = ((backend, NAMES[backend]), ("pycuda.driver", "pycuda"), ("cuda.bindings", "cuda-bindings"))
    return require_gpu(state, needed, INSTALL[backend].replace("]'", ",gpu]'"))


def choose_engine(directory: ModelDirectory, backend: Backend, options: LoadOptions, gpu: Gpu) -> ChosenEngine:
    """Selects the plans used last, of those that fit the model, the backend, the options and the GPU.

    Raises:
        NoEngineError: no plan fits.
        EngineCacheError: the cache cannot be read.
    """
    cache = EngineCache(options.cache)
    entries = sorted(cache.scan(), key=lambda entry: entry.used, reverse=True)
    model = file_sha256(directory.file(MANIFEST))
    found: dict[Role, CachedPlan] = {}
    for role in ROLES:
        fitting, reason = _fitting(_entries(entries, role, model), backend, options, gpu)
        plan = _first_undamaged(cache, fitting)
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
    """The shell command that builds a fitting engine; with the settings of the plan ``like``, if it is given."""
    # The default form of fp8 may not be supported by this GPU.
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


def _entries(entries: list[CacheEntry], role: Role, model: str) -> list[tuple[CacheEntry, PlanRecord]]:
    """The readable entries of a role, for the model with this SHA-256."""
    readable = [(entry, entry.record) for entry in entries if entry.record is not None]
    return [(entry, record) for entry, record in readable if record.role == role and record.model_sha256 == model]


def _fitting(
    left: list[tuple[CacheEntry, PlanRecord]], backend: Backend, options: LoadOptions, gpu: Gpu
) -> tuple[list[CacheEntry], str | None]:
    """The entries that fit; or none, and the first test that no entry passes."""
    target = f"sm{gpu.sm}" if backend == "tensorrt_rtx" else f"{gpu.name} sm{gpu.sm}"
    tests: list[tuple[Callable[[PlanRecord], bool], Callable[[PlanRecord], str], str]] = [
        (lambda record: record.backend == backend, lambda record: NAMES[record.backend], f"not for {NAMES[backend]}"),
        (
            lambda record: record.backend_version == tensorrt_version(backend),
            lambda record: record.backend_version,
            f"not from {NAMES[backend]} {tensorrt_version(backend)}, which is installed",
        ),
        (lambda record: target in record.targets, lambda record: " ".join(record.targets), f"not for {target}"),
        (
            lambda record: not record.plugins or record.kernels_sha256 == plugin_sources(),
            lambda record: record.builder,
            "not with this installation's plugins",
        ),
        (
            lambda record: record.role == "conditioner" or options.precision in (None, record.precision),
            lambda record: record.precision,
            f"not in {options.precision}",
        ),
        (
            lambda record: (
                record.role == "conditioner"
                or options.batch is None
                or record.batch[0] <= options.batch <= record.batch[2]
            ),
            lambda record: f"batch {Extent(*record.batch)}",
            f"not for a batch of {options.batch}",
        ),
    ]
    for fits, found, lacking in tests:
        passed = [(entry, record) for entry, record in left if fits(record)]
        if left and not passed:
            others = ", ".join(sorted({found(record) for _, record in left}))
            return [], f"there are plans of this model, {lacking} ({others})"
        left = passed
    return [entry for entry, _ in left], None


def _first_undamaged(cache: EngineCache, entries: list[CacheEntry]) -> CachedPlan | None:
    for entry in entries:
        assert entry.record is not None
        stem = entry.name.removesuffix(f"_{entry.digits}")
        if (plan := cache.find(stem, entry.record.key)) is not None:
            return plan
    return None
