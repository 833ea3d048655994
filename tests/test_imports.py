"""Imports between modules of the package, read from the source: no circles, and inside runtime/ no import upwards."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = (
    ("errors",),
    ("features", "load_options"),
    ("mel", "sample_coding"),
    ("executors",),
    ("conditioning",),
    ("decoding",),
    ("streaming",),
    ("files",),
    ("copy_synthesis", "reopening"),
    ("mel_comparison",),
    ("loaded_model",),
    ("health",),
    ("scheduling",),
    ("request", "incremental_request"),
    ("vocoder",),
    ("async_vocoder", "jobs", "models", "speech"),
    ("metrics",),
)
"""Folders and modules of runtime/, in layers. Each imports only from layers above its own line."""

OLD_PATHS = {"wavernn_trt.runtime.health.standby"}
"""Modules at the path of an earlier version, which only import names from the new path."""

Kind = Literal["top", "deferred", "typing"]
"""At the top of a module, inside a function, or for type checkers only."""


@dataclass(frozen=True)
class Import:
    importer: str
    imported: str
    kind: Kind


def read_modules(folders: Mapping[str, Path]) -> dict[str, Path]:
    """All modules by name; in nested package folders, the innermost gives the name."""
    inner = {folder.resolve() for folder in folders.values()}
    modules = {}
    for package, folder in folders.items():
        for file in sorted(folder.rglob("*.py")):
            if any(parent.resolve() in inner for parent in file.parents if folder in parent.parents):
                continue
            parts = file.relative_to(folder).with_suffix("").parts
            modules[".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))] = file
    return modules


def read_imports(modules: Mapping[str, Path]) -> list[Import]:
    """All imports between these modules."""
    return [one for name, file in modules.items() for one in _imports(name, ast.parse(file.read_text()), modules)]


def circles(imports: list[Import], counts: Callable[[Import], bool] = lambda one: True) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others (Tarjan's components of two or more)."""
    following: dict[str, set[str]] = {}
    for one in filter(counts, imports):
        following.setdefault(one.importer, set()).add(one.imported)
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        numbers[module] = lowest[module] = len(numbers)
        path.append(module)
        for other in sorted(following.get(module, ())):
            if other not in numbers:
                visit(other)
            if other in path:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == numbers[module]:
            group = path[path.index(module) :]
            del path[path.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(following):
        if module not in numbers:
            visit(module)
    return found


def _imports(importer: str, node: ast.AST, modules: Mapping[str, Path], kind: Kind = "top") -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inside = kind
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            inside = "typing"
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and kind == "top":
            inside = "deferred"
        names: list[str] = []
        if isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom) and child.module is not None:
            whole = [f"{child.module}.{alias.name}" for alias in child.names]
            names = [name if name in modules else child.module for name in whole]
        for name in dict.fromkeys(names):
            if name in modules and name != importer:
                yield Import(importer, name, kind)
        yield from _imports(importer, child, modules, inside)


def packages() -> dict[str, Path]:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    pairs = (line.split("=") for line in config["options"]["package_dir"].strip().splitlines())
    return {name.strip(): ROOT / folder.strip() for name, folder in pairs}


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    return read_imports(read_modules(packages()))


def part_of(module: str) -> str | None:
    names = module.split(".")
    return names[2] if names[:2] == ["wavernn_trt", "runtime"] and len(names) > 2 else None


def test_every_part_of_the_runtime_has_its_layer() -> None:
    parts = {path.stem for path in (ROOT / "runtime").glob("[a-z]*.py")}
    parts |= {init.parent.name for init in (ROOT / "runtime").glob("*/__init__.py")} - {"facade"}
    assert parts == {name for layer in LAYERS for name in layer}


def test_parts_of_the_runtime_import_only_from_lower_layers(imports: list[Import]) -> None:
    """Imports for type checkers count as well."""
    height = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    between = [
        (one, importer, imported)
        for one in imports
        if (importer := part_of(one.importer)) and (imported := part_of(one.imported)) and importer != imported
    ]
    assert len(between) > 100
    upwards = [one for one, importer, imported in between if height[imported] >= height[importer]]
    assert [one for one in upwards if one.importer not in OLD_PATHS] == []


def test_no_modules_import_each_other_in_a_circle_even_with_deferred_imports(imports: list[Import]) -> None:
    assert circles(imports, lambda one: one.kind != "typing") == []


def test_imports_for_type_checkers_make_no_circle_except_through_the_public_names(imports: list[Import]) -> None:
    assert circles(imports, lambda one: one.importer != "wavernn_trt") == []


def test_circles_through_deferred_imports_and_those_for_type_checkers_are_found(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "__init__.py").write_text("")
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "a.py").write_text("from package.inner import b\n")
    (tmp_path / "inner" / "b.py").write_text("def late():\n    from package.c import thing\n")
    (tmp_path / "c.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import package.a\n")
    found = read_imports(read_modules({"package": tmp_path}))
    assert [one.kind for one in found] == ["top", "typing", "deferred"]
    assert circles(found) == [["package.a", "package.c", "package.inner.b"]]
    assert circles(found, lambda one: one.kind != "typing") == []
