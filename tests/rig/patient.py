# SPDX-License-Identifier: Apache-2.0
"""Agentwall that gives what is to be done in time as long as a busy machine may need for it.

A start waits two seconds for its libraries, and goes on unread then (``daemon/preparations.py``); a
run goes on where one of them takes three (``daemon/inside.py``). For tests of what is found in
time, and not of how long that may take. Run as a program this becomes agentwall, whose command line
follows its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

START_S = 8.0
"""Less than whoever asks by a hook waits for the answer."""
HELLO_S = 40.0
"""Less than tests wait for what is told of a session."""
SETTLED_S = 120.0


def patient() -> list[str]:
    """Return the words that go before the command line of ``python -m agentwall``."""
    # Not with what lies beside this file before what is installed.
    return [sys.executable, "-P", str(Path(__file__))]


def _main() -> int:
    from agentwall.cli.main import main
    from agentwall.daemon import inside, looks, preparations, speakers

    preparations.WAIT_S = looks.HANGS_S = START_S
    speakers.WAIT_S = HELLO_S
    inside._PATIENCE_S = inside._SETTLED_S = SETTLED_S
    _interpreter, _option, _module, *words = sys.argv[1:]
    return main(words)


if __name__ == "__main__":
    sys.exit(_main())
