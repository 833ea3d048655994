"""Deprecated name of ``python -m wavernn_trt.scripts.training.present``."""

from __future__ import annotations

import sys

from wavernn_trt.scripts.training.present import main

if __name__ == "__main__":
    print("present_voice is deprecated; use python -m wavernn_trt.scripts.training.present", file=sys.stderr)
    sys.exit(main())
