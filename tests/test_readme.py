"""The README and other pages: links lead to files, and all command lines parse."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from wavernn_trt.scripts import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for folder in (".", "export", "engines", "runtime", "calibration", "scripts", "tests/export")
    for page in (ROOT / folder).glob("*.md" if folder == "." else "**/README.md")
)


def commands() -> list[str]:
    """Command lines of wavernn-trt in the pages' blocks of shell code."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                parts = re.split(r"&&|\|", line.partition("  #")[0])
                found += [part.strip() for part in parts if part.strip().startswith("wavernn-trt ")]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readme_has_at_most_250_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_pages_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[argparse.Namespace] = []
    parse = cli.Parser.parse_args

    def parse_only(parser: cli.Parser, words: list[str]) -> argparse.Namespace:
        parsed.append(parse(parser, words))
        return argparse.Namespace(debug=False, run=lambda _: 0)

    monkeypatch.setattr(cli.Parser, "parse_args", parse_only)
    assert cli.main(shlex.split(command)[1:]) == 0
    assert parsed
