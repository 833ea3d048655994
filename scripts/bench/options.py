"""The options of ``wavernn-trt bench``."""

from __future__ import annotations

import argparse
from typing import Any

from wavernn_trt.plugins.precisions import WEIGHT_PRECISIONS
from wavernn_trt.scripts import PROGRAM
from wavernn_trt.scripts.arguments import path, positive_integer, positive_integers, positive_number
from wavernn_trt.scripts.bench.help_text import DESCRIPTION, EPILOG
from wavernn_trt.scripts.bench.models import STANDARD
from wavernn_trt.scripts.bench.names import BACKENDS, PEERS, SCENARIOS

MEANT_FOR = {
    "repeats": ("speed", "mixed"),
    "seconds": ("speed", "stream", "mixed"),
    "plot": ("speed",),
    "peers": ("speed",),
    "price": ("speed", "batch"),
    "compare": ("speed", "batch"),
    "lanes": ("batch", "stream", "mixed"),
    "mels": ("batch", "stream", "mixed"),
    "lengths": ("batch", "stream", "mixed"),
    "utterances": ("batch",),
    "padded_groups": ("batch",),
    "verify": ("batch",),
    "listeners": ("stream", "mixed"),
    "buffer": ("stream", "mixed"),
    "openings": ("stream",),
}
"""Options that have a meaning with some scenarios only."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Registers the subcommand's parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        usage=f"{PROGRAM} bench [--scenario NAME] [--model DIR | --random NAME] [--backend NAMES] [OPTION ...]",
        help="measure speed on this machine, and against others' code",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scenario", choices=SCENARIOS, default="speed", help="default: %(default)s")
    _add_model(parser.add_argument_group("model"))
    _add_time(parser.add_argument_group("how long"))
    _add_speech(parser.add_argument_group("speech of batch, stream and mixed"))
    _add_load(parser.add_argument_group("batch"))
    _add_listening(parser.add_argument_group("stream and mixed"))
    _add_output(parser.add_argument_group("output"))
    return parser


def _add_model(group: Any) -> None:
    model = group.add_mutually_exclusive_group()
    model.add_argument("--model", type=path, metavar="DIR", help="model directory (default: the voice that is shipped)")
    model.add_argument(
        "--random",
        choices=sorted(STANDARD),
        metavar="NAME",
        help=f"a standard size with random weights, exported for this run: {', '.join(sorted(STANDARD))}",
    )
    group.add_argument(
        "--backend",
        type=_backends,
        metavar="NAMES",
        help=f"some of {','.join(BACKENDS)} (default: onnxruntime, and torch for speed); what is not there is reported "
        "with its reason",
    )
    group.add_argument(
        "--precision",
        choices=WEIGHT_PRECISIONS,
        help="of the backends on a GPU, and of cuda-graphs (default: of the engine used last, or the backend's)",
    )
    group.add_argument(
        "--peers",
        type=_peers,
        metavar="NAMES",
        help=f"speed: some of {','.join(PEERS)}, or none (default: those that suit the model and the machine)",
    )
    group.add_argument(
        "--batch",
        type=_batches,
        metavar="NUMBERS",
        help="streams decoded together (speed, default: 1,8,32; 1:64 is 1,2,4 and so on), or slots (default: 32); an "
        "engine takes what it was built for",
    )
    group.add_argument(
        "--threads", type=positive_integer, metavar="N", help="CPU threads of everything (default: the model's)"
    )
    group.add_argument(
        "--lanes", type=positive_integer, metavar="N", help="lanes that decode at the same time; not for speed"
    )


def _add_time(group: Any) -> None:
    group.add_argument(
        "--seconds",
        type=positive_number,
        metavar="S",
        help="speed: of speech of each stream in a repeat (default: 0.25); PyTorch gets at most 0.1. stream, mixed: "
        "of each measurement (default: 10)",
    )
    group.add_argument("--repeats", type=positive_integer, metavar="N", help="speed: default 5; mixed: default 2")


def _add_speech(group: Any) -> None:
    group.add_argument(
        "--mels",
        type=path,
        nargs="+",
        metavar="PATH",
        help="mels or recordings that utterances are cut from, as vocode takes them (default: the sample that is "
        "shipped; for other models noise)",
    )
    group.add_argument(
        "--lengths",
        type=_lengths,
        metavar="FROM:TO",
        help="seconds of an utterance, spread evenly in their logarithm (default: 0.2:20; for stream 1:4)",
    )


def _add_load(group: Any) -> None:
    group.add_argument(
        "--utterances", type=positive_integer, metavar="N", help="default: 128; the load test of this project: 2000"
    )
    group.add_argument(
        "--padded-groups",
        type=_count,
        metavar="N",
        help="fixed batches to decode, evenly spread over the job; 0: none (default: as many as take about as long as "
        "the job)",
    )
    group.add_argument(
        "--verify",
        type=_verify,
        metavar="N|all",
        help="utterances to speak again alone (default: 16); all: the beginnings of all, and 16 to their end",
    )


def _add_listening(group: Any) -> None:
    group.add_argument(
        "--listeners",
        type=positive_integers,
        metavar="NUMBERS",
        help="at a time (default: 1,2,4,8,16 in turn; for mixed one number, 4)",
    )
    group.add_argument(
        "--buffer",
        type=positive_number,
        metavar="MS",
        help="how long a listener waits behind its first frame before it begins to play (default: not at all)",
    )
    group.add_argument(
        "--openings",
        type=positive_integer,
        metavar="N",
        help="stream: streams opened with nobody else there, for the time to the first frame (default: 50)",
    )


def _add_output(group: Any) -> None:
    group.add_argument(
        "--json",
        type=path,
        metavar="F",
        help="also write everything, each repeat, the costs and the comparison included, to a file",
    )
    group.add_argument(
        "--compare",
        type=path,
        metavar="OLD.json",
        help="speed, batch: compare with what --json wrote before; exits 1 where something is slower",
    )
    group.add_argument(
        "--price",
        type=positive_number,
        metavar="P",
        help="speed, batch: of an hour of this machine; adds what 1,000 hours of speech cost with each row",
    )
    group.add_argument("--currency", metavar="NAME", help="of --price (default: USD)")
    group.add_argument(
        "--plot",
        type=path,
        metavar="FILE",
        help="speed: also draw throughput and latency against the batch size, a .png or .svg (needs the extra 'plot')",
    )
    group.add_argument(
        "--from",
        type=path,
        dest="source",
        metavar="F",
        help="with --plot, --compare or --price: take what --json wrote, and measure nothing",
    )
    group.add_argument("-q", "--quiet", action="store_true", help="do not say on stderr what is being measured")


def _backends(text: str) -> tuple[str, ...]:
    return _names(text, BACKENDS)


def _peers(text: str) -> tuple[str, ...]:
    return () if text == "none" else _names(text, PEERS, ", or none")


def _names(text: str, known: tuple[str, ...], otherwise: str = "") -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"found {name!r}, expected some of {','.join(known)}{otherwise}")
    return names


def _batches(text: str) -> tuple[int, ...]:
    """Numbers with commas between them; two with a colon are doubled from the first to the last, which is included."""
    batches: list[int] = []
    for word in text.split(","):
        first, colon, last = word.partition(":")
        number, most = positive_integer(first), positive_integer(last if colon else first)
        if number > most:
            raise argparse.ArgumentTypeError(f"found {word!r}, expected the smaller number first: {last}:{first}")
        while number < most:
            batches.append(number)
            number *= 2
        batches.append(most)
    return tuple(dict.fromkeys(batches))


def _lengths(text: str) -> tuple[float, float]:
    words = text.split(":")
    try:
        shortest, longest = map(positive_number, words)
        if shortest <= longest:
            return shortest, longest
    except (argparse.ArgumentTypeError, ValueError):
        pass
    raise argparse.ArgumentTypeError(f"found {text!r}, expected seconds from the shortest to the longest: 0.2:20")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected an integer from 0 on")
    return int(text)


def _verify(text: str) -> int | str:
    if text == "all":
        return text
    try:
        return _count(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or all") from None
