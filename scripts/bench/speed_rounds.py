"""Everything that is compared takes its turn in every round, so that drift of the machine hits all alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wavernn_trt.export.operators import Precision
from wavernn_trt.scripts.bench.backend_turns import REFERENCE_SECONDS, OpenedBackends, Turn
from wavernn_trt.scripts.bench.backends import place_of
from wavernn_trt.scripts.bench.ceilings import Ceilings
from wavernn_trt.scripts.bench.peers import open_peers
from wavernn_trt.scripts.bench.progress import Report
from wavernn_trt.scripts.bench.timings import Measurement


@dataclass(frozen=True)
class SpeedOptions:
    """What to measure, and how long."""

    backends: tuple[str, ...]
    peers: tuple[str, ...] | None
    """Some of `PEERS`; ``None`` is those that suit the model and the machine."""
    batches: tuple[int, ...]
    """Numbers of streams. An engine is measured with those that it takes; if it takes none, with its own."""
    seconds: float
    """Of speech that each stream makes in a repeat."""
    repeats: int
    """Rounds; a warm-up comes before and is not counted."""
    threads: int
    """CPU threads of everything."""
    precision: Precision | None = None
    """Of backends that have several."""


def measure(path: Path, options: SpeedOptions, report: Report) -> Measurement:
    """Measures a model.

    Args:
        path: its model directory.
        options: what of.
        report: is told what comes next.

    Raises:
        PeerError: a peer does not compute what the model does.
    """
    missing: dict[str, str] = {}
    opened = OpenedBackends(path, options.backends, options.threads, options.precision, missing, report)
    on_gpu = any(place_of(backend) == "gpu" for backend in options.backends)
    report("opening peers")
    peers = open_peers(options, path, missing, on_gpu=on_gpu)
    turns: list[Turn] = []
    for batch in options.batches:
        turns += opened.turns(batch, options.seconds)
        for peer in peers:
            if peer.only in (None, batch):
                report(f"{peer.subject}, batch {batch}: warm-up")
                turns.append(peer.turn(batch, min(options.seconds, REFERENCE_SECONDS)))
    turns += opened.own_turns({timing.subject for timing, _ in turns}, options.seconds)
    batches = list(dict.fromkeys(timing.batch for timing, _ in turns)) or list(options.batches)
    precisions = list(dict.fromkeys(timing.precision for timing, _ in turns if timing.place == "gpu"))
    ceilings = Ceilings(options.threads, precisions, missing)
    found: dict[str, list[list[float]]] = {name: [] for name in ceilings.names}
    for round_ in range(options.repeats):
        for name in found:
            found[name].append([])
        for batch in batches:
            for name, value in ceilings.measure().items():
                found[name][-1].append(value)
            here = [turn for turn in turns if turn[0].batch == batch]
            first = round_ % max(1, len(here))
            for timing, run in here[first:] + here[:first]:
                report(f"round {round_ + 1} of {options.repeats}: {timing.subject}, batch {batch}")
                timing.add(run())
    ceilings.close()
    names = [peer.subject for peer in peers]
    return Measurement([timing for timing, _ in turns], batches, opened.loads, found, names, missing)
