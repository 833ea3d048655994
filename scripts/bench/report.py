"""Reports and comparisons as text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tabulate import tabulate

from wavernn_trt.scripts.bench.backends import NATIVE_PRECISION
from wavernn_trt.scripts.bench.compare import Comparison, Row
from wavernn_trt.scripts.bench.timing import COMPARED, SUBJECTS

BUSY = 0.05
"""Share of all cores used by other processes above which the text warns."""
_TIMES = {COMPARED: f"x {COMPARED}", **{subject: f"x {name}" for name, subject in SUBJECTS.items()}}
"""Heading of the column of each subject with which others are compared."""
_SPEED_NOTES = """\
samples/s  of all streams together, from mels to waveforms; median, lowest and highest repeat
RTF        real-time factor, seconds of work a second of speech; below 1 is faster than real time
first      milliseconds until every stream has its first 20 ms, with the conditioner's work
chunk      milliseconds of the executor for a chunk of all streams: about 20 ms of speech, or an engine's own length
limit      on the CPU share of the row's own limit, which is the slower of reading the weights once a step and of the
           multiply-adds with operands in registers (word behind the share); elsewhere, and where that was not measured,
           share of the matrix product's FLOP/s. copy: share of the memory copy's bytes a second. All are measured in
           the same rounds on the same CPU or GPU
GB/s       reads of the decoder's weights, once a step; weights in a cache may exceed the copy
x NAME     speed divided by onnxruntime's, or by that of the named peer, at the same batch; loop and graphs are timed
           without the conditioner, which favours them\
"""
_OCCUPANCY = 0.95
"""Target for the share of busy slots while utterances wait."""
_LEVEL_HEAD = ("listeners", "p50", "p90", "p99", "max", "underruns", "silence", "late", "CPU")
_LISTENERS_NOTES = """\
p50 … max  milliseconds from a mel to its first frame of 20 ms, while the other listeners read
underruns  frames that were incomplete when they were due, of all frames; silence: seconds of it in their place
late       wake-ups of a reader more than 5 ms late; underruns do not depend on them\
"""
_COMPARISON_HEAD = (
    "",
    "batch",
    "old",
    "new",
    "ratio",
    "old limit",
    "new limit",
    "ratio",
    "judged by",
    "may change",
    "",
)
_BASES = {"speed": "samples/s", "share": "limit", None: "-"}


def lay_out(report: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of a report of any scenario."""
    yield from _heading(report)
    scenario = report["scenario"]
    if scenario == "speed":
        yield from _speed(report)
    else:
        for result in report["results"]:
            yield from {"batch": _batch, "stream": _stream, "mixed": _mixed}[scenario](result)
        for subject, reason in report["missing"].items():
            yield f"{subject}: {reason}"
    yield from _costs(report)
    if report["results"] and scenario in ("stream", "mixed"):
        yield ""
        yield _LISTENERS_NOTES


def lay_out_comparison(comparison: Comparison, old: str) -> Iterator[str]:
    """Yields the lines of a comparison with a report named ``old``."""
    yield f"compared with {old}"
    if comparison.machine:
        yield f"ANOTHER MACHINE: {'; '.join(comparison.machine)}: shares of the limit are judged, not samples/s"
    elif any(row.basis == "share" for row in comparison.rows):
        yield "THE MACHINE'S SPEED HAS CHANGED: where the limit differs, shares of it are judged, not samples/s"
    if comparison.versions:
        yield f"versions  {'; '.join(comparison.versions)}"
    if any(comparison.others_shares):
        before, after = (_percent(share) for share in comparison.others_shares)
        yield f"busy      other processes used {before} of all cores, now {after}"
    yield ""
    yield _table([_COMPARISON_HEAD, *map(_comparison_row, comparison.rows)])
    verdicts = [row.verdict for row in comparison.rows]
    judged = len(verdicts) - verdicts.count("not judged")
    yield f"{verdicts.count('SLOWER')} slower, {verdicts.count('faster')} faster, {judged} of {len(verdicts)} judged"


def _table(rows: Sequence[Sequence[str]], align: Sequence[str] | None = None) -> str:
    """A table in plain text. By default the first column is aligned left, the others right."""
    sides = align or ["left"] + ["right"] * (len(rows[0]) - 1)
    text = str(tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=sides))
    return "\n".join(line.rstrip() for line in text.splitlines())


def _heading(report: dict[str, Any]) -> Iterator[str]:
    """Yields machine, versions, other processes, GPU and model."""
    machine, model = report["machine"], report["model"]
    memory = f", {machine['memory_gib']} GiB memory" if machine["memory_gib"] else ""
    cores = f"{machine['cores']} cores ({machine['usable_cores']} usable)"
    yield f"machine   {machine['cpu']}, {cores}{memory}, {machine['system']}"
    versions = (f"{name} {version or '(not installed)'}" for name, version in report["versions"].items())
    yield f"versions  {', '.join(versions)}"
    if report.get("date"):
        yield f"date      {report['date']}"
    if report.get("others_share") is not None:
        busy = "" if report["others_share"] < BUSY else ": an idle machine gives other figures"
        yield f"busy      other processes used {100 * report['others_share']:.0f} % of all cores{busy}"
    if gpu := report.get("gpu"):
        yield from _gpu(gpu)
    layers = f"{model['layers']} x GRU {model['hidden_size']}, {'/'.join(map(str, model['fc_sizes']))} -> "
    weights = " (random weights)" if model.get("random") else ""
    yield (
        f"model     {model['name']}{weights}: {model['family']}, {layers}{model['outputs']}, "
        f"{model['sample_rate']} Hz, {2 * model['multiply_adds'] / 1e6:.2f} MFLOP a sample"
    )


def _gpu(gpu: dict[str, Any]) -> Iterator[str]:
    either = gpu["before"] or gpu["after"]
    yield f"gpu       {either['name'] or '(unknown)'}, driver {either['driver'] or '(unknown)'}"
    for name in ("before", "after"):
        if state := gpu[name]:
            value = {key: f"{one:g}" if isinstance(one, float) else "?" for key, one in state.items()}
            yield (
                f"  {name:<8}SM {value['sm_clock_mhz']} of {value['largest_sm_clock_mhz']} MHz, memory "
                f"{value['memory_clock_mhz']} of {value['largest_memory_clock_mhz']} MHz, "
                f"{value['temperature_celsius']} °C, {value['power_watts']} of {value['power_limit_watts']} W"
            )
    if gpu["throttled"]:
        yield f"throttled {', '.join(gpu['throttled'])}: this GPU can be faster"


def _speed(report: dict[str, Any]) -> Iterator[str]:
    yield f"settings  threads: {report['threads']}; {report['repeats']} repeats of {report['seconds']} s a stream"
    limit = report["limit"]
    threads = {"onnxruntime": report["threads"], "numpy": report["numpy_threads"]}
    products = [f"{name} {flops / 1e9:.1f} (threads: {threads[name]})" for name, flops in limit["flops"].items()]
    yield f"limit     float32 matrix product, GFLOP/s: {', '.join(products)}; used: {limit['library']}"
    if copy := report["copy"]:
        yield f"copy      memory, read and written: {copy['bytes_per_second'] / 1e9:.1f} GB/s"
    if cpu := report.get("cpu_limit"):
        floats, integers = (cpu[f"{kind}_products"]["multiply_adds_per_second"] / 1e9 for kind in ("float", "integer"))
        reads = [f"{read['bytes'] / 1e6:.2f} MB at {read['bytes_per_second'] / 1e9:.1f} GB/s" for read in cpu["reads"]]
        yield f"own limit {cpu['path']}: {floats:.1f} G multiply-adds/s of floats, {integers:.1f} of integers"
        yield f"          reads of weights: {', '.join(reads)}"
    if gpu := report["gpu_limit"]:
        products = [f"{name} {flops / 1e12:.1f} TFLOP/s" for name, flops in gpu["flops"].items()]
        yield f"gpu limit {', '.join(products)}; copy {report['gpu_copy']['bytes_per_second'] / 1e9:,.0f} GB/s"
    loads = [f"{name} {load['median']:.2f} s (first {load['first']:.2f})" for name, load in report["loads"].items()]
    yield f"opening   {', '.join(loads) or '-'}"
    yield ""
    measured = {result["subject"] for result in report["results"] if result["times"]}
    compared = [COMPARED] if COMPARED in measured and measured - {COMPARED, *report["peers"]} else []
    compared += [peer for peer in report["peers"] if peer in measured]
    price = report.get("price")
    head = ["", "batch", "samples/s", "(min..max)", "RTF", "first", "chunk", "GFLOP/s", "limit", "GB/s", "copy"]
    head += [_TIMES[name] for name in compared] + ([price["currency"]] if price else [])
    yield _table([head, *(_speed_row(result, compared, priced=bool(price)) for result in report["results"])])
    if report["missing"]:
        yield _table(list(report["missing"].items()), ("left", "left"))
    for result in report["results"]:
        if engine := result.get("engine"):
            yield f"{result['subject']}, batch {result['batch']}: {engine}"
    yield ""
    yield _SPEED_NOTES


def _speed_row(result: dict[str, Any], compared: Sequence[str], *, priced: bool) -> list[str]:
    # Without a place and a precision it computes in float32 on the CPU.
    place = ["GPU"] if result["place"] == "gpu" else []
    named = result["precision"] in (None, "fp32") or result["subject"] in NATIVE_PRECISION
    where = " ".join(place + [result["precision"]] * (not named))
    return [
        f"{result['subject']} ({where})" if where else result["subject"],
        str(result["batch"]),
        f"{result['samples_per_second']:.0f}",
        f"({result['slowest']:.0f}..{result['fastest']:.0f})",
        f"{result['real_time_factor']:.3f}",
        _milliseconds(result["first_chunk_seconds"]),
        _milliseconds(result["chunk_seconds"]),
        f"{result['flops'] / 1e9:.2f}",
        _share(result),
        f"{result['weight_bytes_per_second'] / 1e9:.2f}",
        _percent(result["share_of_copy"]),
        *(f"{result['times'][name]:.2f}" if name in result["times"] else "-" for name in compared),
        *([f"{result['cost']:,.2f}"] if priced else []),
    ]


def _share(result: dict[str, Any]) -> str:
    """Share of the row's own limit and what limits it; without one, share of the matrix product."""
    if own := result.get("own_limit"):
        return f"{_percent(own['share'])} {own['binds']}"
    return _percent(result["share_of_limit"])


def _batch(result: dict[str, Any]) -> Iterator[str]:
    job = result["scheduler"]
    yield ""
    yield f"{_title(result)}; {job['utterances']} utterances, {result['speech_seconds']:.0f} s, {_speech(result)}"
    times = f"{job['samples_per_second'] / result['sample_rate']:.1f} times real time"
    rows = [("scheduler", f"{job['samples_per_second']:.0f} samples/s", times)]
    if limit := result["limit"]:
        product = f"of the {limit['name']}, {limit['flops'] / 1e9:.1f} GFLOP/s before and after it"
        rows.append(("share of limit", _percent(result["share_of_limit"]), product))
    reached = "reached" if job["occupancy"] >= _OCCUPANCY else "MISSED"
    target = f"while utterances wait; target: at least {100 * _OCCUPANCY:.0f} %, {reached}"
    rows += [
        ("done", f"{job['done']} of {job['utterances']}", ""),
        ("slots busy", _percent(job["occupancy"]), target),
        (
            "host overhead",
            _percent(job["host_share"]),
            "of a lane's time outside the executor, while utterances wait",
        ),
    ]
    if job["first_samples"] is not None:
        rows.append(("first samples", f"{1e3 * job['first_samples']:.0f} ms", "from the start of the job"))
    rows += [
        ("latency", "", f"from submission, queue included: {_times(job['latency'])}"),
        ("", "", f"to its first samples: {_times(job['first_latency'])}"),
        ("memory", "", _memory(result["memory"])),
        ("the same alone", *_alone(result["alone"])),
        *(("failed", "", failure) for failure in job["failures"]),
    ]
    yield _facts(rows)


def _stream(result: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield f"{_title(result)}; utterances of {_speech(result)}"
    alone = result["first_frame_alone"]
    yield f"first frame, with no other stream: {_times(alone)}; {alone['count']} streams"
    yield _table([_LEVEL_HEAD, *(_level(level, level["cpu_share"]) for level in result["levels"])], ["right"] * 9)
    for level in result["levels"]:
        yield from (f"failed, {level['listeners']} listeners: {failure}" for failure in level["failures"][:5])
    how = f"for {result['seconds']:g} s each{_buffer(result)}"
    yield f"most listeners without underrun: {result['most_without_underrun']}, {how}"


def _mixed(result: dict[str, Any]) -> Iterator[str]:
    job = result["job"]
    yield ""
    yield f"{_title(result)}; a job of {_speech(result)}"
    yield _table([_LEVEL_HEAD, _level(result, None)], ["right"] * 9)
    yield from (f"failed: {failure}" for failure in (result["failures"] + job["failures"])[:5])
    listeners = f"plus {result['listeners_samples_per_second']:.0f} samples/s of the listeners"
    yield _facts(
        [
            ("job alone", f"{job['alone']:.0f} samples/s", ""),
            ("job beside them", f"{job['beside']:.0f} samples/s", listeners),
            ("ratio", f"{job['ratio']:.2f} x", f"{result['seconds']:g} s each, in turn{_buffer(result)}"),
            ("slots busy", _percent(job["occupancy"]), "of the job's, on average"),
        ]
    )


def _facts(rows: Sequence[tuple[str, str, str]]) -> str:
    """A table of names, values and notes."""
    return _table(rows, ("left", "right", "left"))


def _level(level: dict[str, Any], cpu: float | None) -> list[str]:
    first = level["first_frame"]
    return [
        str(level["listeners"]),
        *(f"{1e3 * first[name]:.0f}" if first["count"] else "-" for name in ("p50", "p90", "p99", "max")),
        f"{level['underruns']}/{level['frames']}",
        f"{level['silence_seconds']:.2f}",
        str(level["reader_late"]["over_5_ms"]),
        _percent(cpu),
    ]


def _costs(report: dict[str, Any]) -> Iterator[str]:
    """Yields the cost of speech in each subject's cheapest row; nothing without a price."""
    if (price := report.get("price")) is None:
        return
    currency = price["currency"]
    paid = f"at {price['an_hour']:g} {currency} an hour of this machine"
    yield f"cost      of {price['hours_of_speech']:,} hours of speech, {paid}"
    rows = sorted((row for row in report["results"] if row.get("cost") is not None), key=lambda row: float(row["cost"]))
    for subject in dict.fromkeys(row["subject"] for row in report["results"]):
        for row in [row for row in rows if row["subject"] == subject][:1]:
            batch = f" with batch {row['batch']}" if "batch" in row else ""
            yield f"          {row['cost']:,.2f} {currency} by {subject}{batch}"
    threads, cores = report["threads"], report["machine"]["usable_cores"]
    if report["scenario"] == "speed" and threads < cores:
        yield f"          with threads: {threads} of {cores} cores, at the price of the whole machine"


def _comparison_row(row: Row) -> list[str]:
    return [
        row.subject,
        str(row.batch),
        "-" if row.old is None else f"{row.old:.0f}",
        "-" if row.new is None else f"{row.new:.0f}",
        _ratio(row.old, row.new),
        _percent(row.old_share),
        _percent(row.new_share),
        _ratio(row.old_share, row.new_share),
        _BASES[row.basis],
        _percent(row.allowed),
        f"{row.verdict}: {row.reason}" if row.reason else row.verdict,
    ]


def _title(result: dict[str, Any]) -> str:
    engine = f" ({result['engine']})" if result["engine"] else ""
    lanes = f"{result['lanes']} lane{'s' if result['lanes'] > 1 else ''}"
    return f"{result['subject']}{engine}: {result['slots']} slots in {lanes}, chunks of {result['chunk']} samples"


def _speech(result: dict[str, Any]) -> str:
    shortest, longest = result["lengths"]
    return f"{shortest:g} to {longest:g} s each, cut from {result['speech']}"


def _alone(alone: dict[str, Any]) -> tuple[str, str]:
    compared, beginnings, different = alone["compared"], alone["beginnings"], alone["different"]
    if not (total := max(compared, beginnings)):
        return "-", "nothing was compared"
    what = f"beginnings of {beginnings}, {compared} to their end" if beginnings else "bit for bit, to their end"
    numbers = f"; DIFFERENT: {', '.join(map(str, different[:10]))}" if different else ""
    return f"{total - len(different)} of {total}", what + numbers


def _memory(memory: dict[str, Any] | None) -> str:
    if memory is None:
        return "not measured"
    before, quarter, end, peak = (f"{memory[name] / 2**20:.0f}" for name in ("before", "quarter", "end", "peak"))
    return (
        f"MiB resident: {before} before, {quarter} after a quarter, {end} at the end, {peak} at most; "
        f"{memory['growth'] / 2**20:+.1f} in the last three quarters"
    )


def _buffer(result: dict[str, Any]) -> str:
    return f", played {1e3 * result['buffer']:.0f} ms after the first frame" if result["buffer"] else ""


def _times(times: dict[str, Any]) -> str:
    if not times["count"]:
        return "none"
    return ", ".join(f"{name} {_seconds(times[name])}" for name in ("p50", "p90", "p99", "max"))


def _seconds(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.1f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _ratio(old: float | None, new: float | None) -> str:
    return f"{new / old:.3f}" if old and new else "-"
