"""Names and keys of plans."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

from wavernn_trt.engines.gpu import building_gpu
from wavernn_trt.engines.spec import EngineSpec, Role
from wavernn_trt.engines.tensorrt_module import tensorrt_version
from wavernn_trt.export.model_directory import MANIFEST, ModelDirectory, file_sha256

_GRAPH_CODE = (
    "engines/build_process.py",
    "engines/graphs.py",
    "export/arrays.py",
    "export/config.py",
    "export/graph_files.py",
    "export/grids.py",
    "export/model_directory.py",
    "export/networks.py",
    "export/operators.py",
    "export/quantization.py",
    "export/rewrite",
    "export/sequence.py",
    "export/typed_json.py",
)
"""The code that makes a plan's network from a model directory; its hash is part of the key."""
_SHORT_BACKENDS = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}


def plan_stem(directory: ModelDirectory, spec: EngineSpec, role: Role) -> str:
    """Returns a plan's readable name, as in ``voice-univoc896_decoder_cell_fp16_b8_s1024_sm86+89_rtx1.7``."""
    model = directory.model
    name = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in directory.path.resolve().name)
    parts = [f"{name[:40]}-{model.family}{model.hidden_size}", role]
    if role == "decoder":
        batch = str(spec.batch).replace(":", "-")
        parts += [spec.form, spec.precision, f"b{batch}", f"s{spec.steps}"]
    else:
        parts += [f"f{str(spec.frames).replace(':', '-')}"]
    return "_".join([*parts, gpu_and_version(spec)])


def gpu_and_version(spec: EngineSpec) -> str:
    """Returns a plan's targets and TensorRT version, as in ``sm86+89_rtx1.7``."""
    targets = spec.targets or [device.sm for device in building_gpu()]
    version = ".".join(tensorrt_version(spec.backend).split(".")[:2])
    return f"sm{'+'.join(map(str, targets))}_{_SHORT_BACKENDS[spec.backend]}{version}"


def plan_key(directory: ModelDirectory, spec: EngineSpec, role: Role) -> str:
    """Returns the hash of all inputs of a build: model, settings, TensorRT version, GPU, graph and kernel code.

    The graph follows from the model's files and that code, so it need not be made to compute the key.
    """
    ingredients = {
        "model": file_sha256(directory.file(MANIFEST)),
        "role": role,
        "spec": spec.of_role(role),
        "version": tensorrt_version(spec.backend),
        "gpu": [] if spec.targets else [device.name for device in building_gpu()],
        "graph_code": _sources(*_GRAPH_CODE),
        "plugin_code": plugin_sources() if role == "decoder" else "",
    }
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


def plugin_sources() -> str:
    """Returns the SHA-256 of the plugins' and kernels' sources, without the native decoder for CPUs."""
    return _sources("plugins", "export/operators.py")


@cache
def _sources(*names: str) -> str:
    import wavernn_trt.engines
    import wavernn_trt.export
    import wavernn_trt.plugins

    homes = {
        package.__name__.rpartition(".")[2]: Path(str(package.__file__)).parent
        for package in (wavernn_trt.engines, wavernn_trt.export, wavernn_trt.plugins)
    }
    digest = hashlib.sha256()
    for name in names:
        folder, _, rest = name.partition("/")
        place = homes[folder] / rest
        files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.suffix in (".py", ".h", ".cu"))
        files = [file for file in files if not file.is_relative_to(homes["plugins"] / "cpu")]
        for file in files:
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
