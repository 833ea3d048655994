"""``wavernn-trt``: the entry point. A subcommand's module is imported when that subcommand is called.

Each of these modules has ``add_parser(subparsers)``, which registers a parser with a default ``run``: a function
``(arguments) -> exit code``.
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
from wavernn_trt.scripts import COMMANDS, PROGRAM, notice

DESCRIPTION = "Converts mel spectrograms and English text to speech with WaveRNN vocoders."
EPILOG = f"""\
examples:
  {PROGRAM} speak "Hello there." -o hello.wav    speak a text
  {PROGRAM} vocode speech.wav -o copy.wav     re-synthesise a recording with the shipped voice
  {PROGRAM} vocode mels/ -o speech/           vocode every mel in a folder

exit codes: 0 success; 1 some files failed, or a run had to stop; 2 wrong usage;
130 interrupted (Ctrl-C); 143 terminated (SIGTERM)
'{PROGRAM} COMMAND --help' explains a command.
"""


class Parser(argparse.ArgumentParser):
    """Prints a usage error as one line and a pointer to ``--help``, and exits with code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{PROGRAM}: error: {message}\n{PROGRAM}: see '{self.prog} --help'\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code. Errors of the user's are printed without a traceback."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        return _run(arguments)
    except SystemExit as exit:  # raised by argparse
        return exit.code if isinstance(exit.code, int) else 2
    except BrokenPipeError:
        # The reader of stdout has closed it. Without this, Python prints an error when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, Exception) as error:
        if (interrupt := _interrupt(error)) is not None:
            notice("; ".join(["interrupted", *map(str, interrupt.args)]))
            return 130
        if isinstance(error, ValueError):
            notice(f"error: {error}")
        elif isinstance(error, OSError):
            notice(f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}")
        elif isinstance(error, MemoryError):
            notice("error: out of memory; try a smaller --batch")
        elif "--debug" in arguments:
            raise
        else:
            notice(f"error: unexpected {type(error).__name__}: {error}; '{PROGRAM} --debug …' prints the traceback")
    return 2


def _run(arguments: list[str]) -> int:
    named = next((word for word in arguments if not word.startswith("-")), None)
    parser = Parser(prog=PROGRAM, description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("--debug", action="store_true", help="log in detail; print tracebacks of unexpected errors")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")
    for name, (module, summary) in COMMANDS.items():
        if name == named:
            import_module(f"{__package__}.{module}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary, add_help=False)
    parsed = parser.parse_args(arguments)
    level = logging.DEBUG if parsed.debug else logging.WARNING
    logging.basicConfig(level=level, format=f"{PROGRAM}: %(levelname)s: %(message)s", stream=sys.stderr)
    return int(parsed.run(parsed))


def _interrupt(error: BaseException | None) -> KeyboardInterrupt | None:
    """Finds a Ctrl-C in an error's causes: during the import of a compiled module it ends as an ImportError."""
    seen: set[int] = set()  # chains of errors may be circles
    while error is not None and not isinstance(error, KeyboardInterrupt):
        seen.add(id(error))
        error = error.__cause__ or error.__context__
        if id(error) in seen:
            return None
    return error


if __name__ == "__main__":
    sys.exit(main())
