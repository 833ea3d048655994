"""setup.cfg and .typing agree with the folders on disk, and importing the package stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

import wavernn_trt
from wavernn_trt.engines.tensorrt_module import import_tensorrt

ROOT = Path(__file__).parents[1]
FOLDERS = {"export", "engines", "plugins", "runtime", "calibration", "scripts"}
NOT_IN_THE_WHEEL = {"wavernn_trt.scripts.gpu": ROOT / "scripts/gpu"}
"""Packages that are run from a clone only."""


def section(name: str) -> dict[str, str]:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    return dict(config[name])


def package_dir() -> dict[str, Path]:
    pairs = (line.split("=") for line in section("options")["package_dir"].strip().splitlines())
    return {name.strip(): ROOT / folder.strip() for name, folder in pairs}


def test_every_package_on_disk_is_listed() -> None:
    found = {"wavernn_trt"}
    for name, folder in package_dir().items():
        for init in folder.rglob("__init__.py"):
            found.add(".".join((name, *init.parent.relative_to(folder).parts)))
    found.discard("wavernn_trt.runtime.facade")  # the same folder as wavernn_trt
    assert found - set(NOT_IN_THE_WHEEL) == set(section("options")["packages"].split())
    assert set(NOT_IN_THE_WHEEL) <= found


def test_the_wheel_imports_nothing_that_is_not_in_it() -> None:
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            if not any(file.is_relative_to(left_out) for left_out in NOT_IN_THE_WHEEL.values()):
                assert not [name for name in NOT_IN_THE_WHEEL if name in file.read_text()], file


def test_every_module_is_in_a_listed_package() -> None:
    folders = {init.parent for folder in FOLDERS for init in (ROOT / folder).rglob("__init__.py")}
    stray = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py") if file.parent not in folders]
    assert stray == []


def test_every_other_file_of_the_product_is_package_data() -> None:
    data = section("options.package_data")
    shipped = {
        file
        for package, patterns in data.items()
        for pattern in patterns.split()
        for file in (package_dir()[package]).glob(pattern)
    }
    files = {file for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.is_file()}
    # Shown by the README, and not needed by the product.
    shown = {*(ROOT / "scripts/bench/results").iterdir(), *(ROOT / "runtime/voices/samples").rglob("*")}
    shown |= {file for file in files if file.name == "README.md" and file not in shipped}
    shown |= {file for folder in NOT_IN_THE_WHEEL.values() for file in folder.rglob("*")}
    # The extension module of setup.py: its sources, and what a build in place leaves beside them.
    shown |= {file for pattern in ("*.cpp", "*.h", "_native.*") for file in (ROOT / "plugins/cpu").glob(pattern)}
    assert {file for file in files - shown if file.suffix not in (".py", ".pyc")} == shipped


@pytest.mark.skipif(not (ROOT / ".typing").is_dir(), reason=".typing is not part of the source distribution")
def test_type_checkers_see_the_same_mapping() -> None:
    links = {path.name: path.resolve() for path in (ROOT / ".typing/wavernn_trt").iterdir()}
    folders = package_dir()
    assert links.pop("__init__.py") == folders.pop("wavernn_trt").resolve() / "__init__.py"
    assert links == {name.removeprefix("wavernn_trt."): folder.resolve() for name, folder in folders.items()}


@pytest.mark.parametrize("module", ["wavernn_trt", "wavernn_trt.export", "wavernn_trt.runtime.vocoder"])
def test_importing_loads_no_heavy_packages(module: str) -> None:
    heavy = "{'torch', 'onnx', 'tensorrt', 'tensorrt_rtx', 'cuda', 'pycuda', 'librosa', 'scipy'}"
    code = f"import sys, {module}; loaded = {heavy} & set(sys.modules); assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_the_package_has_its_public_names() -> None:
    assert all(hasattr(wavernn_trt, name) for name in wavernn_trt.__all__)
    assert not hasattr(wavernn_trt, "vocode_everything")


def test_layers_import_downwards_only() -> None:
    """A folder imports only from those listed for it."""
    allowed = {
        "export": set(),
        "plugins": {"export"},
        "engines": {"export", "plugins"},
        "runtime": {"export", "engines", "plugins"},
        "calibration": {"export", "runtime"},
        "scripts": FOLDERS,
    }
    for folder, others in allowed.items():
        for file in (ROOT / folder).rglob("*.py"):
            for other in FOLDERS - others - {folder}:
                assert f"wavernn_trt.{other}" not in file.read_text(), f"{file} imports {other}"


def test_the_product_imports_the_packages_that_it_is_written_for() -> None:
    """By statement, or by name with `import_module`."""
    imported = set()
    for folder in FOLDERS - {"scripts"}:
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    imported |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    imported.add(node.module)
                elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == "import_module":
                    imported |= {str(one.value) for one in node.args if isinstance(one, ast.Constant)}
    expected = {"pycuda", "torch", "onnx", "onnx_graphsurgeon", "polygraphy", "numpy"}
    assert expected <= {name.split(".")[0] for name in imported}


def test_plans_are_built_with_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("class Builder: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    assert import_tensorrt("tensorrt").__file__ == str(tmp_path / "tensorrt.py")
    monkeypatch.delitem(sys.modules, "tensorrt")
