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

from agentwall.errors import HostError, UnsupportedFeatureError
from agentwall.host.netns import (
    answers_through_lo,
    answers_through_lo_of,
    has_own_netns_of,
    in_netns_of,
    netns_cookie,
    netns_cookie_of,
    netns_id,
)


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


@pytest.fixture
def elsewhere():
    """A process in a namespace of its own that has the address 192.0.2.53."""
    with temp_netns("of") as found, found.process("sleep", "60") as process:
        found.ip("address", "add", "192.0.2.53/32", "dev", "lo")
        home = netns_id("self")
        wait_until(lambda: netns_id(process.pid) not in (None, home), what="a namespace")
        yield found, process.pid


@pytest.mark.kernel
def test_of_another_process(elsewhere):
    """The cookie and the addresses are those of its namespace, and the caller stays where it is."""
    namespace, pid = elsewhere
    own, foreign, loopback = map(ip_address, ("192.0.2.53", "192.0.2.54", "127.0.0.53"))
    home = netns_id("self")

    assert netns_cookie_of(pid) == namespace.call(netns_cookie) != netns_cookie()
    assert answers_through_lo_of(pid, [foreign, own]) is True
    assert answers_through_lo_of(pid, [foreign, loopback]) is False
    assert netns_id("self") == home


@pytest.mark.kernel
def test_whose_namespace(elsewhere):
    """One that is not the host's is its own; of a process that is gone nothing is known."""
    _, pid = elsewhere

    assert has_own_netns_of(pid) is True
    assert has_own_netns_of(os.getpid()) is False
    assert has_own_netns_of(2**22 + 1) is False


@pytest.mark.kernel
def test_no_such_process():
    """The error names the process, and a thread that could not enter leaves nothing behind."""
    with pytest.raises(HostError, match=r"network namespace of process 4194305: No such file"):
        netns_cookie_of(2**22 + 1)


@pytest.mark.kernel
def test_errors_come_back(elsewhere):
    """What the function raises there reaches the caller as it is."""
    _, pid = elsewhere

    with pytest.raises(ZeroDivisionError):
        in_netns_of(pid, lambda: 1 // 0)
