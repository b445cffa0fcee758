# SPDX-License-Identifier: Apache-2.0
"""Names and masks of capabilities."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentwall.errors import HostError
from agentwall.host.capabilities import DROPPED, mask, names, number, parse_capability

HEADER = Path("/usr/include/linux/capability.h")


@pytest.mark.skipif(not HEADER.exists(), reason=f"{HEADER} is not installed")
def test_numbers_are_the_kernels():
    """Every capability of the kernel's header has its number here."""
    defined = re.findall(r"^#define CAP_(\w+)\s+(\d+)$", HEADER.read_text(), re.MULTILINE)

    assert defined
    assert {name: number(name) for name, _ in defined} == {n: int(i) for n, i in defined}


@pytest.mark.parametrize("text", ["NET_RAW", "net_raw", "CAP_NET_RAW", "cap_net_raw"])
def test_parse(text):
    """A name may be written with or without CAP_, in either case."""
    assert parse_capability(text) == "NET_RAW"


@pytest.mark.parametrize("text", ["CHOWN", "NET_RAWW", "", "13"])
def test_parse_other(text):
    """A capability that is not dropped cannot be kept, and says which can."""
    with pytest.raises(HostError, match="NET_RAW"):
        parse_capability(text)


def test_dropped():
    """What leads around the wall is among the dropped."""
    required = "NET_RAW NET_ADMIN BPF PERFMON SYS_ADMIN SYS_PTRACE SYS_MODULE"

    assert set(required.split()) <= DROPPED


def test_mask_and_back():
    """A mask names what it was made of, each once."""
    assert mask(["NET_RAW", "BPF", "BPF"]) == 1 << 13 | 1 << 39
    assert names(1 << 13 | 1 << 39) == ("NET_RAW", "BPF")
