"""Deprecated name of ``wavernn-trt vocode --ray``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wavernn_trt.scripts import PROGRAM, cli, notice


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``vocode --ray`` with the same arguments, and returns its exit code."""
    notice(f"ray_vocode is deprecated; use '{PROGRAM} vocode --ray', with the same options")
    return cli.main(["vocode", "--ray", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
