"""Fixtures of the tests on a GPU; a kernel that crashes or hangs does not end the tests of the others.

Under pytest-xdist (``-n 1 --max-worker-restart 16``) a test that ends its process is reported as failed, and the others
run in a new process. A test that takes longer than `TEST_SECONDS` or loses the CUDA context ends its process. With
``--gpu-findings FILE`` the beginning and the end of every test are recorded in that file; later processes do not launch
the kernels again that crashed.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gpu_checks import Checks, DeviceRunner, HostRunner

from wavernn_trt.plugins import compile as compiling
from wavernn_trt.plugins import driver
from wavernn_trt.plugins.compile import KernelCache
from wavernn_trt.plugins.driver import primary_context
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.scripts.gpu.cubins import open_cubins
from wavernn_trt.scripts.gpu.findings import CRASHED, FindingsFile, crashed_kernels, failed_kernels
from wavernn_trt.scripts.gpu.timed_chunks import WAITS

TEST_SECONDS = 40.0
LOST = 70
"""Exit code of a process whose CUDA context is lost."""
_SHOWN = 400


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gpu")
    group.addoption("--gpu-findings", type=Path, help="file of JSON lines that tests are recorded in")
    group.addoption("--gpu-part", default="tests", help="name of the part in that file")
    group.addoption("--gpu-cubins", type=Path, help="folder of cubins made by 'scripts.gpu.run --prebuild'")
    group.addoption("--gpu-host-build", type=Path, help="library of the kernels' host build, made beforehand")
    group.addoption("--gpu-kernels", help="kernels to test, with commas between them")
    group.addoption("--gpu-precisions", help="precisions to test, with commas between them")
    group.addoption("--gpu-test-seconds", type=float, default=TEST_SECONDS, help="limit of one test")


def _findings(config: pytest.Config) -> FindingsFile | None:
    path = config.getoption("--gpu-findings", None)
    return FindingsFile(path, config.getoption("--gpu-part")) if path else None


def _subject(item: pytest.Item) -> tuple[str, str]:
    """The kernel and the precision of a test."""
    parameters: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    kernel = parameters.get("kernel", "gru_cell" if "cell" in parameters else "")
    return str(kernel), str(parameters.get("precision", ""))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = [config.getoption(f"--gpu-{name}", None) for name in ("kernels", "precisions")]
    kept = [
        item
        for item in items
        if all(not names or found in names.split(",") for names, found in zip(chosen, _subject(item), strict=True))
    ]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


@pytest.fixture(autouse=True)
def guarded(request: pytest.FixtureRequest) -> Iterator[None]:
    """Skips kernels that crashed, records the beginning, ends the process if the test hangs or loses the context."""
    findings, (kernel, precision) = _findings(request.config), _subject(request.node)
    request.node.user_properties += [("kernel", kernel), ("precision", precision)]
    if findings is not None:
        before = findings.read()
        if kernel and kernel in crashed_kernels(before):
            pytest.skip(f"the kernel {CRASHED} before")
        if request.node.get_closest_marker("large") and (kernel, precision) in failed_kernels(before):
            pytest.skip("the kernel failed before, in a smaller case")
        findings.begin(request.node.nodeid, kernel, precision)
    if request.node.get_closest_marker("gpu"):
        seconds = float(request.config.getoption("--gpu-test-seconds", TEST_SECONDS))
        faulthandler.dump_traceback_later(seconds, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    if "checks" in request.fixturenames and driver.is_lost():
        os._exit(LOST)  # reported already; all later calls in this process would fail


@pytest.fixture(scope="session")
def gpu() -> Iterator[None]:
    """Makes the first GPU's context current."""
    context = primary_context()
    try:
        context.__enter__()
    except KernelError as error:
        pytest.skip(f"needs a GPU: {error}")
    yield
    context.__exit__(None, None, None)


@pytest.fixture(scope="session")
def cubins(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> KernelCache:
    """Compiled kernels: the prebuilt ones of ``--gpu-cubins``, or compiled when needed."""
    try:
        return open_cubins(pytestconfig.getoption("--gpu-cubins", None), tmp_path_factory.mktemp("cubins"))[0]
    except KernelError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def checks(gpu: None, cubins: KernelCache) -> Checks:
    """Checks of kernels on the GPU."""
    return Checks(DeviceRunner(cubins, WAITS))


@pytest.fixture(scope="session")
def host_runner(request: pytest.FixtureRequest) -> HostRunner:
    """The kernels' host build, a second reference."""
    given = request.config.getoption("--gpu-host-build", None)
    if given is not None and not given.exists():
        pytest.skip(f"there is no host build in {given} (yet)")
    return HostRunner(given or request.getfixturevalue("host_build"))


@pytest.fixture
def runtime_cubins(gpu: None, cubins: KernelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime uses the same cubins, with any compiler of this machine."""
    monkeypatch.setattr(compiling, "find_compiler", lambda: cubins.compiler)
    monkeypatch.setattr(compiling, "default_folder", lambda: cubins.folder)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> Iterator[None]:
    """Records a result; under pytest-xdist only the process that collects the workers' reports does."""
    yield
    findings = _recorder.findings
    if findings is None or "PYTEST_XDIST_WORKER" in os.environ:
        return
    seconds, numbers = report.duration, dict(report.user_properties)
    if report.when == "call" or report.outcome != "passed":
        status = report.outcome
        if report.outcome == "passed" and numbers.pop("noted", False):
            status = "noted"  # type: ignore[assignment]
        text = str(numbers.pop("text", ""))
        if report.skipped and isinstance(report.longrepr, tuple):
            text = report.longrepr[2].removeprefix("Skipped: ")
        elif report.failed:
            text = _last_output(report)
            if report.when not in ("setup", "call", "teardown"):  # how pytest-xdist reports a worker's end
                text = f"{CRASHED}: killed by a signal, hung, or lost the GPU"
        subject = {name: str(numbers.pop(name, "")) for name in ("kernel", "precision")}
        findings.add(report.nodeid, status, text, seconds=seconds, numbers=numbers, **subject)


def _last_output(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longreprtext).strip()[-_SHOWN:]


class _Recorder:
    findings: FindingsFile | None = None


_recorder = _Recorder()


def pytest_configure(config: pytest.Config) -> None:
    _recorder.findings = _findings(config)
