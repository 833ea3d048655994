"""Builds engines: two plans each, from the cache or in a process of their own."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import wavernn_trt
from wavernn_trt.engines.build_process import PLAN
from wavernn_trt.engines.cache import CachedPlan, EngineCache
from wavernn_trt.engines.grids import check_grids, in_eight_bits
from wavernn_trt.engines.manifest import Binding, PlanManifest, PluginUse, clean_name
from wavernn_trt.engines.plan_names import building_gpu, plan_key, plan_stem, plugin_sources
from wavernn_trt.engines.spec import ROLES, EngineSpec, Role
from wavernn_trt.engines.supervised_build import Progress, build_in_process
from wavernn_trt.engines.tensorrt_module import tensorrt_version
from wavernn_trt.export.model_directory import MANIFEST, ModelDirectory, file_sha256
from wavernn_trt.export.typed_json import from_json

logger = logging.getLogger(__name__)

_MANY_STEPS, _MINUTES, _GIGABYTES = 512, 8, 3.6
"""Unrolled steps of a model with two GRUs, what building them takes on one core, and the memory that it takes."""
_MANY_STEPS_IN_EIGHT_BITS = 64
"""As many as are unrolled by default."""


@dataclass(frozen=True)
class BuiltEngine:
    """The two plans of an engine."""

    conditioner: CachedPlan
    decoder: CachedPlan
    built: tuple[Role, ...]
    """Which of them were built now; the others were in the cache."""


def build_engine(
    directory: ModelDirectory,
    spec: EngineSpec,
    cache: EngineCache,
    *,
    progress: Progress | None = None,
    memory_limit: int | None = None,
) -> BuiltEngine:
    """Gives an engine's plans, building what the cache does not have.

    Args:
        directory: a verified model directory.
        spec: what to build.
        cache: where plans are kept.
        progress: told how far a build is.
        memory_limit: bytes that a build's process may take; ``None`` is no limit.

    Raises:
        EngineBuildError: TensorRT made no plan, or its process died.
        EngineCacheError: the cache cannot be written.
        EngineSpecError: products of fp8 for a target that has none.
        TensorRTMissingError: the module is not installed.
    """
    check_grids(spec, directory.quantization)
    say = progress or (lambda role, stage, share: None)
    long = describe_long_build(directory, spec)
    if long and cache.find(plan_stem(directory, spec, "decoder"), plan_key(directory, spec, "decoder")) is None:
        logger.warning("%s", long)
    plans: dict[Role, CachedPlan] = {}
    built: list[Role] = []
    for role in ROLES:
        stem, key = plan_stem(directory, spec, role), plan_key(directory, spec, role)
        found = cache.find(stem, key)
        if found is None:
            with cache.building(stem, key, waiting=partial(_say_waiting, say, role)) as building:
                found = cache.find(stem, key)  # somebody may have built it while this waited
                if found is None:
                    result = build_in_process(directory, spec, role, building.folder, say, memory_limit)
                    manifest = _manifest(directory, spec, role, key, building.folder / PLAN, result)
                    found = building.commit(building.folder / PLAN, manifest)
                    built.append(role)
        plans[role] = found
        say(role, "ready", 1.0)
    return BuiltEngine(plans["conditioner"], plans["decoder"], tuple(built))


def describe_long_build(directory: ModelDirectory, spec: EngineSpec) -> str | None:
    """What to say before a decoder is built that takes long."""
    if spec.form != "cell":
        return None
    if in_eight_bits(directory.quantization):
        if spec.steps <= _MANY_STEPS_IN_EIGHT_BITS:
            return None
        return (
            f"building {spec.steps} unrolled steps with products in eight bits may take long: 64 of a univoc of 896 "
            "units in int8 took 14 s on one core, and builds grow beyond linearly; fewer steps take less"
        )
    if directory.model.layers == 1 or spec.steps <= _MANY_STEPS:
        return None
    many = spec.steps / _MANY_STEPS
    return (
        f"building {spec.steps} unrolled steps of a model with {directory.model.layers} GRUs may take "
        f"{_MINUTES * many**2:.0f} minutes (they grow with the square of the steps) and {_GIGABYTES * many:.1f} GB of "
        "memory; the form sequence takes seconds"
    )


def _say_waiting(say: Progress, role: Role, text: str) -> None:
    say(role, text, 0.0)


def _manifest(
    directory: ModelDirectory, spec: EngineSpec, role: Role, key: str, plan: Path, result: dict[str, Any]
) -> PlanManifest:
    decoder = role == "decoder"
    targets = tuple(f"sm{target}" for target in spec.targets)
    return PlanManifest(
        key=key,
        role=role,
        model=clean_name(directory.path.resolve().name),
        model_sha256=file_sha256(directory.file(MANIFEST)),
        backend=spec.backend,
        backend_version=tensorrt_version(spec.backend),
        targets=targets or tuple(f"{device.name} sm{device.sm}" for device in building_gpu()),
        precision=spec.precision if decoder else "fp32",
        form=spec.form if decoder else None,
        batch=spec.batch.as_tuple() if decoder else (1, 1, 1),
        steps=spec.steps if decoder else None,
        window=result["window"],
        frames=None if decoder else spec.frames.as_tuple(),
        bindings=tuple(from_json(Binding, one, "bindings") for one in result["bindings"]),
        plugins=tuple(PluginUse(**one) for one in result["plugins"]),
        layers=result["layers"],
        precisions=result["precisions"],
        products=result["products"],
        build_seconds=result["build_seconds"],
        peak_bytes=result["peak_bytes"],
        built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        graph_sha256=result["graph_sha256"],
        kernels_sha256=plugin_sources(),
        builder=f"wavernn-trt {wavernn_trt.__version__}",
        plan_sha256=file_sha256(plan),
        plan_bytes=plan.stat().st_size,
    )
