"""The two TensorRT modules: which is installed, and what a process needs before it imports one."""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from wavernn_trt.engines.spec import Backend

INSTALL: dict[Backend, str] = {
    "tensorrt": "pip install '.[tensorrt]' in a clone of the project (from NVIDIA's own index)",
    "tensorrt_rtx": "pip install '.[tensorrt-rtx]' in a clone of the project",
}
NAMES: dict[Backend, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_RTX_LIBRARY = "libtensorrt_rtx.so"


class TensorRTMissingError(ValueError):
    """A TensorRT module that is not installed, or does not load."""


def import_tensorrt(backend: Backend) -> Any:
    """Imports a TensorRT module; typed as `Any`, because both have one interface and no common stub.

    Raises:
        TensorRTMissingError: it is not there or does not load; says how to install it.
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
    """The installed version, without importing the module.

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
    """The environment of a process that parses graphs with plugins.

    TensorRT-RTX's parser opens ``libtensorrt_rtx.so`` when it meets a plugin, while its wheel ships that library only
    with its version behind the name, and the process aborts. A link of the short name, on a path that the loader reads
    at the process's start, lets it be found.

    Args:
        backend: the module that it will import.
        folder: where a link may be put; it must last as long as the process.
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
