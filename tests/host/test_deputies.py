# SPDX-License-Identifier: Apache-2.0
"""Which sockets are left out, and which are kept on request."""

from __future__ import annotations

import os
import socket
from pathlib import Path, PurePath

import pytest

from agentwall.errors import HostError
from agentwall.host.deputies import (
    DEPUTIES,
    Deputy,
    deputies_for,
    is_of,
    kept_deputies,
    present,
    veils_without,
)

NSCD = DEPUTIES[0]


@pytest.mark.parametrize("deputy", deputies_for(1000), ids=lambda deputy: deputy.name)
def test_table(deputy):
    """Each mask lies below its base and is the socket or above it."""
    assert PurePath(deputy.mask).is_relative_to(deputy.base)
    assert deputy.mask != deputy.base
    assert PurePath(deputy.socket).is_relative_to(deputy.mask)


@pytest.mark.parametrize(
    "path",
    [
        "/run/nscd/socket",
        "/run/systemd/resolve/io.systemd.Resolve",
        "/run/dbus/system_bus_socket",
        "/run/systemd/private",
        "/run/avahi-daemon/socket",
        "/var/lib/sss/pipes/private/pam",
        "/run/user/1000/bus",
        "/run/user/1000/systemd/private",
    ],
)
def test_known_roads(path):
    """The sockets by which names resolve or programs start outside are among them."""
    assert any(is_of(path, deputy) for deputy in deputies_for(1000))


@pytest.mark.parametrize(
    "path",
    [
        "/run/systemd/resolve/stub-resolv.conf",
        "/run/systemd/resolve/resolv.conf",
        "/run/docker.sock",
        "/run/user/1000",
        "/run/user/1001/bus",
    ],
)
def test_others(path):
    """What a resolver reads, and what is no deputy's, is not left out."""
    assert not any(is_of(path, deputy) for deputy in deputies_for(1000))


def test_veils():
    """There is one veil for each base, and what is kept is not among what is absent."""
    kept = kept_deputies(DEPUTIES, ["/run/dbus/system_bus_socket"])

    veils = veils_without(deputy for deputy in DEPUTIES if deputy not in kept)

    assert [str(veil.directory) for veil in veils] == ["/run", "/var/lib/sss"]
    assert ("nscd",) in veils[0].absent
    assert ("systemd", "resolve", "io.systemd.Resolve") in veils[0].absent
    assert ("dbus",) not in veils[0].absent
    assert veils[1].absent == {("pipes",)}


@pytest.mark.parametrize("path", ["/run/nscd/socket", "/run/nscd", "/run/nscd/../nscd/socket"])
def test_kept(path):
    """A deputy is kept by its socket or by what is left out, once however often it is asked."""
    assert kept_deputies(DEPUTIES, [path, path]) == (NSCD,)


@pytest.mark.skipif(os.path.realpath("/var/run") != "/run", reason="/var/run is not /run")
def test_kept_by_link():
    """The path that glibc uses, by way of a link, names the same."""
    assert kept_deputies(DEPUTIES, ["/var/run/nscd/socket"]) == (NSCD,)


@pytest.mark.parametrize("path", ["/run/docker.sock", "/run", "/", "nscd", "/run/nscdx"])
def test_not_masked(path):
    """To keep what is not masked is an error that says what is."""
    with pytest.raises(HostError, match=r"expected one that is masked: .*/run/nscd/socket"):
        kept_deputies(DEPUTIES, [path])


def test_present(tmp_path):
    """A deputy is present where its socket is, and a plain file is none."""
    paths = [tmp_path / name for name in ("socket", "file", "none")]
    paths[1].touch()
    deputies = [deputy_at(path) for path in paths]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(paths[0]))

        assert present(deputies) == (deputies[0],)


def deputy_at(path: Path) -> Deputy:
    return Deputy(name="x", socket=str(path), mask=str(path), base=str(path.parent))
