# SPDX-License-Identifier: Apache-2.0
"""Entries are probed where the kernel carries the instruction out itself, and nothing is lost."""

from __future__ import annotations

import os
import platform

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwall.flow.tls import TlsLibrary
from agentwall.probes.libraries import places_of
from agentwall.probes.prologue import LONGEST, cheapest, cheapest_places

ENDBR, GUARD = "f30f1efa", "64488b042528000000 4889442408"
CASES = {
    "push": ("53 4883ec30", 0),
    "endbr64, push": (f"{ENDBR} 55", 4),
    "endbr64, push %r12": (f"{ENDBR} 4154", 4),
    "Debian's SSL_write": (f"4883ec18 {GUARD} 31c0 85d2 782f", 22),
    "Debian's SSL_write_ex": ("4883ec08 e887fbffff", 4),
    "Debian's SSL_connect": ("48837f3000 7409", 5),
    "Debian's SSL_free": ("4885ff 0f8497030000", 3),
    "Debian's gnutls_record_send": ("4531c0 31c9 e989000000", 5),
    "a large frame": ("4881ec00100000 e800000000", 7),
    "another argument is written": ("4883ec18 31d2 782f", 0),
    "the connection is loaded": ("4883ec18 488b3f 53", 0),
    "memory is compared": ("4885 38 53", 0),
    "a prefixed jump": (f"{ENDBR} 66e90000", 0),
    "it returns": ("4883ec18 c3", 0),
    "cut off": ("4883ec", 0),
    "nothing": ("", 0),
}


@pytest.mark.parametrize(("code", "wanted"), CASES.values(), ids=CASES)
def test_cheapest(code, wanted):
    """Instructions are passed that are known to leave arguments alone, as far as one that helps."""
    assert cheapest(bytes.fromhex(code)) == wanted


@settings(deadline=None)
@given(st.binary(max_size=2 * LONGEST))
def test_any_code(code):
    """Whatever the octets are, the place is the beginning, or within what is looked at."""
    assert 0 <= cheapest(code) < LONGEST


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere entries stay where they are")
def test_returns_keep_their_entry(tmp_path):
    """Only entries move, and none of a function that is probed where it returns."""
    path = tmp_path / "library"
    path.write_bytes(bytes.fromhex("4883ec08e887fbffff").ljust(16, b"\x90") * 2)
    fd = os.open(path, os.O_RDONLY)
    try:
        places = list(cheapest_places(fd, TlsLibrary.OPENSSL, {"SSL_write": 0, "SSL_read": 16}))
    finally:
        os.close(fd)

    assert places == [
        ("SSL_read", 16, "aw_hear_back", True),
        ("SSL_write", 4, "aw_say", False),
        ("SSL_read", 16, "aw_hear", False),
    ]


READ_EX = bytes.fromhex("4883ec08 e8f7010000").ljust(256, b"\x90")
"""Calls what is 512 octets behind its beginning."""
READ = bytes.fromhex(f"4883ec18 {GUARD} 31c0 85d2 782f e8e3000000").ljust(256, b"\x90")
"""Calls what is 256 octets behind its beginning."""
OFFSETS = {"SSL_read_ex": 0, "SSL_read": 256}
INNER = {
    "both call it": (READ_EX + READ + b"\x41\x56", True),
    "SSL_read calls another": (READ_EX + READ.replace(b"\xe3", b"\xe4") + b"\x41\x56", False),
    "SSL_read_ex moves its arguments": (b"\x48\x89\xf7" + READ_EX[3:] + READ + b"\x56", False),
    "it would be stepped through": (READ_EX + READ + b"\x48\x83\xec\x08", False),
    "it is not in the file": (READ_EX + READ, False),
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere entries stay where they are")
@pytest.mark.parametrize(("code", "wanted"), INNER.values(), ids=INNER)
def test_reads_come_together(tmp_path, code, wanted):
    """Where it is sure which function both reads of OpenSSL call, that one is probed instead."""
    places = in_file(tmp_path / "library", code)
    moved = [
        ("SSL_read_ex", 512, "aw_hear_ex_back", True),
        ("SSL_read_ex", 512, "aw_hear_ex", False),
    ]

    assert places == (moved if wanted else list(places_of(TlsLibrary.OPENSSL, OFFSETS)))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere entries stay where they are")
def test_writes_come_together(tmp_path):
    """The one function that both writes call is probed, where in it that costs least."""
    path = tmp_path / "library"
    path.write_bytes(READ_EX + READ + bytes.fromhex(f"{ENDBR} 4157"))
    fd = os.open(path, os.O_RDONLY)
    try:
        offsets = {"SSL_write_ex": 0, "SSL_write": 256}
        places = list(cheapest_places(fd, TlsLibrary.OPENSSL, offsets))
    finally:
        os.close(fd)

    assert places == [("SSL_write_ex", 516, "aw_say_ex", False)]


@settings(deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_reads(tmp_path_factory, extended, outer):
    """Whatever a file says, each call is probed, or both reads at one place."""
    path = tmp_path_factory.mktemp("any") / "library"
    places = in_file(path, extended.ljust(256, b"\x90") + outer)

    assert len(places) in (2, 4)
    assert {program for _, _, program, _ in places} >= {"aw_hear_ex", "aw_hear_ex_back"}


def in_file(path, code):
    """Return the places of OpenSSL's reads in a file that is *code*."""
    path.write_bytes(code)
    fd = os.open(path, os.O_RDONLY)
    try:
        return list(cheapest_places(fd, TlsLibrary.OPENSSL, OFFSETS))
    finally:
        os.close(fd)
