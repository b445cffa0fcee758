# SPDX-License-Identifier: Apache-2.0
"""Run the command line as ``python -m agentwall``."""

from __future__ import annotations

import sys

from agentwall.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
