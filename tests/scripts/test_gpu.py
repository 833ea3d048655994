"""What is run on a GPU: its checks on the kernels' host build, its processes, its peers on the CPU, and its table."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wavernn_trt.plugins.form import Choice
from wavernn_trt.plugins.forms import KERNELS
from wavernn_trt.plugins.kernel_cases import Arrays, GruCase, SequenceCase, small_shapes
from wavernn_trt.scripts.gpu import sanitizer, targets
from wavernn_trt.scripts.gpu.__main__ import main
from wavernn_trt.scripts.gpu.checks import Checks
from wavernn_trt.scripts.gpu.journal import Journal, Timed
from wavernn_trt.scripts.gpu.models import (
    STANDARD,
    StandardModel,
    fatchord_shape,
    long_chunk,
    multiply_adds,
    univoc_shape,
)
from wavernn_trt.scripts.gpu.parts import PARTS, Part
from wavernn_trt.scripts.gpu.report import lay_out
from wavernn_trt.scripts.gpu.runners import HostRunner
from wavernn_trt.scripts.gpu.supervisor import run_part
from wavernn_trt.scripts.gpu.tasks import Finding, Gate, MissingError, Outcome, Settings, Task, lost, proved
from wavernn_trt.scripts.gpu.worker import run

REPORT = {"date": "2000-01-01", "seconds": 300.0, "host": False, "subset": "all"}
FOREVER = float("inf")
needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ builds the kernels for the host")


@pytest.fixture(scope="module")
def host_folder(host_build: Path) -> Path:
    """With the kernels' host build."""
    return host_build.parent


@needs_gxx
def test_the_host_build_stands_in_for_a_gpu(host_folder: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(host_folder, tmp_path / "new" / "host")
    assert main(["--host", "--subset", "sanitizer", "--out", str(tmp_path / "new")]) == 0
    table = capsys.readouterr().out
    written = json.loads((tmp_path / "new" / "gpu_subset.json").read_text())
    assert (written["host"], written["subset"]) == (True, "sanitizer")
    assert f"all right: {len(written['findings'])} passed" in table
    assert re.search(r"^sequence fp16 +1/1 \S+$", table, re.MULTILINE)
    assert {found["subject"].split()[0] for found in written["findings"]} == {"gru_cell", *KERNELS}
    assert all(found["numbers"]["excess"] <= 1 for found in written["findings"])
    assert {"date", "seconds"} < set(written)


class Careless(HostRunner):
    """A kernel that is wrong in one way."""

    captures = True
    fault = ""

    def gru_cell(self, case: GruCase, inputs: Arrays | None = None, *, captured: bool = False) -> Any:
        found = super().gru_cell(case, inputs)
        if self.fault == "cell":
            found[-1, -1] = np.nan
        return found

    def sequence(
        self, case: SequenceCase, inputs: Any, *, choice: Choice | None = None, captured: bool = False
    ) -> Arrays:
        found = super().sequence(case, inputs, choice=choice)
        if self.fault == "graph" and captured:
            found["hidden_out"] = np.nextafter(found["hidden_out"], np.float32(2))
        if self.fault == "batch" and case.batch == 1:
            found["hidden_out"] = np.nextafter(found["hidden_out"], np.float32(2))
        if self.fault == "chunk" and case.steps == 3:
            found["previous_out"] = (found["previous_out"] + 1) % case.shape.outputs
        return found


@pytest.fixture(scope="module")
def careless(host_folder: Path) -> Careless:
    return Careless(host_folder)


@needs_gxx
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("", ""),
        ("cell", "of the tolerance"),
        ("graph", "a CUDA graph: "),
        ("batch", "streams [0]: "),
        ("chunk", "two chunks: "),
    ],
)
def test_a_wrong_kernel_is_found(careless: Careless, monkeypatch: pytest.MonkeyPatch, fault: str, words: str) -> None:
    checks = Checks(Settings(Path(), host=True))
    checks.__dict__["runner"] = careless
    monkeypatch.setattr(careless, "fault", fault)
    case = SequenceCase(small_shapes()["one layer, labels"], "fp16", 9, steps=6)
    calls = (
        lambda: checks.cell(GruCase(3, 7)),
        lambda: checks.chunk("sequence", case),
        lambda: checks.chunk_slots("sequence", case),
        lambda: checks.chunks("sequence", case),
    )
    found = [run(Task("", "", "", call), FOREVER) for call in calls]
    assert [outcome.status for outcome in found].count("failed") == bool(fault)
    assert words in next((outcome.text for outcome in found if outcome.status == "failed"), "")


def small_model(name: str) -> StandardModel:
    """Of the same kind."""
    small = {"univoc-896": univoc_shape(16, 24, 64), "fatchord-512": fatchord_shape(12, 16, 32)}
    mixture = dataclasses.replace(small["fatchord-512"], outputs=30, output="logistic_mixture")
    return dataclasses.replace(STANDARD[name], shape={**small, "fatchord-mol-512": mixture}[name])


@needs_gxx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", STANDARD)
def test_a_long_chunk_is_the_reference_that_is_fed_with_its_samples(
    careless: Careless, name: str, precision: Any
) -> None:
    checks = Checks(Settings(Path(), host=True))
    checks.__dict__["runner"] = careless
    case, steps = (small_model(name), precision, 2, 100), 100
    kernels = ["sequence"] if precision == "fp32" else ["sequence", "resident_stamped_16"]
    for kernel in kernels:
        assert checks.launch_full(kernel, *case).status == "passed"
    for kernel in kernels:
        outcome = checks.full(kernel, *case)
        assert outcome.status == "passed", outcome.text
    reference = checks._reference(*case)
    samples = reference.found["sequence"]["samples"].copy()
    reference.found["other"] = {**reference.found["sequence"], "samples": np.roll(samples, 1, axis=1)}
    assert checks.full("other", *case).status == "failed"
    assert samples.shape == (2, steps)


@pytest.mark.parametrize("name", STANDARD)
def test_standard_models_are_those_that_export_makes(name: str) -> None:
    pytest.importorskip("torch", reason="models are PyTorch's")
    pytest.importorskip("onnx_graphsurgeon", reason="the step is exported as an ONNX graph")
    from wavernn_trt.export.rewrite.fold_embedding import fold_embedding
    from wavernn_trt.export.rewrite.fuse_gates import fuse_gates
    from wavernn_trt.export.rewrite.fuse_sequence import fuse_sequence
    from wavernn_trt.export.rewrite.hoist_conditioning import hoist_conditioning
    from wavernn_trt.export.step_graph import export_networks
    from wavernn_trt.scripts.gpu.peers import random_model

    small = small_model(name).shape
    if small.output != "categorical":
        with pytest.raises(ValueError, match="expected univoc's or fatchord's categorical decoder"):
            random_model(small)
        return
    model = random_model(small)
    fused = fuse_gates(hoist_conditioning(fold_embedding(export_networks(model, 80))), model.config.input_sizes)
    config = dataclasses.replace(model.config, groups=fused.groups)
    assert fuse_sequence(fused, config).shape == small
    assert model.config.margin == STANDARD[name].margin
    assert multiply_adds(small) == model.config.multiply_adds


def test_a_long_chunk_reads_rows_that_are_there() -> None:
    for model in STANDARD.values():
        small = fatchord_shape(3, 4, 5) if model.shape.skip else univoc_shape(3, 4, 5)
        case, inputs = long_chunk(dataclasses.replace(model, shape=small), "fp32", 2)
        assert inputs["frame_index"].shape == (2, 1024)
        assert model.margin <= inputs["frame_index"].min()
        assert inputs["frame_index"].max() < case.window - model.margin
        if "interpolation" in inputs:
            assert inputs["interpolation"].shape == (2, 1, 1024, case.window)
            np.testing.assert_allclose(inputs["interpolation"].sum(axis=-1), 1, rtol=1e-6)


@pytest.mark.parametrize("shape", [univoc_shape(16, 24, 64), fatchord_shape(12, 16, 32)])
def test_the_peers_step_the_model_itself(shape: Any) -> None:
    torch = pytest.importorskip("torch", reason="the peers are PyTorch's")
    from wavernn_trt.scripts.bench.cuda_graphs import Steps
    from wavernn_trt.scripts.gpu.peers import Loop, random_model

    model = random_model(shape)
    steps = Steps(model, 3, 8, "fp32", "cpu")
    previous, hidden = steps._previous.clone(), torch.zeros(shape.layers, 3, shape.hidden_size)
    for part in range(2):  # the second goes on where the first ended
        steps.run()
        for step in range(8):
            with torch.no_grad():
                logits, hidden = model.step(previous, hidden, steps._rows[step])
            label = torch.argmax(logits + steps.noise[step], dim=1)
            assert torch.equal(label, steps.labels[step]), (part, step)
            previous = label if shape.label_feedback else 2 * label.float() / (shape.outputs - 1) - 1
    assert len(steps.labels.unique()) > 3
    assert Steps(model, 2, 4, "bf16", "cpu").labels.shape == (4, 2)
    assert Loop(model, 3, "cpu").seconds(4) > 0


def test_peers_of_other_models_are_refused() -> None:
    pytest.importorskip("torch", reason="the peers are PyTorch's")
    from wavernn_trt.scripts.gpu.peers import random_model

    with pytest.raises(ValueError, match="expected univoc's or fatchord's"):
        random_model(small_shapes()["gaussian"])


def test_the_tiny_graphs_are_the_references() -> None:
    pytest.importorskip("onnx", reason="graphs are ONNX graphs")
    pytest.importorskip("onnxruntime", reason="a plan is compared with ONNX Runtime")
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    from wavernn_trt.plugins.gru_reference import gru_cell
    from wavernn_trt.plugins.onnx_reference import OPERATORS
    from wavernn_trt.scripts.gpu.plans import _onnx_runtime
    from wavernn_trt.scripts.gpu.tiny_graphs import cell_graph, sequence_graph

    graph, inputs = cell_graph()
    weights = {one.name: numpy_helper.to_array(one) for one in graph.graph.initializer}
    gates = inputs["x"] @ weights["input_weight"]
    expected = gru_cell(gates, inputs["hidden"], weights["recurrent_weight"], weights["recurrent_bias"])
    np.testing.assert_allclose(_onnx_runtime(graph.SerializeToString(), inputs), expected, atol=1e-5)

    case = SequenceCase(small_shapes()["one layer, labels"], steps=5)
    values = case.inputs()
    graph, inputs = sequence_graph(case, values)
    found = ReferenceEvaluator(graph, new_ops=list(OPERATORS)).run(None, inputs)
    reference = case.expected(values)
    for operand, value in zip(case.shape.outputs_of_node(), found, strict=True):
        np.testing.assert_array_equal(value, reference[operand.name])


WORKER = """
import json, os, sys, time
request = json.loads(sys.stdin.readline())
def send(**values): print(json.dumps(values), flush=True)
def end(number, status, text): send(ended=number, status=status, text=text, numbers={}, seconds=0.1)
for number in range(request["first"], 5):
    send(begun=number)
    if number == 1:
        print("terminate called", file=sys.stderr, flush=True)
        os.abort()
    if number == 2:
        end(2, "failed", "an illegal address"), send(lost=2), sys.exit(1)
    if number == 3:
        time.sleep(60)
    end(number, "passed", "")
"""


class FiveTasks(Part):
    """Whose process aborts in the second, loses the GPU in the third and hangs in the fourth."""

    def tasks(self, settings: Settings) -> list[Task]:
        return [Task("kernel", "line", str(number), lambda: Outcome("passed")) for number in range(5)]


def test_a_task_that_takes_its_process_along_spares_the_others(tmp_path: Path) -> None:
    part = FiveTasks("five", "none", 1.0, 1.0, on_gpu=True)
    told: list[str] = []
    found = run_part(part, Settings(tmp_path), 60, told.append, [sys.executable, "-c", WORKER])
    assert [(one.name, one.status) for one in found] == [
        ("0", "passed"),
        ("1", "failed"),
        ("2", "failed"),
        ("3", "failed"),
        ("4", "passed"),
    ]
    assert found[1].text == "the process ended with -6: terminate called"
    assert found[2].text == "an illegal address"
    assert found[3].text == "no answer within 1 s; the process was ended"
    assert told[-1] == "five 5/5: kernel, line 4"
    assert proved(found) == ()


LOSING = """
import json, os, sys
request = json.loads(sys.stdin.readline())
print(json.dumps({"told": [request["lost"], request["failed"]]}), file=sys.stderr, flush=True)
def send(**values): print(json.dumps(values), flush=True)
for number in range(request["first"], 5):
    send(begun=number)
    if number == 1: os.abort()
    send(ended=number, status="passed", text="", numbers={}, seconds=0.1)
"""


def test_the_next_process_is_told_which_kernel_took_the_last_one_along(tmp_path: Path) -> None:
    class Losing(FiveTasks):
        def tasks(self, settings: Settings) -> list[Task]:
            return [dataclasses.replace(task, kernel=f"kernel_{task.name}") for task in super().tasks(settings)]

    part = Losing("five", "none", 1.0, 10.0, on_gpu=True)
    settings = Settings(tmp_path, lost=("older",))
    found = run_part(part, settings, 60, lambda line: None, [sys.executable, "-c", LOSING])
    assert lost(found) == ("kernel_1",)
    told = [json.loads(line)["told"] for line in (tmp_path / "five.log").read_text().splitlines() if "told" in line]
    assert told == [[["older"], []], [["older", "kernel_1"], ["kernel"]]]


def test_what_failed_before_is_not_tried_again() -> None:
    def case(kernel: str, precision: str, *, large: bool = False) -> Task:
        return Task(f"{kernel} {precision}", "line", "", lambda: Outcome("passed"), kernel, large)

    gate = Gate()
    gate.learn(case("one", "fp16"), "failed")
    gate.learn(case("two", "fp16"), "failed", lost=True)
    small, large = case("one", "fp16"), case("one", "fp16", large=True)
    assert run(small, FOREVER, gate).status == "passed"  # which sizes are wrong is worth knowing
    assert run(large, FOREVER, gate) == Outcome("skipped", "failed before, in a smaller case")
    assert run(case("one", "bf16", large=True), FOREVER, gate).status == "passed"
    expected = Outcome("skipped", "failed before: the kernel took its process along")
    assert run(case("two", "bf16"), FOREVER, gate) == expected


def test_only_what_was_right_beside_a_reference_is_timed() -> None:
    compiled = Finding("environment", "sequence fp16", "resources", "", "passed", "", {}, 0.0)
    right = dataclasses.replace(compiled, part="correctness", line="the reference")
    assert proved([compiled]) == ()
    assert proved([compiled, right]) == ("sequence fp16",)
    assert proved([right, dataclasses.replace(right, name="another", status="failed")]) == ()
    assert proved([right, dataclasses.replace(right, name="another", status="skipped")]) == ("sequence fp16",)


def test_a_part_that_never_starts_is_given_up(tmp_path: Path) -> None:
    part = FiveTasks("five", "none", 1.0, 1.0, on_gpu=True)
    worker = [sys.executable, "-c", "import sys; sys.exit('no such library')"]
    found = run_part(part, Settings(tmp_path), 60, lambda line: None, worker)
    assert [one.status for one in found] == ["failed"] * 5
    assert found[0].text.endswith("no such library")


def test_the_exceptions_of_tasks_are_outcomes() -> None:
    def missing() -> Outcome:
        raise MissingError("nvidia-smi is not on PATH")

    def wrong() -> Outcome:
        raise ValueError("4 of 9 values have other bits")

    def absent() -> Outcome:
        import a_package_that_is_not_there  # type: ignore[import-not-found]

        return Outcome("passed", str(a_package_that_is_not_there))

    assert run(Task("", "", "", absent), FOREVER) == Outcome("skipped", "a_package_that_is_not_there is not installed")
    assert run(Task("", "", "", missing), FOREVER) == Outcome("skipped", "nvidia-smi is not on PATH")
    assert run(Task("", "", "", wrong), FOREVER) == Outcome("failed", "ValueError: 4 of 9 values have other bits")
    assert run(Task("", "", "", wrong), 0.0) == Outcome("skipped", "the time is up")


@pytest.mark.parametrize(
    ("code", "log", "output", "status", "text"),
    [
        (0, "========= ERROR SUMMARY: 0 errors", "", "passed", "0 errors"),
        (86, "========= ERROR SUMMARY: 3 errors", "", "failed", "3 errors"),
        (86, "========= RACECHECK SUMMARY: 1 hazard displayed", "", "failed", "1 hazard displayed"),
        (1, "========= ERROR SUMMARY: 0 errors", "FAILED: 1 failed", "failed", "memcheck ended with 1: 0 errors"),
        (255, "", "Error: device not supported\n", "skipped", "memcheck ended with 255: Error: device not supported"),
    ],
)
def test_what_the_end_of_a_sanitizer_means(code: int, log: str, output: str, status: str, text: str) -> None:
    outcome = sanitizer.judge("memcheck", code, log, output)
    assert (outcome.status, outcome.text) == (status, text)


def full_run() -> list[Finding]:
    """Of a machine that has everything, with numbers as wide as they get."""
    settings = Settings(Path())
    findings = []
    for part in PARTS:
        for task in part.tasks(settings):
            numbers: dict[str, Any] = {"excess": 0.123456}
            text = (
                "words " * 12 if part.name in ("environment", "sanitizer", "cuda", "tensorrt", "tensorrt_rtx") else ""
            )
            number = re.search(r"batch (\d+)", f"{task.line} {task.name}")
            batch = int(number[1]) if number else 0
            kind, _, precision = task.subject.rpartition(" ")
            speeds = {"samples_per_second": 12345678.9, "slowest": 1.2e7, "fastest": 1.3e7}
            common = {"batch": batch, "precision": precision}
            if part.name == "speed" and task.subject == "ceiling":
                name = task.line.split()[-1]
                numbers = {"kind": "ceiling", "name": name, "flops": 7.9e14, "bytes_per_second": 4.3e12}
            elif part.name == "speed" and kind == "best":
                numbers = {"kind": "sequence", "model": task.line.partition(",")[0], **common, **speeds}
                numbers |= {"kernel": "resident_stamped_16", "groups": 12, "step_us": 123.456}
                numbers |= {"flops": 1.08e14, "weight_bytes_per_second": 4.3e12}
            elif part.name == "speed" and kind == "gru_cell":
                numbers = {"kind": "cell", **common, "seconds": 3.14e-6, "weight_bytes_per_second": 1.5e12}
            elif part.name == "speed" and kind.startswith("pytorch"):
                subject = "loop" if task.subject == "pytorch loop" else "graph"
                numbers = {"kind": "peer", "model": task.line, "subject": subject, **common, **speeds}
                numbers["precision"] = precision if subject == "graph" else "fp32"
            status = "noted" if part.name == "speed" else "passed"
            findings.append(Finding.of(part.name, task, Outcome(status, text, numbers)))  # type: ignore[arg-type]
    return findings


def test_the_whole_table_fits_into_what_is_kept_of_an_output() -> None:
    lines = list(lay_out(REPORT, full_run()))
    assert len("\n".join(lines)) < 12_000
    assert max(map(len, lines)) <= 200
    rows = lines[lines.index("univoc-896 fp16") + 1 :]
    assert [int(row.split()[0]) for row in rows[:13]] == list(targets.BATCHES)
    first = " ".join(rows[0].split())
    assert first == "1 12,345,679 4.1 % 123.46 4,300 108.00 13.67 % 1.0 x 1.0 x resident_stamped_16 x 12"
    assert lines[-1].startswith("all right: ")


def speed_of(kind: str, model: str, batch: int, speed: float) -> Finding:
    precision, subject = ("fp32", "loop") if kind == "loop" else ("fp16", kind)
    numbers = {"kind": "sequence" if kind == "sequence" else "peer", "subject": subject, "model": model}
    numbers |= {"batch": batch, "precision": precision, "samples_per_second": speed}  # type: ignore[dict-item]
    return Finding("speed", "", "", "", "noted", "", numbers, 0.0)


def test_targets_are_met_missed_or_not_measured() -> None:
    univoc, fatchord = targets.UNIVOC, targets.FATCHORD
    findings = [speed_of("sequence", univoc, batch, 160_000.0 * batch) for batch in targets.BATCHES]
    findings += [speed_of("graph", univoc, batch, 20_000.0 * batch) for batch in targets.BATCHES[:-1]]
    findings += [speed_of("graph", univoc, 4096, 1e9), speed_of("loop", univoc, 1, 1000.0)]
    words = [line[44:].split(maxsplit=2)[0] + " " + line[82:].strip() for line in targets.judge_targets(findings)]
    assert words[1:] == [
        "150,000 met",
        "25,000,000 met, and the aim (batch 4096)",
        "1 missed (least at batch 4096)",
        "1 met, and the aim (least at batch 1)",
        "100 met",
        "120,000 not measured",
    ]
    some = [speed_of("sequence", fatchord, 1, 119_999.0), speed_of("sequence", univoc, 1, 1.0)]
    lines = list(targets.judge_targets([*some, speed_of("graph", univoc, 1, 2.0)]))
    assert "0.50 x  missed (least at batch 1; 12 batches not measured)" in lines[3]
    assert lines[-1].endswith("119,999  missed")


def test_what_was_timed_outlives_its_process(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert not journal.of("univoc-896", "fp16", 8)
    for kernel, groups, steps, time in (("sequence", 1, 64, 9.0), ("sequence", 2, 64, 7.0), ("sequence", 2, 1024, 8.0)):
        journal.add(Timed("univoc-896", "fp16", 8, kernel, groups, steps, time))
    journal.add(Timed("univoc-896", "bf16", 8, "sequence", 4, 64, 1.0))
    found = Journal(tmp_path).of("univoc-896", "fp16", 8)
    assert list(found.items()) == [(Choice("sequence", 2), 8.0), (Choice("sequence", 1), 9.0)]
    journal.clear()
    assert not journal.of("univoc-896", "bf16", 8)


def test_failures_are_named_and_missing_speeds_have_reasons() -> None:
    findings = full_run()
    findings[20] = dataclasses.replace(findings[20], status="failed", text="ValueError: other\nbits")
    speed = next(found for found in reversed(findings) if found.part == "speed")
    last = dataclasses.replace(speed, status="skipped", text="torch is not there", numbers={})
    table = "\n".join(lay_out(REPORT, [*findings, last]))
    failed = findings[20]
    assert f"  failed: {failed.subject}, {failed.line}, {failed.name}: ValueError: other bits" in table
    assert "not measured (1): torch is not there" in table
    assert "FAILED: " in table.splitlines()[-1]
    assert failed.subject not in proved(findings)


def test_it_lists_what_it_would_run(capsys: Any) -> None:
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    assert "sequence fp16, the reference, mixture, 7 units, batch 9, 12 steps" in out
    assert [line.partition(":")[0] for line in out.splitlines() if line[0] != " "] == [part.name for part in PARTS]


@pytest.mark.skipif(find_library("cuda") is not None, reason="this machine has an NVIDIA driver")
def test_a_machine_without_a_gpu_is_told_what_it_can_do(tmp_path: Path, capsys: Any) -> None:
    assert main(["--out", str(tmp_path / "results")]) == 2
    error = capsys.readouterr().err
    assert "there is no GPU to run on: libcuda.so.1 was not found" in error
    assert "'--host' checks the kernels' host build" in error
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--out is missing"),
        (("--only", "abacus"), "expected some of environment,correctness"),
        (("--seconds", "0"), "expected a positive number"),
        (("--host", "--out", "/proc/none"), "/proc/none: "),
        (("--out", ""), "is a shell variable not set?"),
    ],
)
def test_wrong_usage_exits_2(arguments: tuple[str, ...], words: str, capsys: Any) -> None:
    try:
        code: Any = main(arguments)
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    assert words in capsys.readouterr().err
