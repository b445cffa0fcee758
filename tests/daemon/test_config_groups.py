# SPDX-License-Identifier: Apache-2.0
"""The groups of the configuration, as this host knows them."""

from __future__ import annotations

import grp

import pytest

from agentwall.daemon.config import Config, ControlSettings, LogSettings
from agentwall.daemon.config_groups import Groups, resolve_groups
from agentwall.errors import HostError


def config(log: str | None, readers: str | None, operators: str | None, *files: str) -> Config:
    control = ControlSettings(readers=readers, operators=operators)
    return Config(log=LogSettings(group=log), control=control, files=files)


def test_known_groups():
    """Groups of this host become numbers; what is not named stays unset."""
    first, last = grp.getgrall()[0], grp.getgrall()[-1]
    found = resolve_groups(config(first.gr_name, None, last.gr_name))

    assert found == Groups(log=first.gr_gid, readers=None, operators=last.gr_gid)
    assert resolve_groups(Config()) == Groups()


def test_unknown_groups():
    """Every group that is not there is named, with its key and the file."""
    with pytest.raises(HostError) as caught:
        resolve_groups(config("no-such-a", "root", "no-such-b", "/etc/agentwall/agentwall.yaml"))

    assert str(caught.value).splitlines() == [
        "/etc/agentwall/agentwall.yaml: log.group: expected a group of this host, got 'no-such-a'",
        "/etc/agentwall/agentwall.yaml: control.operators: expected a group of this host, got "
        "'no-such-b'",
    ]
