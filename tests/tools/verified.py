# SPDX-License-Identifier: Apache-2.0
"""Prints how many instructions this kernel's verifier looked at, program by program.

Run as root from the tree, here or by ``vmtest.sh 6.1 -- .venv/bin/python tests/tools/verified.py``.
The limit is 1 000 000. Kernels say it since Linux commit aba64c7da983 ("bpf: Add verified_insns to
bpf_prog_info and fdinfo") (in v5.16).
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from agentwall.kernel.objects import BpfObject  # noqa: E402 - of this tree


def main() -> None:
    """Load the built object, and nothing else, and print a line for each program."""
    with BpfObject.open(ROOT / "agentwall/_bpf/agentwall.bpf.o") as made:
        made.load()
        for program in made.programs():
            facts = Path(f"/proc/self/fdinfo/{program.fd}").read_text()
            count = facts.partition("verified_insns:")[2].split() or ["not told by this kernel"]
            print(f"{program.name:16} {count[0]:>8}")


if __name__ == "__main__":
    main()
