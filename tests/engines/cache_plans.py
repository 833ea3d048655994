"""Small plans for tests of the cache. The tests load this file by path; run as a program, it is another builder.

As a program it takes a cache folder, a stem and a number, and builds that plan step by step: it prints ``waiting``,
``building`` and ``stored``, and after ``building`` waits for a line of input: ``commit``, or ``raise``.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

from wavernn_trt.engines.cache import CachedPlan, EngineCache
from wavernn_trt.engines.plan_record import Binding, PlanRecord, PluginUse

STEM = "lj16k-univoc896_decoder_sequence_fp16_b64_s1024_sm86+89_rtx1.7"


def key_of(number: int) -> str:
    """A key like a real one."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def record_of(content: bytes, key: str, **changes: Any) -> PlanRecord:
    """A decoder's record."""
    values: dict[str, Any] = {
        "key": key,
        "role": "decoder",
        "model": "lj16k",
        "model_sha256": "1" * 64,
        "backend": "tensorrt_rtx",
        "backend_version": "1.7.1.116",
        "targets": ("sm86", "sm89"),
        "precision": "fp16",
        "form": "sequence",
        "batch": (1, 8, 64),
        "steps": 1024,
        "window": 8,
        "frames": None,
        "bindings": (
            Binding("uniforms", "input", "float32", (-1, 1024, 1), ((1, 1024, 1), (8, 1024, 1), (64, 1024, 1))),
            Binding("samples", "output", "int32", (-1, 1024)),
        ),
        "plugins": (PluginUse("WaveRNNSequencePlugin", "1", "wavernn_trt", 1),),
        "layers": {"PLUGIN_V3": 1, "CONSTANT": 12},
        "precisions": {"PLUGIN_V3": {"int32": 1}, "CONSTANT": {"float32": 8, "float16": 4}},
        "build_seconds": 12.5,
        "peak_bytes": 3 << 30,
        "built_at": "2026-05-04T03:02:01+00:00",
        "graph_sha256": "2" * 64,
        "kernels_sha256": "3" * 64,
        "builder": "wavernn-trt 0.1.0",
        "plan_sha256": hashlib.sha256(content).hexdigest(),
        "plan_bytes": len(content),
    }
    return PlanRecord(**{**values, **changes})


def content_of(number: int, size: int = 1000) -> bytes:
    """Bytes that take the place of a plan."""
    return (f"plan {number} ".encode() * size)[:size]


def store(cache: EngineCache, number: int, stem: str = STEM, size: int = 1000, **changes: Any) -> CachedPlan:
    """Builds a plan: writes its bytes and commits them."""
    key, content = key_of(number), content_of(number, size)
    with cache.building(stem, key) as building:
        made = building.folder / "engine.plan"
        made.write_bytes(content)
        return building.commit(made, record_of(content, key, **changes))


def main() -> None:
    """Builds a plan as its input commands."""
    folder, stem, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    cache, key, content = EngineCache(Path(folder)), key_of(number), content_of(number)

    def report(text: str) -> None:
        print(text, flush=True)

    with cache.building(stem, key, report) as building:
        if (found := cache.find(stem, key)) is not None:
            report(f"found {found.name}")
            return
        made = building.folder / "engine.plan"
        made.write_bytes(content[: len(content) // 2])
        report(f"building {building.folder}")
        if sys.stdin.readline().strip() != "commit":
            raise RuntimeError("this builder fails")
        made.write_bytes(content)
        report(f"stored {building.commit(made, record_of(content, key)).name}")


if __name__ == "__main__":
    main()
