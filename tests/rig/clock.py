# SPDX-License-Identifier: Apache-2.0
"""Set the wall clock for one process and its children, and for nobody else."""

from __future__ import annotations

import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

_SOURCE = Path(__file__).with_name("clock_shift.c")


@dataclass(slots=True)
class ShiftedClock:
    """A wall clock that differs from the machine's by what was set last."""

    environment: dict[str, str]
    """For the processes that are to have it."""
    _file: Path

    def set(self, shift_s: float) -> None:
        """Let it be ahead of the machine's clock by *shift_s*, or behind, from now on."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", int(shift_s * 1e9)))


def shifted_clock(directory: Path) -> ShiftedClock:
    """Build a clock in *directory*, which exists; it is not shifted yet."""
    library, file = directory / "clock_shift.so", directory / "clock-shift"
    file.write_bytes(bytes(8))
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return ShiftedClock({"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(file)}, file)
