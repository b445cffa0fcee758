# SPDX-License-Identifier: Apache-2.0
"""When a run answers refused DNS questions, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from rig.lab import NEAR4, NEAR_DEVICE, Lab, lab
from rig.lending import lent_wall
from rig.namespace import in_netns
from rig.refusal import skip_without_tcx

from agentwall.daemon.belt import put_on, with_belt
from agentwall.daemon.enclosure import Enclosure
from agentwall.daemon.plan import RunRequest, new_run_id, plan_enclosure
from agentwall.flow.verdict import Mode
from agentwall.kernel import pins
from agentwall.kernel.belt import PIN_PREFIX, interfaces
from agentwall.kernel.maps import SandboxSettings

pytestmark = pytest.mark.kernel

SERVER = "198.51.100.53"


def policy_text(server: str = SERVER) -> str:
    """A policy that permits one name, asked for at *server*."""
    return f'version: 1\ndns: {{servers: ["{server}"]}}\nallow: [{{host: ok.example}}]\n'


@pytest.fixture
def near() -> Iterator[Lab]:
    """A lab in whose near side the test runs."""
    with lab() as made, in_netns(made.near.name):
        yield made


@pytest.fixture
def settings_of(make_request, tmp_path) -> Callable[..., SandboxSettings]:
    """A function that returns the settings of a run under a policy's text."""

    def settings(policy: str, **changes: object) -> SandboxSettings:
        request = make_request(policy=policy, **changes)
        return plan_enclosure(new_run_id(), request, tmp_path / "events.jsonl").settings

    return settings


def names_of(indexes: list[int]) -> set[str]:
    """The names of interfaces of this network namespace."""
    return {each.name for each in interfaces() if each.ifindex in indexes}


def test_in_a_namespace_of_its_own(near, settings_of):
    """A policy with DNS servers has a belt, unless it only looks on or the command may undo it."""
    plain = settings_of(policy_text())

    assert plain.belt
    assert not settings_of("version: 1\n").belt
    assert not settings_of(policy_text(), mode=Mode.AUDIT).belt
    assert not settings_of(policy_text(), mode=Mode.OBSERVE).belt
    assert not settings_of(policy_text(), kept_capabilities=("NET_ADMIN",)).belt
    assert not with_belt(plain, ("SYS_PTRACE", "SYS_ADMIN")).belt
    assert settings_of(policy_text(), kept_capabilities=("SYS_PTRACE",)).belt


def test_in_the_hosts_namespace(settings_of):
    """Programs are never put at the host's interfaces."""
    assert not settings_of(policy_text()).belt


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (SERVER, {NEAR_DEVICE}),
        ("127.0.0.53", {NEAR_DEVICE, "lo"}),
        ("::1", {NEAR_DEVICE, "lo"}),
        (NEAR4, {NEAR_DEVICE, "lo"}),
    ],
)
def test_where_it_stands(near, settings_of, server, expected):
    """At every interface but lo, and there too if a server is reached through it."""
    skip_without_tcx()
    with lent_wall() as wall, closing(put_on(wall, settings_of(policy_text(server)))) as belt:
        assert names_of(belt.standing()) == expected


def test_without_belt(near, settings_of):
    """Settings without a belt have it nowhere."""
    settings = settings_of(policy_text(), kept_capabilities=("NET_ADMIN",))
    with lent_wall() as wall, closing(put_on(wall, settings)) as belt:
        assert belt.standing() == []


def test_enclosure(
    near,
    make_request: Callable[..., RunRequest],
    make_enclosure: Callable[[RunRequest], Enclosure],
):
    """The belt is pinned with the wall, looked after, and gone with it."""
    skip_without_tcx()
    near.near.ip("link", "add", "other0", "type", "veth", "peer", "name", "other1")
    made = make_enclosure(make_request(policy=policy_text()))
    pin_dir = pins.BPFFS / made.cgroup.path.rsplit("agentwall-", 1)[-1]

    def pinned() -> list[str]:
        return [path.name for path in (pin_dir / pins.LINKS).glob(f"{PIN_PREFIX}*")]

    listed = made.wall.maps()["aw_belts"]

    assert (len(pinned()), len(listed.entries())) == (3, 3)
    near.near.ip("link", "del", "other0")
    assert made.damage() is None
    assert (len(pinned()), len(listed.entries())) == (1, 1)
    made.remove()
    assert not pin_dir.exists()
