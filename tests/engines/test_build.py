"""TensorRT-RTX builds plans for GPUs of other machines; each failure has its message."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx", reason="plans are built by TensorRT-RTX")

from wavernn_trt.engines import build, gpu, plan_names
from wavernn_trt.engines.build import EngineBuildError, build_engine
from wavernn_trt.engines.build_process import GRAPH
from wavernn_trt.engines.cache import EngineCache, EngineCacheError
from wavernn_trt.engines.gpu import DriverState, Gpu
from wavernn_trt.engines.plan_names import plan_key, plan_stem
from wavernn_trt.engines.spec import EngineSpec, Extent, Form, Role
from wavernn_trt.export.model_directory import DECODER_LOOP, ModelDirectory, open_model_directory, write_manifest
from wavernn_trt.export.operators import Precision

Directories = Callable[[str], ModelDirectory]
FOUR = (80, 86, 89, 120)
SHORT = Extent.of("2:8:64")
QUICK = EngineSpec(targets=(86,), precision="fp32", steps=4, form="cell", batch=Extent.of(2), frames=SHORT)

MATERIALISED = {"univoc-896": 0, "fatchord-512": 6, "fatchord-mol-512": 6}
"""Rows of conditioning that are sums, one for each place that reads them, and the uniforms."""


@pytest.fixture(scope="session")
def standard(tmp_path_factory: pytest.TempPathFactory) -> Directories:
    """A function name -> a model directory of the size that people train, with random weights."""
    from wavernn_trt.scripts.bench.models import export_random

    folder = tmp_path_factory.mktemp("standard")

    @functools.cache
    def make(name: str) -> ModelDirectory:
        return open_model_directory(export_random(name, folder))

    return make


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> EngineCache:
    """A cache that tests share, so that each conditioner is built once."""
    return EngineCache(tmp_path_factory.mktemp("plans"))


def full_size() -> Iterator[object]:
    """All models, forms and precisions; only one of each form is not nightly, as small models have the rest."""
    for name in MATERIALISED:
        for form, steps in (("cell", 16), ("sequence", 1024)):
            for precision in ("fp32", "fp16", "bf16"):
                daily = (name, form, precision) == ("fatchord-512", "sequence", "bf16")
                yield pytest.param(name, form, steps, precision, marks=() if daily else pytest.mark.nightly)


@pytest.mark.parametrize(("name", "form", "steps", "precision"), list(full_size()))
def test_models_of_full_size_are_built_for_four_generations(
    standard: Directories, kept: EngineCache, name: str, form: Form, steps: int, precision: Precision
) -> None:
    directory = standard(name)
    spec = EngineSpec(targets=FOUR, precision=precision, form=form, steps=steps)
    record = build_engine(directory, spec, kept).decoder.record
    assert record.targets == ("sm80", "sm86", "sm89", "sm120")
    plugins = {plugin.name: plugin.count for plugin in record.plugins}
    if form == "cell":
        assert plugins.pop("CustomGRUPlugin") == steps * directory.model.layers
        assert sum(plugins.values()) == plugins.get("MaterialisePlugin", 0) == MATERIALISED[name]
        low = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[precision]
        assert set(record.precisions["MATRIX_MULTIPLY"]) <= {low, "float32"}
        assert record.precisions["MATRIX_MULTIPLY"][low] >= 2 * steps
        assert set(record.precisions["SOFTMAX"]) == {"float32"}
    else:
        assert plugins == {"WaveRNNSequencePlugin": 1}
    weights = directory.model.multiply_adds * (4 if precision == "fp32" else 2)
    assert record.plan_bytes > weights


@pytest.mark.nightly
@pytest.mark.parametrize("name", MATERIALISED)
def test_sixty_four_unrolled_steps(standard: Directories, kept: EngineCache, name: str) -> None:
    spec = EngineSpec(targets=FOUR, form="cell", steps=64)
    record = build_engine(standard(name), spec, kept).decoder.record
    assert record.layers["PLUGIN_V3"] == 64 * standard(name).model.layers + MATERIALISED[name]


@pytest.mark.parametrize("form", ["cell", "sequence"])
@pytest.mark.parametrize(
    ("layout", "precision"), [("mol", "fp16"), ("gauss", "bf16"), ("turian", "fp16"), ("linear", "fp32")]
)
def test_every_layout_is_built(
    small_directory: Directories, kept: EngineCache, layout: str, precision: Precision, form: Form
) -> None:
    directory = small_directory(layout)
    spec = dataclasses.replace(QUICK, form=form, precision=precision, batch=Extent.of("1:2:5"))
    engine = build_engine(directory, spec, kept)
    inputs = {binding.name: binding for binding in engine.decoder.record.bindings if binding.kind == "input"}
    assert inputs["uniforms"].shape == (-1, 4, directory.model.uniforms)
    assert inputs["uniforms"].profile == tuple((n, 4, directory.model.uniforms) for n in (1, 2, 5))
    (mel, conditioning) = engine.conditioner.record.bindings
    assert (mel.shape, conditioning.shape) == ((1, 6, -1), (1, -1, directory.model.columns))
    assert engine.conditioner.record.frames == (2, 8, 64)


def test_a_static_mel_as_the_conditioners_input(small_directory: Directories, kept: EngineCache) -> None:
    engine = build_engine(small_directory("raw"), dataclasses.replace(QUICK, frames=Extent.of(1024)), kept)
    assert engine.conditioner.record.frames == (1024, 1024, 1024)


def test_plans_are_kept_and_found_again(small_directory: Directories, tmp_path: Path) -> None:
    directory, cache = small_directory("univoc"), EngineCache(tmp_path / "cache")
    first = build_engine(directory, QUICK, cache)
    again = build_engine(directory, QUICK, cache)
    assert (first.built, again.built) == (("conditioner", "decoder"), ())
    assert first.decoder.plan == again.decoder.plan
    assert first.decoder.plan.name.startswith("univoc-univoc8_decoder_cell_fp32_b2_s4_sm86_rtx1.")
    other = build_engine(directory, dataclasses.replace(QUICK, steps=5), cache)
    assert other.built == ("decoder",)  # the conditioner does not depend on steps


def test_keys_differ_where_plans_do(small_directory: Directories) -> None:
    specs = [
        QUICK,
        *(
            dataclasses.replace(QUICK, **change)  # type: ignore[arg-type]
            for change in (
                {"precision": "bf16"}, {"steps": 5}, {"form": "sequence"}, {"batch": Extent.of(3)},
                {"targets": (86, 89)}, {"batch": Extent.of("1:2:2")},
            )
        ),
    ]  # fmt: skip
    keys = {plan_key(small_directory(layout), spec, "decoder") for layout in ("univoc", "raw") for spec in specs}
    assert len(keys) == 2 * len(specs)
    assert len({plan_stem(small_directory("raw"), spec, "decoder") for spec in specs}) == len(specs)


def test_a_key_depends_on_all_code_that_a_graph_comes_from() -> None:
    """A change of any module that making a graph imports must change the key."""
    program = "import sys, wavernn_trt.engines.graphs; print(*(name for name in sys.modules if 'wavernn_trt.' in name))"
    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    code = [name.removesuffix(".py").replace("/", ".") for name in plan_names._GRAPH_CODE]
    for name in sorted(word.removeprefix("wavernn_trt.") for word in imported.split()):
        # Packages are empty; the others hold what is asked for, what is refused, and the GPU, whose name is in the key.
        without = name in ("export", "engines", "engines.compatibility", "engines.gpu", "engines.spec")
        assert without or any(name == one or name.startswith(f"{one}.") for one in code), name


def test_regular_tensorrt_builds_for_the_first_gpu_alone(
    small_directory: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_names, "tensorrt_version", lambda backend: "10.16.1.11")
    large, small = Gpu("NVIDIA Large", 90), Gpu("NVIDIA Small", 89)
    keys, stems = [], []
    for devices in ((large,), (large, small), (small, large)):
        monkeypatch.setattr(gpu, "driver_state", lambda devices=devices: DriverState(devices, None))
        keys.append(plan_key(small_directory("raw"), EngineSpec("tensorrt"), "decoder"))
        stems.append(plan_stem(small_directory("raw"), EngineSpec("tensorrt"), "decoder").partition("_sm")[2])
    assert keys[0] == keys[1] != keys[2]
    assert stems == ["90_trt10.16", "90_trt10.16", "89_trt10.16"]


def test_progress_is_tensorrt_s(small_directory: Directories, tmp_path: Path) -> None:
    reports: list[tuple[Role, str, float]] = []
    spec = dataclasses.replace(QUICK, steps=8)
    build_engine(
        small_directory("raw"), spec, EngineCache(tmp_path / "cache"), progress=lambda *step: reports.append(step)
    )
    for role in ("conditioner", "decoder"):
        mine = [(stage, share) for of, stage, share in reports if of == role]
        assert mine[-1] == ("ready", 1.0)
        assert "Building engine" in {stage for stage, _ in mine}
        assert all(0 <= share <= 1 for _, share in mine)
    assert max(share for _, stage, share in reports if stage != "ready") > 0.5


def test_a_damaged_plan_is_logged_and_built_again(
    small_directory: Directories, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = small_directory("univoc")
    plan = build_engine(directory, QUICK, EngineCache(tmp_path / "cache")).decoder.plan
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        engine = build_engine(directory, QUICK, EngineCache(tmp_path / "cache"))
    assert engine.built == ("decoder",)
    assert plan.name in caplog.text
    assert build_engine(directory, QUICK, EngineCache(tmp_path / "cache")).built == ()


def test_the_error_of_a_refused_target_is_tensorrt_s(small_directory: Directories, tmp_path: Path) -> None:
    with pytest.raises(EngineBuildError, match=r"conditioner[\s\S]*SM75[\s\S]*FP32 GEMM is not supported") as caught:
        build_engine(small_directory("raw"), dataclasses.replace(QUICK, targets=(75,)), EngineCache(tmp_path / "cache"))
    assert "while building the plan: TensorRT made no plan" in str(caught.value)
    assert left_behind(tmp_path / "cache") == []


def test_an_operator_that_tensorrt_refuses_is_named(small_directory: Directories, tmp_path: Path) -> None:
    import onnx

    directory = tmp_path / "model"
    shutil.copytree(small_directory("raw").path, directory)
    loop = onnx.load(str(directory / DECODER_LOOP), load_external_data=False)
    (scan,) = (node for node in loop.graph.node if node.op_type == "Scan")
    (body,) = (attribute.g for attribute in scan.attribute if attribute.name == "body")
    next(node for node in body.node if node.op_type == "ArgMax").op_type = "Multinomial"
    onnx.save(loop, str(directory / DECODER_LOOP))
    write_manifest(directory)
    with pytest.raises(EngineBuildError, match=r"would refuse \d+ nodes.*\(Multinomial\): TensorRT has no layer"):
        build_engine(open_model_directory(directory), QUICK, EngineCache(tmp_path / "cache"))
    assert left_behind(tmp_path / "cache") == []


def test_an_abort_in_native_code_is_an_error_message(
    small_directory: Directories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the library's short name on the loader's path, TensorRT-RTX's parser aborts at a plugin."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    monkeypatch.setattr(build, "build_environment", lambda backend, folder: environment)
    with pytest.raises(EngineBuildError, match=r"TensorRT-RTX ended its process with SIGABRT.*last node.*materialised"):
        build_engine(small_directory("raw"), QUICK, EngineCache(tmp_path / "cache"))
    assert left_behind(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("code", "limit", "words"),
    [
        (-signal.SIGKILL, None, "its process was killed, as Linux does when memory runs out; try fewer steps"),
        (-signal.SIGSEGV, 2**28, r"with SIGSEGV, possibly out of memory beyond the limit of 0\.25 GiB"),
        (-signal.SIGSEGV, None, "ended its process with SIGSEGV$"),
    ],
)
def test_the_message_of_a_process_that_ended_has_the_possible_cause(code: int, limit: int | None, words: str) -> None:
    monitor = build._Monitor("decoder", lambda *_: None)
    assert re.search(words, monitor.explain(code, [], "TensorRT-RTX", limit))


def test_files_in_the_current_folder_are_not_run(
    small_directory: Directories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("logging", "onnx", "wavernn_trt"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('run')")
    directory = small_directory("raw")
    monkeypatch.chdir(tmp_path)
    assert build_engine(directory, QUICK, EngineCache(tmp_path / "cache")).built == ("conditioner", "decoder")


def test_an_error_about_a_file_names_that_file(
    small_directory: Directories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def environment(backend: str, folder: Path) -> dict[str, str]:
        (folder.parent / GRAPH).mkdir()  # where a file is to be written
        return dict(os.environ)

    monkeypatch.setattr(build, "build_environment", environment)
    with pytest.raises(EngineBuildError, match=rf"while rewriting the graph: .*Is a directory: .*/{GRAPH}'"):
        build_engine(small_directory("raw"), QUICK, EngineCache(tmp_path / "cache"))


def test_out_of_memory_is_an_error_message(standard: Directories, tmp_path: Path) -> None:
    spec = EngineSpec(targets=(86,), form="cell", steps=64)
    with pytest.raises(EngineBuildError, match=r"out of memory beyond the limit of 0\.3 GiB; try fewer steps"):
        build_engine(standard("univoc-896"), spec, EngineCache(tmp_path / "cache"), memory_limit=round(0.3 * 2**30))
    assert left_behind(tmp_path / "cache") == []


def test_a_full_disk_is_an_error_message(standard: Directories, small_disk: Path) -> None:
    cache = EngineCache(small_disk / "cache")
    with pytest.raises(EngineCacheError, match=r"cache: no space left: .* free; make room, perhaps with"):
        build_engine(standard("univoc-896"), EngineSpec(targets=(86,), form="sequence"), cache)
    assert left_behind(small_disk / "cache") == []


def test_kill_in_mid_build_leaves_a_cache_that_works(small_directory: Directories, tmp_path: Path) -> None:
    directory, cache = small_directory("univoc"), tmp_path / "cache"
    command = ["--form", "cell", "--steps", "32", "--sm", "86", "-o", str(cache), str(directory.path)]
    process = start(command)
    wait_for(lambda: any(cache.glob("*_conditioner_*/*.json")) and builds(cache, process.pid))
    children = children_of(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(child) for child in children))  # they end with their parent
    assert not list(cache.glob("*_decoder_*/*.plan"))
    finished = json.loads(run([*command, "--json", "-q"]))
    assert [(plan["role"], plan["built"]) for plan in finished] == [("conditioner", False), ("decoder", True)]
    assert left_behind(cache) == []


def test_interrupt_in_mid_build_leaves_nothing_behind(small_directory: Directories, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    process = start(
        ["--form", "cell", "--steps", "32", "--sm", "86", "-o", str(cache), str(small_directory("univoc").path)]
    )
    wait_for(lambda: builds(cache, process.pid))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted; finished plans are kept; the unfinished one was removed" in errors
    assert left_behind(cache) == []


def test_two_builders_of_one_plan_build_it_once(small_directory: Directories, tmp_path: Path) -> None:
    command = [
        "--form", "cell", "--steps", "24", "--sm", "86", "-o", str(tmp_path / "cache"), "--json", "-q",
        str(small_directory("raw").path),
    ]  # fmt: skip
    both = [start(command) for _ in range(2)]
    results = [json.loads(process.communicate(timeout=120)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    for place in range(2):
        assert sorted(result[place]["built"] for result in results) == [False, True]
    assert len(list((tmp_path / "cache").glob("*/*.plan"))) == 2


def test_a_second_build_takes_under_two_seconds(standard: Directories, tmp_path: Path) -> None:
    command = ["--sm", "80,86,89,120", "-o", str(tmp_path / "cache"), "--json", "-q", str(standard("univoc-896").path)]
    run(command)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        plans = json.loads(run(command))
        seconds.append(time.perf_counter() - started)
    assert [plan["built"] for plan in plans] == [False, False]
    assert min(seconds) < 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB: too small for a plan of univoc 896, large enough to begin one."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(tmp_path)], check=False)
    if mounted.returncode:
        pytest.skip("this system does not let a file system be mounted")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def left_behind(folder: Path) -> list[str]:
    """Folders of builds that have ended."""
    return [file.name for file in folder.iterdir() if file.name.startswith(".building")]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wavernn_trt.scripts.cli", "build", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(arguments: list[str]) -> str:
    process = start(arguments)
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    return output


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the condition was not met in time"
        time.sleep(0.02)


def builds(cache: Path, pid: int) -> bool:
    """Whether a child of a process has written a graph and is building its plan."""
    return any(cache.glob(".building-*/graph.onnx")) and bool(children_of(pid))


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except OSError:
        return False


def test_a_build_that_would_take_long_logs_a_warning(
    small_directory: Directories, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = dataclasses.replace(QUICK, steps=1024, targets=(75,))  # refused at its conditioner, long before
    with caplog.at_level(logging.WARNING), pytest.raises(EngineBuildError):
        build_engine(small_directory("raw"), spec, EngineCache(tmp_path / "cache"))
    assert "building 1024 unrolled steps of a model with 2 GRUs may take 32 minutes" in caplog.text
    assert "7.2 GB of memory; the form sequence takes seconds" in caplog.text
    monkeypatch.setattr(build, "_MANY_STEPS", 2)
    for warnings in (1, 0):  # none for a plan in the cache
        caplog.clear()
        build_engine(small_directory("raw"), QUICK, EngineCache(tmp_path / "cache"))
        assert caplog.text.count("the form sequence takes seconds") == warnings
