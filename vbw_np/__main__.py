"""``python -m vbw_np`` is ``vbw``."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":  # so that a spawned process that imports this module runs nothing
    sys.exit(main())
