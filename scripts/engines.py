"""``wavernn-trt engines``: lists, shows and removes the plans in the cache."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from wavernn_trt.scripts import PROGRAM, notice
from wavernn_trt.scripts.arguments import add_command, byte_size, duration, path

if TYPE_CHECKING:
    from wavernn_trt.engines.cache import EngineCache
    from wavernn_trt.engines.cache_entries import CacheEntry

DESCRIPTION = """\
Lists, shows and removes the plans that 'wavernn-trt build' stores in the cache. Each plan has a folder
NAME with NAME.plan and its record, NAME.json, which describes the plan and holds its SHA-256. A plan
that does not match its record is damaged: it is never used, and the next build replaces it.
"""
EPILOG = """\
examples:
  wavernn-trt engines list
  wavernn-trt engines show lj-small-univoc256_decoder
  wavernn-trt engines prune --max-size 10GiB --older-than 30d --dry-run

'wavernn-trt engines COMMAND --help' explains a command.
"""
LIST_EPILOG = """\
Each plan's size is compared with its record; its SHA-256 only with --verify, which reads every plan.
'used' is the time since a plan was built or loaded. Exits with 1 if a plan is damaged.
"""
SHOW_EPILOG = """\
Reads the plan and compares its SHA-256. 'layers' are those of the network before TensorRT optimised it;
'wavernn-trt inspect FILE.plan' shows the optimised ones, on a machine with the GPU. Exits with 1 if the
plan is damaged.
"""
PRUNE_EPILOG = """\
Damaged plans and the leftovers of killed builds are always removed. A plan that is being built is kept.
Units: B, kB, MB, GB, KiB, MiB, GiB, TiB; s, m (minutes), h, d, w. Exits with 1 if a plan could not be
removed.
"""


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand and its own subcommands."""
    parser = add_command(subparsers, "engines", None, DESCRIPTION, EPILOG)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="engines_command")
    command = _command(commands, "list", "list all plans, one per line", LIST_EPILOG, run_list)
    command.add_argument("--verify", action="store_true", help="read every plan and compare its SHA-256")
    command = _command(commands, "show", "show all details of a plan", SHOW_EPILOG, run_show)
    command.add_argument(
        "name", metavar="NAME", help="a plan's name, or the start or the last 8 digits of it, if unique"
    )
    command = _command(commands, "prune", "remove plans", PRUNE_EPILOG, run_prune)
    command.add_argument(
        "--max-size",
        type=byte_size,
        metavar="SIZE",
        help="remove the least recently used plans until the rest fits into SIZE",
    )
    command.add_argument(
        "--older-than", type=duration, metavar="TIME", help="remove plans that were not used for TIME, as in 30d"
    )
    command.add_argument("--all", action="store_true", help="remove all plans")
    command.add_argument("--dry-run", action="store_true", help="only print which plans would be removed")


def _command(commands: Any, name: str, line: str, epilog: str, run: Any) -> argparse.ArgumentParser:
    command = add_command(commands, name, run, f"{line.capitalize()}.", epilog, line)
    command.add_argument(
        "--cache", type=path, metavar="DIR", help="folder of the plans (default: the user's cache folder)"
    )
    command.add_argument("--json", action="store_true", help="print everything as JSON")
    return command


def run_list(arguments: argparse.Namespace) -> int:
    """Prints a table of the plans; returns 1 if one is damaged."""
    from wavernn_trt.scripts.engines_report import entry_json, print_table

    cache = _open(arguments)
    entries = cache.scan(verify=arguments.verify)
    if arguments.json:
        total = sum(entry.bytes for entry in entries)
        _print_json({"folder": str(cache.folder), "bytes": total, "plans": [entry_json(entry) for entry in entries]})
    elif entries:
        print_table(entries)
    if not entries:
        notice(f"no plans in {cache.folder}; '{PROGRAM} build DIR' builds them")
    return int(any(entry.state != "whole" for entry in entries))


def run_show(arguments: argparse.Namespace) -> int:
    """Prints one plan's record; returns 1 if the plan is damaged."""
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
    """Removes plans and prints which; returns 1 if one could not be removed."""
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
            print(f"{would} the leftovers of {pruned.left_overs} unfinished build{'s' * (pruned.left_overs > 1)}")
        print(f"{would} {len(pruned.removed)} plan{'s' * (len(pruned.removed) != 1)}, {readable_size(freed)}")
    for entry, reason in pruned.kept:
        notice(f"{entry.name} is kept: {reason}")
    return int(bool(pruned.kept))


def _open(arguments: argparse.Namespace) -> EngineCache:
    from wavernn_trt.engines.cache import EngineCache, EngineCacheError

    if arguments.cache is not None and not arguments.cache.exists():
        raise EngineCacheError(
            f"{arguments.cache} does not exist; expected a folder of plans, as 'build --cache' creates it"
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
        raise ValueError(f"no plan in {cache.folder} is called {text!r}; '{PROGRAM} engines list' prints all names")
    names = ", ".join(entry.name for entry in found[:5]) + (", …" if len(found) > 5 else "")
    raise ValueError(f"{text!r} matches {len(found)} plans ({names}); give more of the name, or its last 8 digits")


def _print_json(values: object) -> None:
    print(json.dumps(values, indent=1))
