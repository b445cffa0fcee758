# SPDX-License-Identifier: Apache-2.0
"""Which files are TLS libraries, by name and by what they export, and what is probed of them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig.tree import ROOT

from agentwall.flow.tls import TlsLibrary
from agentwall.probes.libraries import (
    CALLS,
    PROGRAMS,
    WANTED,
    library_of,
    may_be_library,
    places_of,
)

SYMBOLS = st.sampled_from(sorted(WANTED))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/usr/lib/x86_64-linux-gnu/libssl.so.3", True),
        (b"/opt/venv/x.libs/libssl-1a2b3c.so.1.1", True),
        (b"/usr/lib/libssl3.so", True),
        (b"/usr/lib/libnspr4.so", True),
        (b"/usr/lib/libgnutls.so.30", True),
        (b"/usr/bin/node", True),
        (b"libssl.so", True),
        (b"/usr/lib/libcrypto.so.3", False),
        (b"/libssl/libc.so.6", False),
        (b"/usr/lib/mylibssl.so", False),
        (b"", False),
        (b"/", False),
    ],
)
def test_names(path, expected):
    """A name counts by how its last part begins."""
    assert may_be_library(path) is expected


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [
        ({"SSL_write", "SSL_read"}, TlsLibrary.OPENSSL),
        ({"SSL_write"}, None),
        ({"gnutls_record_send", "gnutls_record_recv", "gnutls_handshake"}, TlsLibrary.GNUTLS),
        ({"gnutls_record_send"}, None),
        ({"SSL_ImportFD"}, TlsLibrary.NSS),
        ({"PR_Write", "PR_Read"}, TlsLibrary.NSS),
        ({"PR_Write"}, None),
        # What wraps one library in the names of another is the one whose calls it has.
        ({"SSL_write", "SSL_read", "gnutls_record_send"}, TlsLibrary.OPENSSL),
        (set(), None),
    ],
)
def test_what_a_file_exports(symbols, expected):
    """A file is a library if it has the calls without which nothing could be read."""
    assert library_of(frozenset(symbols)) is expected


@given(st.sampled_from(list(TlsLibrary)), st.dictionaries(SYMBOLS, st.integers(0, 3)))
def test_places(library, offsets):
    """No program is at a place twice, each is where the file says, and returns come first."""
    places = list(places_of(library, offsets))
    returns = [is_return for *_, is_return in places]

    assert len({(offset, program) for _, offset, program, _ in places}) == len(places)
    assert all(offsets[symbol] == offset for symbol, offset, _, _ in places)
    assert returns == sorted(returns, reverse=True)
    assert {symbol for symbol, *_ in places} <= {each.symbol for each in CALLS[library]}


@given(st.sampled_from(list(TlsLibrary)))
def test_every_call_has_its_place(library):
    """Where all calls lie apart, each program of each call has one."""
    offsets = {each.symbol: 16 * number for number, each in enumerate(CALLS[library])}
    wanted = sum((each.entry is not None) + (each.back is not None) for each in CALLS[library])

    assert len(list(places_of(library, offsets))) == wanted


def test_programs_are_those_of_the_source():
    """Every program that is named is in bpf/probes/, and none is there that is not."""
    text = "".join(each.read_text() for each in sorted((ROOT / "bpf" / "probes").glob("tls*.[ch]")))
    defined = set(re.findall(r"^int (aw_\w+)\(struct pt_regs \*", text, re.MULTILINE))

    assert set(PROGRAMS) == defined
