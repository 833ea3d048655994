"""The two TensorRT modules: import, version, environment of a build process, and the layers of a plan."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from wavernn_trt.engines.gpu import DriverState, driver_state
from wavernn_trt.engines.plan_record import PlanRecord
from wavernn_trt.engines.spec import Backend

INSTALL: dict[Backend, str] = {
    "tensorrt": "pip install '.[tensorrt]' in a clone of the project (from NVIDIA's own index)",
    "tensorrt_rtx": "pip install '.[tensorrt-rtx]' in a clone of the project",
}
NAMES: dict[Backend, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_RTX_LIBRARY = "libtensorrt_rtx.so"


class TensorRTMissingError(ValueError):
    """A TensorRT module is not installed or does not load."""


class LayersUnknownError(ValueError):
    """The layers of a plan cannot be read on this machine: the reason."""


def import_tensorrt(backend: Backend) -> Any:
    """Imports a TensorRT module; typed as `Any`, since both modules have the same interface and no common stub.

    Raises:
        TensorRTMissingError: it is missing or does not load; with the command that installs it.
    """
    if importlib.util.find_spec(backend) is None:
        raise TensorRTMissingError(f"{NAMES[backend]} is not installed; install it with: {INSTALL[backend]}")
    try:
        module = importlib.import_module(backend)
    except (ImportError, OSError, RuntimeError) as error:
        raise TensorRTMissingError(f"{NAMES[backend]} is installed and does not load: {error}") from error
    if not hasattr(module, "Builder"):
        raise TensorRTMissingError(
            f"the module {backend} has no builder, only its bindings are installed; install all of it with: "
            f"{INSTALL[backend]}"
        )
    return module


def tensorrt_version(backend: Backend) -> str:
    """Returns the installed version without importing the module.

    Raises:
        TensorRTMissingError: it is not installed.
    """
    from importlib.metadata import PackageNotFoundError, version

    for distribution in (backend, f"{backend}_cu13", f"{backend}_cu12"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    raise TensorRTMissingError(f"{NAMES[backend]} is not installed; install it with: {INSTALL[backend]}")


def build_environment(backend: Backend, folder: Path) -> dict[str, str]:
    """Returns the environment of a process that parses graphs with plugins.

    TensorRT-RTX's parser opens ``libtensorrt_rtx.so`` for a plugin, but its wheel contains that library only with the
    version in its name, and the process aborts. So a link with the short name is added to the loader's path.

    Args:
        backend: the module that the process imports.
        folder: folder for the link; it must exist as long as the process.
    """
    environment = dict(os.environ)
    libraries = importlib.util.find_spec("tensorrt_rtx_libs") if backend == "tensorrt_rtx" else None
    if libraries is None or not libraries.submodule_search_locations:
        return environment
    found = sorted(Path(next(iter(libraries.submodule_search_locations))).glob(f"{_RTX_LIBRARY}.*"))
    if found:
        folder.mkdir(exist_ok=True)
        (folder / _RTX_LIBRARY).symlink_to(found[0])
        paths = [str(folder), *filter(None, [environment.get("LD_LIBRARY_PATH")])]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(paths)
    return environment


def plan_layers(plan: Path, record: PlanRecord, state: DriverState | None = None) -> list[str]:
    """Returns TensorRT's names of a plan's layers after fusion, in the order of execution.

    Args:
        plan: the plan, already compared with its record's hash.
        record: its record.
        state: the driver's state; read by default.

    Raises:
        LayersUnknownError: no driver or no module, or the plan is for another GPU.
    """
    name = NAMES[record.backend]
    reason = (state or driver_state()).reason
    if reason is not None:
        raise LayersUnknownError(f"{name} opens a plan on a GPU only, and {reason}")
    try:
        trt = import_tensorrt(record.backend)
    except TensorRTMissingError as error:
        raise LayersUnknownError(str(error)) from None
    from wavernn_trt.plugins.tensorrt_plugins import register

    register(trt)
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise LayersUnknownError(f"{name} does not open this plan here; it was built for {', '.join(record.targets)}")
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return [layer if isinstance(layer, str) else str(layer.get("Name")) for layer in json.loads(text)["Layers"]]
