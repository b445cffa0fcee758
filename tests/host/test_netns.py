# SPDX-License-Identifier: Apache-2.0
"""The network namespace's identity, and which addresses are this host's own."""

from __future__ import annotations

import errno
import os
import socket
from ipaddress import ip_address

import pytest
from rig.namespace import temp_netns
from rig.process import wait_until

from agentwall.errors import UnsupportedFeatureError
from agentwall.host.netns import answers_through_lo, netns_cookie, netns_id


def test_cookie_is_stable():
    """The same namespace has the same cookie, and it is not 0."""
    assert netns_cookie() == netns_cookie() != 0


@pytest.mark.kernel
def test_another_namespace_has_another_cookie():
    """Each namespace has its own."""
    with temp_netns("one") as first, temp_netns("other") as second:
        cookies = {found.call(netns_cookie) for found in (first, second)}

    assert len(cookies | {netns_cookie()}) == 3


def test_a_kernel_without_cookies(monkeypatch):
    """What would be needed is said, and for what."""

    class Old(socket.socket):
        def getsockopt(self, *_):
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")

    monkeypatch.setattr(socket, "socket", Old)
    with pytest.raises(UnsupportedFeatureError, match=r"Linux 5.14 or later.*dns key") as caught:
        netns_cookie()

    assert caught.value.errno == errno.ENOPROTOOPT


@pytest.mark.kernel
def test_servers_of_this_host():
    """Only an address of this host's own that is not on loopback answers through lo."""
    with temp_netns("own") as found:
        found.ip("address", "add", "192.0.2.53/32", "dev", "lo")
        own, foreign, loopback = map(ip_address, ("192.0.2.53", "192.0.2.54", "127.0.0.53"))

        assert found.call(lambda: answers_through_lo([foreign, loopback])) is False
        assert found.call(lambda: answers_through_lo([foreign, own])) is True


def test_no_servers():
    """Without servers there is nobody to answer."""
    assert answers_through_lo([]) is False


@pytest.mark.kernel
def test_who_shares_the_namespace():
    """Processes of one namespace have the same id, others another; one that is gone has none."""
    with temp_netns("apart") as found, found.process("sleep", "60") as child:
        wait_until(lambda: netns_id(child.pid) != netns_id("self"), what="nsenter")
        assert netns_id(os.getpid()) == netns_id("self") is not None

    assert netns_id(child.pid) is None
    assert netns_id(0) is None
