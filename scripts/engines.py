"""``wavernn-trt engines``: what lies in the cache of plans, and how it becomes smaller."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from wavernn_trt.scripts import PROGRAM

if TYPE_CHECKING:
    from wavernn_trt.engines.cache import EngineCache
    from wavernn_trt.engines.cache_entries import CacheEntry

DESCRIPTION = """\
Lists, shows and removes the plans that 'wavernn-trt build' keeps. Each has a folder NAME in the cache,
with the plan, NAME.plan, and NAME.json, which describes it and has its SHA-256. A plan whose files do
not fit together is damaged: it is never used, and the next build replaces it.
"""
EPILOG = """\
examples:
  wavernn-trt engines list
  wavernn-trt engines show lj-small-univoc256_decoder
  wavernn-trt engines prune --max-size 10GiB --older-than 30d --dry-run

'wavernn-trt engines COMMAND --help' explains a command.
"""
LIST_EPILOG = """\
Sizes are compared, hashes only with --verify, which reads every plan. 'used' is how long ago a plan was
built or loaded. Exits with 1 if a plan is damaged.
"""
SHOW_EPILOG = """\
The plan is read and its SHA-256 compared. 'layers' are those of the network that TensorRT was given; what
it made of them 'wavernn-trt inspect FILE.plan' shows where the GPU is. Exits with 1 if the plan is damaged.
"""
PRUNE_EPILOG = """\
Damaged plans, and what builds that were killed have left, go in any case. A plan that is being built stays.
Units: B, kB, MB, GB, KiB, MiB, GiB, TiB; s, m (minutes), h, d, w. Exits with 1 if a plan could not be removed.
"""


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand, and its own."""
    from wavernn_trt.scripts.arguments import byte_size, duration

    parser = subparsers.add_parser(
        "engines",
        help="list, show and prune the TensorRT plans that were built",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="engines_command")
    command = _command(commands, "list", "show every plan in a line", LIST_EPILOG, run_list)
    command.add_argument("--verify", action="store_true", help="read every plan and compare its SHA-256")
    command = _command(commands, "show", "show everything that is known about a plan", SHOW_EPILOG, run_show)
    command.add_argument("name", metavar="NAME", help="the plan's name, or a beginning or its last digits, if unique")
    command = _command(commands, "prune", "remove plans", PRUNE_EPILOG, run_prune)
    command.add_argument(
        "--max-size", type=byte_size, metavar="SIZE", help="those not used for longest, until the rest is no larger"
    )
    command.add_argument(
        "--older-than", type=duration, metavar="TIME", help="those that were not used for so long, as in 30d"
    )
    command.add_argument("--all", action="store_true", help="all of them")
    command.add_argument("--dry-run", action="store_true", help="print what would be removed, and remove nothing")


def _command(commands: Any, name: str, line: str, epilog: str, run: Any) -> argparse.ArgumentParser:
    from wavernn_trt.scripts.arguments import path

    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=line,
        description=line[0].upper() + line[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    command.add_argument("--cache", type=path, metavar="DIR", help="folder of plans (default: the user's cache)")
    command.add_argument("--json", action="store_true", help="print everything as JSON")
    return command


def run_list(arguments: argparse.Namespace) -> int:
    """Prints a table; returns 1 where a plan is not whole."""
    from wavernn_trt.scripts.engines_report import entry_json, print_table

    cache = _open(arguments)
    entries = cache.scan(verify=arguments.verify)
    if arguments.json:
        total = sum(entry.bytes for entry in entries)
        _print_json({"folder": str(cache.folder), "bytes": total, "plans": [entry_json(entry) for entry in entries]})
    elif entries:
        print_table(entries)
    if not entries:
        print(f"{PROGRAM}: no plans in {cache.folder}; '{PROGRAM} build DIR' makes some", file=sys.stderr)
    return int(any(entry.state != "whole" for entry in entries))


def run_show(arguments: argparse.Namespace) -> int:
    """Prints one plan's record; returns 1 where the plan is not whole."""
    from wavernn_trt.engines.cache_entries import read_entry
    from wavernn_trt.scripts.engines_report import entry_json, print_entry

    cache = _open(arguments)
    entry = read_entry(cache.folder, _chosen(cache, arguments.name).name, verify=True)
    if entry is None:
        raise ValueError(f"{arguments.name} was removed just now")
    if arguments.json:
        _print_json(entry_json(entry))
    else:
        print_entry(entry)
    return int(entry.state != "whole")


def run_prune(arguments: argparse.Namespace) -> int:
    """Removes, and prints what; returns 1 where something could not be removed."""
    from wavernn_trt.engines.cache_folder import readable_size
    from wavernn_trt.scripts.engines_report import entry_json

    cache = _open(arguments)
    pruned = cache.prune(arguments.max_size, arguments.older_than, everything=arguments.all, dry_run=arguments.dry_run)
    freed = sum(entry.bytes for entry in pruned.removed)
    if arguments.json:
        _print_json(
            {
                "folder": str(cache.folder),
                "dry_run": arguments.dry_run,
                "bytes": freed,
                "removed": [entry_json(entry) for entry in pruned.removed],
                "kept": [{"name": entry.name, "reason": reason} for entry, reason in pruned.kept],
                "left_overs": pruned.left_overs,
            }
        )
    else:
        would = "would remove" if arguments.dry_run else "removed"
        for entry in pruned.removed:
            print(f"{would} {entry.name} ({readable_size(entry.bytes)}){'; ' + entry.reason if entry.reason else ''}")
        if pruned.left_overs:
            print(f"{would} what {pruned.left_overs} unfinished build{'s' * (pruned.left_overs > 1)} left")
        print(f"{would} {len(pruned.removed)} plan{'s' * (len(pruned.removed) != 1)}, {readable_size(freed)}")
    for entry, reason in pruned.kept:
        print(f"{PROGRAM}: {entry.name} stays: {reason}", file=sys.stderr)
    return int(bool(pruned.kept))


def _open(arguments: argparse.Namespace) -> EngineCache:
    from wavernn_trt.engines.cache import EngineCache, EngineCacheError

    if arguments.cache is not None and not arguments.cache.exists():
        raise EngineCacheError(
            f"{arguments.cache} is not there; expected a folder of plans, as 'build --cache' makes it"
        )
    return EngineCache(arguments.cache)


def _chosen(cache: EngineCache, text: str) -> CacheEntry:
    entries = cache.scan()
    text = text.removesuffix(".plan").removesuffix(".json")
    found = [entry for entry in entries if entry.name == text] or [
        entry for entry in entries if text and (entry.name.startswith(text) or entry.digits == text)
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(f"no plan in {cache.folder} is called {text!r}; '{PROGRAM} engines list' shows what is there")
    names = ", ".join(entry.name for entry in found[:5]) + (", …" if len(found) > 5 else "")
    raise ValueError(
        f"{text!r} begins the names of {len(found)} plans ({names}); give more of it, or the last 8 digits"
    )


def _print_json(values: object) -> None:
    json.dump(values, sys.stdout, indent=1)
    print()
