# SPDX-License-Identifier: Apache-2.0
"""Coverage inside TLS in words."""

from __future__ import annotations

import pytest

from agentwall.flow.tls import TlsLibrary, Unread
from agentwall.sinks.tls_words import name_of, words_of


@pytest.mark.parametrize("unread", Unread)
def test_each_reason_has_words_of_its_own(unread: Unread) -> None:
    """No reason lacks words, and no two are told alike: which one it is decides what helps."""
    words = words_of(unread)

    assert words
    assert not words.endswith(".")
    assert [each for each in Unread if words_of(each) == words] == [unread]


def test_a_static_binary_is_said_to_have_nothing_to_probe() -> None:
    """What cannot be helped by a setting is said as such."""
    assert words_of(Unread.STATIC) == "static binary: its TLS has no names to probe"


def test_libraries_are_spelled_as_their_makers_do() -> None:
    """Every library has a name."""
    assert [name_of(each) for each in TlsLibrary] == ["OpenSSL", "GnuTLS", "NSS"]
