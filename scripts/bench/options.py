"""The options of ``wavernn-trt bench`` and their help."""

from __future__ import annotations

import argparse
from typing import Any

from wavernn_trt.plugins.precisions import WEIGHT_PRECISIONS
from wavernn_trt.scripts import PROGRAM
from wavernn_trt.scripts.arguments import names_of, path, positive_integer, positive_integers, positive_number
from wavernn_trt.scripts.bench.backends import BACKENDS
from wavernn_trt.scripts.bench.compare import RULE
from wavernn_trt.scripts.bench.models import STANDARD
from wavernn_trt.scripts.bench.report_file import SCENARIOS
from wavernn_trt.scripts.bench.timing import SUBJECTS
from wavernn_trt.scripts.extras import need

_PEERS = tuple(SUBJECTS)
_PACKAGES = ("onnx", "psutil", "pynvml", "tabulate", "threadpoolctl")
"""Import names of the packages of the extra ``bench``."""
_DESCRIPTION = """\
Measures the speed of a model on this machine.

--scenario speed   fixed batches of equal lengths, compared with the machine's limits (reads of
                   the weights and multiply-adds; a matrix product; a copy of memory) and with
                   other implementations with the same weights (--peers). All are measured in
                   turn in every round; medians are reported. The default.
--scenario batch   a job of utterances of mixed lengths that fills all slots. Some utterances
                   are decoded again alone and compared bit for bit.
--scenario stream  listeners that read 20 ms every 20 ms: the time to the first frame, and the
                   number of listeners without an underrun.
--scenario mixed   listeners beside a batch job: their underruns, and the slowdown of the job.
"""
_EXAMPLES = """\
peers, which use the weights of the model:
  loop         the model's modules in a plain PyTorch loop over samples
  cuda-graphs  the model's modules as one CUDA graph of many steps, with fused cells; samples are drawn on
               the GPU (in --precision, else fp16)
  openvino     the model's loop graph in OpenVINO on the CPU, in place of ONNX Runtime (pip install openvino)
  univoc       univoc's own Vocoder.generate, one stream at a time (pip install --no-deps univoc)
  torchaudio   torchaudio's own WaveRNN.infer, for torchaudio's and fatchord's models
The logits of univoc and torchaudio, and the samples of openvino, are first compared with the model's; if they
differ, bench ends with an error. If a backend on a GPU is measured, PyTorch's peers run there too, if it finds
it.

examples:
  wavernn-trt bench                                 the shipped voice
  wavernn-trt bench --model my-voice --batch 1,16
  wavernn-trt bench --random univoc-896 --json univoc.json
  wavernn-trt bench --backend native-fp32,native-bf16,native-int8,onnxruntime   precisions on the CPU
  wavernn-trt bench --backend onnxruntime --batch 1:64 --json speed.json --plot speed.png
  wavernn-trt bench --plot speed.svg --from speed.json          only draw a report
  wavernn-trt bench --backend tensorrt-rtx,cuda --precision fp16 --batch 1:128 --peers loop,cuda-graphs
  wavernn-trt bench --backend onnxruntime --peers none --batch 8 --json new.json --compare old.json
  wavernn-trt bench --from new.json --compare old.json          only compare two reports
  wavernn-trt bench --price 0.35 --currency EUR                 what 1,000 hours of speech cost here
  wavernn-trt bench --scenario batch
  wavernn-trt bench --scenario batch --utterances 2000 --verify all --mels speech/    the load test
  wavernn-trt bench --scenario stream --listeners 1,2,4,8
  wavernn-trt bench --scenario stream --listeners 1 --lengths 4:4 --threads 1   first 20 ms of mels of 4 s
  wavernn-trt bench --scenario mixed --listeners 4 --backend tensorrt-rtx

comparing:
"""
_CODES = """\
exit codes: 0 measured; 1 no backend could be measured, an utterance failed or differs from the same
utterance alone, or a row is slower than in the report compared with; 2 wrong usage, or no row of two
reports could be compared
"""
_EPILOG = f"{_EXAMPLES}{RULE}\n{_CODES}"


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        usage=f"{PROGRAM} bench [--scenario NAME] [--model DIR | --random NAME] [--backend NAMES] [OPTION ...]",
        help="measure speed on this machine, and against other implementations",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scenario", choices=SCENARIOS, default="speed", help="default: %(default)s")
    _add_model(parser.add_argument_group("model"))
    _add_time(parser.add_argument_group("duration"))
    _add_speech(parser.add_argument_group("speech of batch, stream and mixed"))
    _add_load(parser.add_argument_group("batch"))
    _add_listening(parser.add_argument_group("stream and mixed"))
    _add_output(parser.add_argument_group("output"))
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    need("bench", _PACKAGES, extra="bench")
    # Imported here: it imports these packages.
    from wavernn_trt.scripts.bench.command import run

    return run(arguments)


def _add_model(group: Any) -> None:
    model = group.add_mutually_exclusive_group()
    model.add_argument("--model", type=path, metavar="DIR", help="model directory (default: the shipped voice)")
    model.add_argument(
        "--random",
        choices=sorted(STANDARD),
        metavar="NAME",
        help=f"a standard size with random weights, exported for this run: {', '.join(sorted(STANDARD))}",
    )
    group.add_argument(
        "--backend",
        type=names_of(BACKENDS),
        metavar="NAMES",
        help=f"some of {','.join(BACKENDS)} (default: native and onnxruntime, and torch for speed); a missing one is "
        "reported. native is in the model's default precision",
    )
    group.add_argument(
        "--precision",
        choices=WEIGHT_PRECISIONS,
        help="of the backends on a GPU, and of cuda-graphs (default: that of the last engine, or the backend's)",
    )
    group.add_argument(
        "--peers",
        type=_peers,
        metavar="NAMES",
        help=f"speed: some of {','.join(_PEERS)}, or none (default: all that suit the model and machine)",
    )
    group.add_argument(
        "--batch",
        type=_batches,
        metavar="NUMBERS",
        help="streams decoded together (speed, default: 1,8,32; 1:64 is 1,2,4 and so on), or slots (default: 32); an "
        "engine uses the batch it was built for",
    )
    group.add_argument("--threads", type=positive_integer, metavar="N", help="CPU threads (default: the model's)")
    group.add_argument(
        "--lanes", type=positive_integer, metavar="N", help="lanes that decode at the same time; not for speed"
    )


def _add_time(group: Any) -> None:
    group.add_argument(
        "--seconds",
        type=positive_number,
        metavar="S",
        help="speed: of speech of each stream in a repeat (default: 0.25; PyTorch at most 0.1). stream, mixed: of each "
        "measurement (default: 10)",
    )
    group.add_argument("--repeats", type=positive_integer, metavar="N", help="speed: default 5; mixed: default 2")


def _add_speech(group: Any) -> None:
    group.add_argument(
        "--mels",
        type=path,
        nargs="+",
        metavar="PATH",
        help="mels or recordings, as for vocode, from which utterances are cut (default: the shipped sample; for other "
        "models noise)",
    )
    group.add_argument(
        "--lengths",
        type=_lengths,
        metavar="FROM:TO",
        help="seconds of an utterance, uniform in their logarithm (default: 0.2:20; for stream 1:4)",
    )


def _add_load(group: Any) -> None:
    group.add_argument(
        "--utterances", type=positive_integer, metavar="N", help="default: 128; the load test of this project: 2000"
    )
    group.add_argument("--padded-groups", type=_count, help=argparse.SUPPRESS)  # has no effect; see `command`
    group.add_argument(
        "--verify",
        type=_verify,
        metavar="N|all",
        help="utterances to decode again alone (default: 16); all: the beginnings of all, 16 to their end",
    )


def _add_listening(group: Any) -> None:
    group.add_argument(
        "--listeners",
        type=positive_integers,
        metavar="NUMBERS",
        help="listeners at the same time (default: 1,2,4,8,16 in turn; for mixed one number, 4)",
    )
    group.add_argument(
        "--buffer",
        type=positive_number,
        metavar="MS",
        help="delay between a listener's first frame and the beginning of playback (default: none)",
    )
    group.add_argument(
        "--openings",
        type=positive_integer,
        metavar="N",
        help="stream: streams opened one at a time to measure the time to the first frame (default: 50)",
    )


def _add_output(group: Any) -> None:
    group.add_argument(
        "--json",
        type=path,
        metavar="F",
        help="also write the report, with every repeat, the costs and the comparison, to a file",
    )
    group.add_argument(
        "--compare",
        type=path,
        metavar="OLD.json",
        help="speed, batch: compare with an earlier report of --json; exit code 1 if a row is slower",
    )
    group.add_argument(
        "--price",
        type=positive_number,
        metavar="P",
        help="speed, batch: price of an hour of this machine; adds the cost of 1,000 hours of speech to each row",
    )
    group.add_argument("--currency", metavar="NAME", help="of --price (default: USD)")
    group.add_argument(
        "--plot",
        type=path,
        metavar="FILE",
        help="speed: also plot throughput and latency against the batch size, a .png or .svg (needs the extra 'plot')",
    )
    group.add_argument(
        "--from",
        type=path,
        dest="source",
        metavar="F",
        help="with --plot, --compare or --price: read a report of --json instead of measuring",
    )
    group.add_argument("-q", "--quiet", action="store_true", help="show no progress on stderr")


def _peers(text: str) -> tuple[str, ...]:
    return () if text == "none" else names_of(_PEERS, ", or none")(text)


def _batches(text: str) -> tuple[int, ...]:
    """Numbers with commas between them. FIRST:LAST is FIRST, doubled repeatedly up to LAST, and LAST."""
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
