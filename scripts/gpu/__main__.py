"""``python -m wavernn_trt.scripts.gpu``: the same as ``python -m wavernn_trt.scripts.gpu.run``."""

from __future__ import annotations

import sys

from wavernn_trt.scripts.gpu.run import main

if __name__ == "__main__":
    sys.exit(main())
