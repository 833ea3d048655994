"""``wavernn-trt speak``: speaks English text."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavernn_trt.scripts.arguments import add_command, path, positive_integer, positive_number, seed

if TYPE_CHECKING:
    from wavernn_trt.runtime.speech.speaker import SpokenSentence, Timing

DESCRIPTION = """\
Speaks English text: an acoustic model turns it into a mel spectrogram, and a WaveRNN vocoder into
speech. Runs on the CPU, faster than real time on one core.
"""
EPILOG = """\
text:
  TEXT         the text itself, in quotes; '-' reads it from standard input
  --file FILE  a UTF-8 file of any length. It is spoken sentence by sentence in constant memory; an
               empty line ends a paragraph.

Numbers, dates, times, money, abbreviations and URLs are read as words. [word](/wɜɹd/) gives a word's
pronunciation in misaki's alphabet (that of Kokoro).

Each sentence has its own random numbers, derived from --seed and the sentence's index. The same
text, options and installation give the same samples.

examples:
  wavernn-trt speak "Hello, this is a test." -o hello.wav
  wavernn-trt speak --file book.txt -o book.wav --speed 1.1 --timings book.srt
  echo "From a pipe." | wavernn-trt speak - -o pipe.wav --pitch 0.9

exit codes: 0 success; 2 wrong usage, or a text that cannot be read; 130 interrupted
"""
_PIECE = 1 << 16
"""Characters of a file that are read at once."""


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand."""
    parser = add_command(subparsers, "speak", run, DESCRIPTION, EPILOG)
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("text", nargs="?", metavar="TEXT", help="the text, or '-'")
    text.add_argument("--file", type=path, metavar="FILE", help="read the text from a file")
    parser.add_argument(
        "-o", "--output", type=path, required=True, metavar="WAV", help="the file to write or replace, 16-bit PCM"
    )
    parser.add_argument("--voice", metavar="NAME", help="a shipped voice, or a voice file, *.json (default: heart)")
    parser.add_argument("--speed", type=positive_number, default=1.0, help="factor, 0.25 to 4 (default: %(default)s)")
    parser.add_argument("--pitch", type=positive_number, default=1.0, help="factor, 0.5 to 2 (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="random seed (default: %(default)s)")
    parser.add_argument(
        "--timings",
        type=path,
        metavar="FILE",
        help="also write when each word is spoken: .json (words and phonemes, in seconds) or .srt (sentences)",
    )
    parser.add_argument("--backend", default="auto", help="of the vocoder, as for 'vocode' (default: %(default)s)")
    parser.add_argument("--threads", type=positive_integer, metavar="N", help="CPU threads of the vocoder")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the summary")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary")


def run(arguments: argparse.Namespace) -> int:
    """Writes the speech, and the timings; returns 0.

    Raises:
        ValueError: wrong arguments, or a text that cannot be read. No file is written.
        OSError: a file cannot be read or written.
    """
    timings: Path | None = arguments.timings
    if timings and timings.suffix not in (".json", ".srt"):
        raise ValueError(f"--timings: found {timings}, expected a .json or .srt file")
    from wavernn_trt.runtime.files.growing_wav import growing_wav
    from wavernn_trt.runtime.files.output_files import prepare_output
    from wavernn_trt.runtime.files.standard_streams import is_standard_output
    from wavernn_trt.runtime.speech.speaker import Controls, Speaker

    if arguments.output == Path("-") or is_standard_output(arguments.output):
        raise ValueError(f"--output: found {arguments.output}, expected a file")
    prepare_output(arguments.output)
    controls = Controls(arguments.seed, arguments.speed, arguments.pitch)
    spoken: list[SpokenSentence] = []
    samples, began = 0, time.perf_counter()
    with Speaker.load(arguments.voice, arguments.backend, threads=arguments.threads) as speaker:
        loaded = time.perf_counter()
        with growing_wav(arguments.output, speaker.sample_rate) as wav:
            for sentence in _shown(speaker.sentences(_text(arguments), controls), arguments.quiet or arguments.json):
                wav.write(sentence.waveform)
                samples += len(sentence.waveform)
                if timings:
                    spoken.append(dataclasses.replace(sentence, waveform=sentence.waveform[:0]))
        elapsed = time.perf_counter() - loaded
        backend, precision, rate = speaker.vocoder.backend, speaker.vocoder.precision, speaker.sample_rate
    if timings:
        _write_timings(timings, spoken)
    seconds = samples / rate
    if arguments.json:
        values = {"output": str(arguments.output), "seconds": seconds, "samples": samples, "sample_rate": rate}
        times = {"load_seconds": loaded - began, "elapsed_seconds": elapsed, "backend": backend, "precision": precision}
        print(json.dumps({**values, **times, "seed": arguments.seed}))
    elif not arguments.quiet:
        factor = elapsed / seconds if seconds else 0
        with_precision = f"{backend}, {precision}" if precision else backend
        print(
            f"{arguments.output}: {seconds:.2f} s of speech in {elapsed:.2f} s ({with_precision}); "
            f"real-time factor {factor:.2f}"
        )
    return 0


def _text(arguments: argparse.Namespace) -> Iterable[str]:
    if arguments.file:
        return _pieces(arguments.file)
    return iter(lambda: sys.stdin.read(_PIECE), "") if arguments.text == "-" else [arguments.text]


def _pieces(file: Path) -> Iterator[str]:
    try:
        with open(file, encoding="utf-8") as lines:
            yield from iter(lambda: lines.read(_PIECE), "")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: expected UTF-8 text ({error})") from None


def _shown(sentences: Iterator[SpokenSentence], quiet: bool) -> Iterator[SpokenSentence]:
    from tqdm import tqdm

    return iter(tqdm(sentences, unit=" sentences", desc="speaking", disable=quiet or None, file=sys.stderr))


def _write_timings(file: Path, spoken: Sequence[SpokenSentence]) -> None:
    from wavernn_trt.export.atomic_file import write_atomic

    if file.suffix == ".json":
        values = [{"text": one.text, "words": _rows(one.words), "phonemes": _rows(one.phonemes)} for one in spoken]
        content = json.dumps({"sentences": values}, ensure_ascii=False, indent=1) + "\n"
    else:
        content = "\n".join(
            f"{number}\n{_srt(one.words[0].start)} --> {_srt(one.words[-1].stop)}\n{one.text}\n"
            for number, one in enumerate((one for one in spoken if one.words), start=1)
        )
    write_atomic(file, content.encode())


def _rows(timings: Sequence[Timing]) -> list[dict[str, Any]]:
    return [{"text": one.text, "start": round(one.start, 4), "stop": round(one.stop, 4)} for one in timings]


def _srt(seconds: float) -> str:
    whole = round(1000 * seconds)
    return f"{whole // 3600000:02}:{whole // 60000 % 60:02}:{whole // 1000 % 60:02},{whole % 1000:03}"
