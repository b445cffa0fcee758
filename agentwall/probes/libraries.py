# SPDX-License-Identifier: Apache-2.0
"""Which calls of which TLS libraries are probed, and by which program of ``bpf/probes/tls.c``.

OpenSSL: SSL_write(3), SSL_read(3), SSL_do_handshake(3) of 1.1.1 and 3. GnuTLS:
gnutls_record_send(3) and its siblings. NSS: PR_Write and its siblings of NSPR, on descriptors that
SSL_ImportFD returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agentwall.flow.tls import TlsLibrary


@dataclass(frozen=True, slots=True)
class Call:
    """One exported function."""

    symbol: str
    entry: str | None
    """The program at its first instruction."""
    back: str | None = None
    """The program where it returns."""


CALLS: dict[TlsLibrary, tuple[Call, ...]] = {
    TlsLibrary.OPENSSL: (
        Call("SSL_write", "aw_say"),
        Call("SSL_write_ex", "aw_say_ex"),
        Call("SSL_write_ex2", "aw_say_ex"),
        Call("SSL_write_early_data", "aw_say_ex"),
        Call("SSL_read", "aw_hear", "aw_hear_back"),
        Call("SSL_read_ex", "aw_hear_ex", "aw_hear_ex_back"),
        Call("SSL_do_handshake", "aw_shake"),
        Call("SSL_connect", "aw_shake"),
        Call("SSL_accept", "aw_shake"),
        Call("SSL_free", "aw_end"),
    ),
    TlsLibrary.GNUTLS: (
        Call("gnutls_record_send", "aw_gnutls_say"),
        Call("gnutls_record_send2", "aw_gnutls_say"),
        Call("gnutls_record_send_early_data", "aw_gnutls_say"),
        Call("gnutls_record_send_range", "aw_gnutls_say"),
        Call("gnutls_record_recv", "aw_gnutls_hear", "aw_gnutls_hear_back"),
        Call("gnutls_record_recv_seq", "aw_gnutls_hear", "aw_gnutls_hear_back"),
        Call("gnutls_handshake", "aw_gnutls_shake"),
        Call("gnutls_deinit", "aw_gnutls_end"),
    ),
    # libnspr4: only what SSL_ImportFD of libssl3 has made a TLS descriptor is read.
    TlsLibrary.NSS: (
        Call("SSL_ImportFD", None, "aw_nss_begin_back"),
        Call("PR_Write", "aw_nss_say"),
        Call("PR_Send", "aw_nss_say"),
        Call("PR_Read", "aw_nss_hear", "aw_nss_hear_back"),
        Call("PR_Recv", "aw_nss_hear", "aw_nss_hear_back"),
        Call("PR_Close", "aw_nss_end"),
    ),
}
"""What is probed where it is exported. NSS lies in two files, each with some of the calls."""

NEEDED: dict[TlsLibrary, tuple[tuple[frozenset[str], ...], ...]] = {
    # What is built into other programs may export one of the two ways alone.
    TlsLibrary.OPENSSL: (
        (frozenset({"SSL_write", "SSL_write_ex"}), frozenset({"SSL_read", "SSL_read_ex"})),
    ),
    TlsLibrary.GNUTLS: ((frozenset({"gnutls_record_send"}), frozenset({"gnutls_record_recv"})),),
    TlsLibrary.NSS: (
        (frozenset({"SSL_ImportFD"}),),
        (frozenset({"PR_Write"}), frozenset({"PR_Read"})),
    ),
}
"""What makes a file a library: of one of these lists, something out of each set."""

PROGRAMS: tuple[str, ...] = tuple(
    dict.fromkeys(
        name
        for calls in CALLS.values()
        for call in calls
        for name in (call.entry, call.back)
        if name is not None
    )
)
"""Every program of ``bpf/probes/tls.c``, in the order in which they are handed over."""

NAMES: dict[TlsLibrary, tuple[str, ...]] = {
    TlsLibrary.OPENSSL: ("libssl", "node"),
    TlsLibrary.GNUTLS: ("libgnutls",),
    TlsLibrary.NSS: ("libssl3", "libnspr4"),
}
"""How file names begin that are worth opening; which library it is, its symbols say. ``libssl3.so``
is NSS, ``libssl.so.3`` and ``libssl-1a2b3c.so.1.1`` (in Python wheels) are OpenSSL. ``node`` mostly
has OpenSSL in it, and exports it for its add-ons."""


_STARTS = tuple(name for names in NAMES.values() for name in names)
_RAW_STARTS = tuple(name.encode() for name in _STARTS)


def may_be_library(path: bytes) -> bool:
    """Say whether a mapped file's name is that of a TLS library."""
    return path.rpartition(b"/")[2].startswith(_RAW_STARTS)


def is_name_of_library(name: str) -> bool:
    """Say the same of a file's name without its directory, of which one may have thousands."""
    return name.startswith(_STARTS)


def library_of(symbols: frozenset[str]) -> TlsLibrary | None:
    """Return which library exports *symbols*; None: none that is known."""
    for library, alternatives in NEEDED.items():
        if any(all(each & symbols for each in needed) for needed in alternatives):
            return library
    return None


def places_of(
    library: TlsLibrary, offsets: Mapping[str, int]
) -> Iterator[tuple[str, int, str, bool]]:
    """Yield symbol, offset, program and whether it is the return, each place and program once.

    Returns come first: a call whose entry was seen is then always seen to return.

    Args:
        library: Whose calls.
        offsets: Where in a file its functions begin, by symbol.
    """
    seen = set()
    for is_return in (True, False):
        for call in CALLS[library]:
            program = call.back if is_return else call.entry
            offset = offsets.get(call.symbol)
            if program is None or offset is None or (offset, program) in seen:
                continue
            seen.add((offset, program))
            yield call.symbol, offset, program, is_return


WANTED: frozenset[str] = frozenset(call.symbol for calls in CALLS.values() for call in calls)
"""Symbols that are looked for in a file."""
