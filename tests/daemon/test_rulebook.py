# SPDX-License-Identifier: Apache-2.0
"""Rules as the kernel holds them: shared, written once, rolled back whole, and taken out again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rig.cgroup import temp_cgroup
from rig.keeping import make_edition, member_at, owned, spelled

from agentwall.daemon.members import Override, Place
from agentwall.daemon.rulebook import Rulebook, mode_of, settings_for
from agentwall.errors import KernelError
from agentwall.flow.verdict import Mode
from agentwall.kernel.wall import Wall
from agentwall.policy.model import LoopbackScope

pytestmark = pytest.mark.kernel

ALLOW = "allow: [{cidr: 192.0.2.0/24, ports: [443]}]\n"
MANY = (
    "allow: ["
    + ", ".join(f"{{cidr: 10.{n >> 8}.{n & 255}.0/24, ports: [1]}}" for n in range(600))
    + "]\n"
)
MINING = "detect: {mining: block}\n"


@pytest.fixture(scope="module")
def directory():
    """A cgroup of the test's own, within its scope."""
    with temp_cgroup("scope") as scope:
        (scope / "one").mkdir()
        yield scope / "one"


@pytest.fixture
def make(tmp_path, directory):
    """A function that returns an edition of some policies."""
    return lambda **policies: make_edition(tmp_path, policies, owned(spelled(directory.parent)))


@pytest.fixture
def wall(small_wall):
    """A wall with room for few prefixes."""
    with small_wall.clean():
        yield small_wall.wall


@pytest.fixture
def rules(wall, small_wall):
    """A rulebook of it."""
    return Rulebook(wall, small_wall.records)


def held(wall: Wall) -> int:
    """How many entries of rules the kernel holds."""
    return len(list(wall.maps()["aw_rules"].entries()))


def bodies(edition, *names: str):
    """The bodies of these policies."""
    return [edition.initial(name) for name in names]


def test_a_body_is_written_once(rules, wall, make):
    """When the first sandbox needs it, and not for the next; what nobody needs is not written."""
    edition = make(a=ALLOW, b=ALLOW)
    rules.install(edition, ())
    before = held(wall)
    first = rules.issue(edition.initial("a"))
    written = held(wall)
    second = rules.issue(edition.initial("a"))

    assert (before, written, held(wall)) == (0, written, written)
    assert written > 0
    assert first is second


def test_what_says_the_same_keeps_its_number(rules, wall, make):
    """Another edition in which a policy is as it was: nobody who has it is switched."""
    old = make(a=ALLOW, b=ALLOW)
    rules.install(old, bodies(old, "a", "b"))
    kept, changed = (rules.issue(each).generation for each in bodies(old, "a", "b"))
    new = make(a=ALLOW, b=ALLOW.replace("443", "444"))
    rules.install(new, bodies(new, "a", "b"))
    again, other = (rules.issue(each).generation for each in bodies(new, "a", "b"))

    assert again == kept
    assert other not in (kept, changed)


def test_what_is_over_is_taken_out(rules, wall, make):
    """After the switch, and never before; a generation that somebody has left stays."""
    old, new = make(a=ALLOW), make(a=ALLOW.replace("443", "444"))
    rules.install(old, bodies(old, "a"))
    first = rules.issue(old.initial("a")).generation
    one = held(wall)
    rules.install(new, bodies(new, "a"))
    both = held(wall)
    rules.sweep({first})
    kept = held(wall)
    rules.sweep(())

    assert both == kept == 2 * one
    assert held(wall) == one


def test_no_room_keeps_the_edition_before(rules, wall, make):
    """Half of it fits, and none of it stays; the one before goes on until another comes."""
    old = make(a=ALLOW, b=ALLOW)
    rules.install(old, bodies(old, "a"))
    before = held(wall), rules.issue(old.initial("a"))
    too_much = make(a=MANY, b=MANY)
    with pytest.raises(KernelError, match=r"604 prefixes, and 4.. are free") as refused:
        rules.install(too_much, bodies(too_much, "a", "b"))
    after = held(wall), rules.issue(old.initial("a"))
    next_one = make(a=ALLOW.replace("443", "444"))
    rules.install(next_one, bodies(next_one, "a"))

    assert refused.value.errno == 28
    assert rules.edition is next_one
    assert after == before


def test_no_room_leaves_the_table_of_signatures_alone(rules, wall, make):
    """The table in force is never written to, not even by what follows on a failure."""
    old = make(a=ALLOW + MINING)
    rules.install(old, bodies(old, "a"))
    first = rules.issue(old.initial("a"))
    others = replace(old.signatures, digest="0" * 64)
    too_much = replace(make(a=MANY + MINING, b=MANY), signatures=others)
    with pytest.raises(KernelError):
        rules.install(too_much, bodies(too_much, "a", "b"))
    after = rules.issue(old.initial("a"))
    fits = replace(make(a=ALLOW + MINING), signatures=others)
    rules.install(fits, bodies(fits, "a"))
    second = rules.issue(fits.initial("a"))

    assert (after.slot, after.table) == (first.slot, first.table)
    assert None not in (first.slot, second.slot)
    assert second.slot != first.slot
    assert second.table > first.table


def test_a_policy_that_looks_for_nothing_has_no_table(rules, make):
    """Its sandboxes are not searched."""
    edition = make(a=ALLOW + "detect: {mining: off, tunnel: off}\n")
    rules.install(edition, ())
    issue = rules.issue(edition.initial("a"))

    masks = edition.initial("a").masks
    assert (issue.slot is None) == (not masks.blocks | masks.alerts)


def test_an_override_says_the_mode(directory, make):
    """For as long as it is there."""
    policy = make(a=ALLOW).initial("a").policy
    member = member_at(directory)
    plain = mode_of(member, policy)
    member.override = Override(mode=Mode.AUDIT, until_ns=9, reason="", by="")

    assert (plain, mode_of(member, policy)) == (Mode.ENFORCE, Mode.AUDIT)


DNS = "dns: {servers: [192.0.2.53]}\n"


@pytest.mark.parametrize(
    ("place", "through_lo", "expected"),
    [
        (Place(own_netns=False, netns_cookie=0), True, (False, 0, False)),
        (Place(own_netns=False, netns_cookie=7), True, (True, 7, True)),
        (Place(own_netns=False, netns_cookie=7), False, (True, 7, False)),
        (Place(own_netns=True, netns_cookie=7), True, (True, 7, False)),
    ],
)
def test_dns_needs_to_know_where_it_is(rules, directory, make, place, through_lo, expected):
    """Without its network namespace it has none; in one of its own, no server is this host."""
    edition = make(a=ALLOW + DNS)
    rules.install(edition, ())
    member = member_at(directory, place=place)
    found = settings_for(member, rules.issue(edition.initial("a")), through_lo=through_lo)

    assert (found.dns is not None, found.netns_cookie, found.answers_through_lo) == expected


def test_settings_say_what_the_policy_says(rules, directory, make):
    """Mode, end of an override, and which loopback is its own."""
    edition = make(a=ALLOW + "mode: observe\n")
    rules.install(edition, ())
    issue = rules.issue(edition.initial("a"))
    member = member_at(directory, place=Place(own_netns=True, netns_cookie=7))
    plain = settings_for(member, issue, through_lo=False)
    member.override = Override(mode=Mode.AUDIT, until_ns=99, reason="", by="")
    over = settings_for(member, issue, through_lo=False)

    assert (plain.mode, plain.until_ns, plain.is_scope) == (Mode.OBSERVE, 0, False)
    assert (over.mode, over.until_ns) == (Mode.AUDIT, 99)
    assert plain.generation == issue.generation
    assert plain.loopback in LoopbackScope
