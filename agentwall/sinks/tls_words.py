# SPDX-License-Identifier: Apache-2.0
"""Coverage inside TLS in words: which library is read, and why the text of a process is not.

One place for status, ``sandbox show``, audit and the console, so that they say the same.
"""

from __future__ import annotations

from agentwall.flow.tls import TlsLibrary, Unread

_LIBRARIES = {
    TlsLibrary.OPENSSL: "OpenSSL",
    TlsLibrary.GNUTLS: "GnuTLS",
    TlsLibrary.NSS: "NSS",
}

_UNREAD = {
    Unread.STATIC: "static binary: its TLS has no names to probe",
    Unread.GO: "Go binary: it has a TLS of its own",
    Unread.RUST: "Rust binary without a known TLS library: rustls or the like",
    Unread.JAVA: "Java: it has a TLS of its own",
    Unread.OWN_TLS: "no known TLS library mapped: it has a TLS of its own, or none",
    Unread.LATE: "its session began before its library was probed, or by no call that is",
    Unread.LIMIT: "its library is not probed: as many are as may be (tls.max_libraries)",
    Unread.UNREADABLE: "its library could not be opened or understood",
    Unread.GONE: "the process had ended when it was looked at",
    Unread.OFF: "probes were not in force then",
    Unread.POLICY: "the rule that permits the flow says not to (inspect)",
}


def words_of(unread: Unread) -> str:
    """Return why a process is not read, for people: no full stop, no text of a sandbox in it."""
    return _UNREAD[unread]


def name_of(library: TlsLibrary) -> str:
    """Return a library's name as its makers spell it."""
    return _LIBRARIES[library]
