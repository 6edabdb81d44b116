"""The console script ``agent-telemetry-python``: goes on isolated, before anything can be imported.

The pipeline's ``PYTHONPATH`` may hold packages of our names, of other versions or by other people. ``-I``
keeps them out of our process and leaves the variable as it is for the agent.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Become ``telemetry.stand_in`` with the same arguments."""
    os.execv(sys.executable, [sys.executable, "-I", "-m", "telemetry.stand_in", *sys.argv[1:]])
