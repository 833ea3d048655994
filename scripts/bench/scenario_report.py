"""The scenarios' numbers, laid out for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wavernn_trt.scripts.bench.cost import describe_costs
from wavernn_trt.scripts.bench.heading import heading

_TARGETS = {"occupancy": 0.95, "ratio": 1.8}
_LEVEL = "  {listeners:>9}{p50:>9}{p90:>9}{p99:>9}{most:>9}{underruns:>11}{silence:>10}{late:>8}{cpu:>9}"
_LEVEL_HEAD = {
    "listeners": "listeners",
    "p50": "p50",
    "p90": "p90",
    "p99": "p99",
    "most": "max",
    "underruns": "underruns",
    "silence": "silence",
    "late": "late",
    "cpu": "CPU",
}
_LISTENERS_NOTES = """\
p50 … max  milliseconds from a mel in hand to its first frame of 20 ms in hand, while the others listen
underruns  frames that were not whole when the clock said so, of all frames; silence: seconds of it in their place
late       times that a reader woke up more than 5 ms late; underruns do not depend on it\
"""


def lay_out_scenario(report: dict[str, Any]) -> Iterator[str]:
    """The report's lines for people."""
    yield from heading(report)
    one = {"batch": _batch, "stream": _stream, "mixed": _mixed}[report["scenario"]]
    for result in report["results"]:
        yield from one(result)
    for subject, reason in report["missing"].items():
        yield f"{subject}: {reason}"
    yield from describe_costs(report)
    if report["results"] and report["scenario"] != "batch":
        yield ""
        yield _LISTENERS_NOTES


def _title(result: dict[str, Any]) -> str:
    engine = f" ({result['engine']})" if result["engine"] else ""
    lanes = f"{result['lanes']} lane{'s' if result['lanes'] > 1 else ''}"
    return f"{result['subject']}{engine}: {result['slots']} slots in {lanes}, chunks of {result['chunk']} samples"


def _speech(result: dict[str, Any]) -> str:
    shortest, longest = result["lengths"]
    return f"{shortest:g} to {longest:g} s each, cut from {result['speech']}"


def _line(name: str, value: str, note: str = "") -> str:
    return f"  {name:<18}{value:>18}   {note}".rstrip()


def _batch(result: dict[str, Any]) -> Iterator[str]:
    job, padded, alone = result["scheduler"], result["padded"], result["alone"]
    yield ""
    yield f"{_title(result)}; {job['utterances']} utterances, {result['speech_seconds']:.0f} s, {_speech(result)}"
    times = job["samples_per_second"] / result["sample_rate"]
    yield _line("scheduler", f"{job['samples_per_second']:.0f} samples/s", f"{times:.1f} times real time")
    if limit := result["limit"]:
        product = f"of the {limit['name']}, {limit['flops'] / 1e9:.1f} GFLOP/s before and behind it"
        yield _line("share of limit", _percent(result["share_of_limit"]), product)
    yield _line("done", f"{job['done']} of {job['utterances']}")
    yield _line("slots busy", _percent(job["occupancy"]), f"while utterances waited; {_target('occupancy', job)}")
    yield _line("host overhead", _percent(job["host_share"]), "of a lane's time outside the executor, meanwhile")
    if padded:
        equal = "" if padded["equal"] is None else f"; {padded['equal']} of {padded['utterances']} bit for bit the same"
        what = f"{padded['groups']} fixed batches of {padded['batch']}, to the longest of each"
        yield _line("padded", f"{padded['samples_per_second']:.0f} samples/s", what + equal)
        speed = f"{padded['scheduler_samples_per_second']:.0f} samples/s"
        yield _line("same, scheduler", speed, f"the same {padded['utterances']} utterances, no others")
        yield _line("ratio", f"{padded['ratio']:.2f} x", f"of the two; {_target('ratio', padded)}")
        rows = f"{padded['rows']} to {padded['scheduler_rows']}"
        yield _line("chunk rows", rows, "padded, scheduler: streams of all chunks")
    if job["first_samples"] is not None:
        yield _line("first samples", f"{1e3 * job['first_samples']:.0f} ms", "from the start of the job")
    yield _line("latency", "", f"from submission, in the queue included: {_times(job['latency'])}")
    yield _line("", "", f"to its first samples: {_times(job['first_latency'])}")
    yield _line("memory", "", _memory(result["memory"]))
    yield _line("the same alone", *_alone(alone))
    for failure in job["failures"]:
        yield _line("failed", "", failure)


def _alone(alone: dict[str, Any]) -> tuple[str, str]:
    compared, beginnings, different = alone["compared"], alone["beginnings"], alone["different"]
    total = max(compared, beginnings)
    found = f"{total - len(different)} of {total}"
    if not total:
        return "-", "nothing was compared"
    what = f"beginnings of {beginnings}, {compared} to their end" if beginnings else "bit for bit, to their end"
    return found, what + (f"; DIFFERENT: {', '.join(map(str, different[:10]))}" if different else "")


def _memory(memory: dict[str, Any] | None) -> str:
    if memory is None:
        return "not measured: this system does not tell"
    names = ("before", "quarter", "end", "peak")
    before, quarter, end, peak = (f"{memory[name] / 2**20:.0f}" for name in names)
    return (
        f"MiB resident: {before} before, {quarter} when a quarter was done, {end} at the end, {peak} at most; "
        f"{memory['growth'] / 2**20:+.1f} in the last three quarters"
    )


def _stream(result: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield f"{_title(result)}; utterances of {_speech(result)}"
    alone = result["first_frame_alone"]
    yield f"  first frame, nobody else there: {_times(alone)}; {alone['count']} streams"
    yield _LEVEL.format(**_LEVEL_HEAD)
    for level in result["levels"]:
        yield _row(level["listeners"], level, level["cpu_share"])
        yield from (f"  failed: {failure}" for failure in level["failures"][:5])
    how = f"for {result['seconds']:g} s each{_buffer(result)}"
    yield f"  most listeners without underrun: {result['most_without_underrun']}, {how}"


def _mixed(result: dict[str, Any]) -> Iterator[str]:
    job = result["job"]
    yield ""
    yield f"{_title(result)}; a job of {_speech(result)}"
    yield _LEVEL.format(**_LEVEL_HEAD)
    yield _row(result["listeners"], result, None)
    yield from (f"  failed: {failure}" for failure in (result["failures"] + job["failures"])[:5])
    yield _line("job alone", f"{job['alone']:.0f} samples/s")
    speed = f"the listeners' own {result['listeners_samples_per_second']:.0f} samples/s come on top"
    yield _line("job beside them", f"{job['beside']:.0f} samples/s", speed)
    yield _line("ratio", f"{job['ratio']:.2f} x", f"{result['seconds']:g} s each, in turn{_buffer(result)}")
    yield _line("slots busy", _percent(job["occupancy"]), "of the job's, over all")


def _row(listeners: int, level: dict[str, Any], cpu: float | None) -> str:
    first, late = level["first_frame"], level["reader_late"]
    p50, p90, p99, most = (
        f"{1e3 * first[name]:.0f}" if first["count"] else "-" for name in ("p50", "p90", "p99", "max")
    )
    return _LEVEL.format(
        listeners=listeners,
        p50=p50,
        p90=p90,
        p99=p99,
        most=most,
        underruns=f"{level['underruns']}/{level['frames']}",
        silence=f"{level['silence_seconds']:.2f}",
        late=late["over_5_ms"],
        cpu="-" if cpu is None else _percent(cpu),
    )


def _buffer(result: dict[str, Any]) -> str:
    return f", played {1e3 * result['buffer']:.0f} ms behind the first frame" if result["buffer"] else ""


def _times(times: dict[str, Any]) -> str:
    if not times["count"]:
        return "none"
    return ", ".join(f"{name} {_seconds(times[name])}" for name in ("p50", "p90", "p99", "max"))


def _seconds(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _target(name: str, found: dict[str, Any]) -> str:
    target = _TARGETS[name]
    words = f"{100 * target:.0f} %" if name == "occupancy" else f"{target} x"
    return f"target: at least {words}, {'reached' if found[name] >= target else 'MISSED'}"
