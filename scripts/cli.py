"""``wavernn-trt``: a table of subcommands, each a module that is imported when it is called for.

A subcommand's module has ``add_parser(subparsers)``, which registers its parser with ``run`` as a default, and
``run(arguments) -> int``, which returns the exit code.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from wavernn_trt import __version__
from wavernn_trt.scripts import PROGRAM

COMMANDS = {
    "bench": ("wavernn_trt.scripts.bench.options", "measure speed on this machine, and against plain PyTorch"),
    "engines": ("wavernn_trt.scripts.engines", "list, show and prune the TensorRT plans that were built"),
    "build": ("wavernn_trt.scripts.build", "build TensorRT plans of a model directory"),
    "calibrate": ("wavernn_trt.scripts.calibrate", "measure what a model's products read, for quantising it"),
    "export": ("wavernn_trt.scripts.export", "make a model directory from a trained checkpoint"),
    "inspect": ("wavernn_trt.scripts.inspect", "show what is in a model directory, and what TensorRT would refuse"),
    "quantize": (
        "wavernn_trt.scripts.quantize",
        "make a model directory that computes in eight bits, and measure what that costs",
    ),
    "score": ("wavernn_trt.scripts.score", "score a model on recordings: bits a sample, and log-mel correlation"),
    "vocode": ("wavernn_trt.scripts.vocode", "vocode mel spectrograms, or re-synthesise recordings"),
}
"""Name, module and one line of help."""

DESCRIPTION = "Speech from mel spectrograms with WaveRNN vocoders."
EPILOG = f"""\
examples:
  {PROGRAM} vocode speech.wav -o copy.wav     re-synthesise a recording with the voice that is shipped
  {PROGRAM} vocode mels/ -o speech/           vocode every .npy mel in a folder

exit codes: 0 all done; 1 some files failed, or a run had to stop; 2 wrong usage; 130 interrupted; 143 terminated
'{PROGRAM} COMMAND --help' explains a command.
"""


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, with the way to the help."""

    def error(self, message: str) -> NoReturn:
        """Exits with code 2."""
        self.exit(2, f"{PROGRAM}: error: {message}\n{PROGRAM}: see '{self.prog} --help'\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code; a mistake of the user's never shows a traceback."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        return _run(arguments)
    except SystemExit as exit:  # argparse leaves this way
        return exit.code if isinstance(exit.code, int) else 2
    except BrokenPipeError:
        # Whoever read the output has left. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, Exception) as error:
        if (interrupt := _interrupt(error)) is not None:
            _complain("; ".join(["interrupted", *map(str, interrupt.args)]))
            return 130
        if isinstance(error, ValueError):
            _complain(f"error: {error}")
        elif isinstance(error, OSError):
            _complain(f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}")
        elif isinstance(error, MemoryError):
            _complain("error: out of memory; try a smaller --batch")
        elif "--debug" in arguments:
            raise
        else:
            _complain(f"error: unexpected {type(error).__name__}: {error}; '{PROGRAM} --debug …' shows where")
    return 2


def _run(arguments: list[str]) -> int:
    named = next((word for word in arguments if not word.startswith("-")), None)
    parser = Parser(prog=PROGRAM, description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("--debug", action="store_true", help="log in detail, and show tracebacks of unexpected errors")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")
    for name, (module, line) in COMMANDS.items():
        if name == named:
            import_module(module).add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=line, add_help=False)
    parsed = parser.parse_args(arguments)
    level = logging.DEBUG if parsed.debug else logging.WARNING
    logging.basicConfig(level=level, format=f"{PROGRAM}: %(levelname)s: %(message)s", stream=sys.stderr)
    return int(parsed.run(parsed))


def _interrupt(error: BaseException | None) -> KeyboardInterrupt | None:
    """The Ctrl-C behind an error: one that comes while a compiled module is imported ends as an ImportError."""
    seen: set[int] = set()  # chains of errors may be circles
    while error is not None and not isinstance(error, KeyboardInterrupt):
        seen.add(id(error))
        error = error.__cause__ or error.__context__
        if id(error) in seen:
            return None
    return error


def _complain(message: str) -> None:
    print(f"{PROGRAM}: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
