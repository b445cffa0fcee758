# SPDX-License-Identifier: Apache-2.0
"""What the programs counted comes out under the names it was counted under."""

from __future__ import annotations

import ctypes
from dataclasses import asdict

from agentwall.kernel import abi
from agentwall.kernel.counters import unpack_counters


def test_each_counter_is_its_own():
    """Every counter has a name of its own here, but for what is the programs' own affair."""
    names = [name for name, *_ in abi.Counters._fields_ if not name.startswith("_")]
    raw = abi.Counters(**{name: 100 + at for at, name in enumerate(names)})
    counted = asdict(unpack_counters(bytes(raw)))

    own_affair = {"bound", "window", "events", "hello_window", "hellos"}

    assert counted == {name: 100 + at for at, name in enumerate(names) if name not in own_affair}


def test_nothing_counted():
    """A sandbox that has just been bound has zeros."""
    counted = unpack_counters(bytes(ctypes.sizeof(abi.Counters)))

    assert set(asdict(counted).values()) == {0}
