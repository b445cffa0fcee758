# SPDX-License-Identifier: Apache-2.0
"""The events that sandboxes give rise to."""

from __future__ import annotations

import pytest
from rig.cgroup import temp_cgroup
from rig.keeping import keeping, make_edition, member_at, owned, spelled

from agentwall.daemon import telling
from agentwall.daemon.clock import boot_ns
from agentwall.daemon.members import Admission, Override
from agentwall.engine.engine import Engine
from agentwall.engine.events import RulesApplied, SignaturesApplied
from agentwall.flow.verdict import Mode
from agentwall.host.coverage import Coverage, CoverageLevel
from agentwall.kernel.counters import Counters

pytestmark = pytest.mark.kernel

COVERAGE = Coverage(level=CoverageLevel.NONE, roads=())


@pytest.fixture
def member():
    """A sandbox that was adopted, and of which nothing is covered."""
    with temp_cgroup() as directory:
        yield member_at(
            directory, admission=Admission.ADOPTED, coverage=COVERAGE, labels={"episode": "3"}
        )


def test_a_start_says_how_it_came(member):
    """Mode, coverage, and for how long it was not watched; the engine takes it."""
    member.unwatched_ms = 12
    before_ns = boot_ns()
    event = telling.started(member, Mode.AUDIT)
    after_ns = boot_ns()
    (command,) = Engine().handle(event)

    assert (event.mode, event.coverage, event.open_roads) == (Mode.AUDIT, "none", ())
    assert event.detail == {"admission": "adopted", "unwatched_ms": 12}
    assert command.record.sandbox.labels == {"episode": "3"}
    assert before_ns <= event.mono_ns <= after_ns


def test_rules_come_with_their_signatures(small_wall, tmp_path, member):
    """Both, in this order: what follows is named by them."""
    scope = owned(spelled(member.cgroup.directory))
    edition = make_edition(tmp_path, {"web": "allow: []\n"}, scope)
    with keeping(small_wall, edition) as bench:
        issue = bench.keeper.rules.issue(edition.initial("web"))
        rules, signatures = telling.judged_by(member, issue, edition)

    assert isinstance(rules, RulesApplied)
    assert isinstance(signatures, SignaturesApplied)
    assert (rules.generation, rules.policy.name) == (issue.generation, "web")
    assert (signatures.table, signatures.signatures) == (issue.table, edition.signatures)


def test_an_override_and_its_end(member):
    """The end has a reason of its own, and no time."""
    audit = Override(mode=Mode.AUDIT, until_ns=9, reason="a look", by="x")
    begun = telling.overridden(member, Mode.AUDIT, audit, "pid 7")
    ended = telling.overridden(member, Mode.ENFORCE, None, "agentwall")

    assert (begun.until_mono_ns, begun.reason, begun.by) == (9, "a look", "pid 7")
    assert (ended.until_mono_ns, ended.reason, ended.mode) == (
        None,
        "its time is over",
        Mode.ENFORCE,
    )


def test_what_was_counted_before_is_no_news(member):
    """The engine tells nothing of it."""
    zero = dict.fromkeys(Counters.__dataclass_fields__, 0)
    event = telling.counted_before(member, Counters(**{**zero, "denied": 3, "lost_denials": 2}))
    engine = Engine()
    list(engine.handle(telling.started(member, Mode.ENFORCE)))

    assert event.is_baseline
    assert list(engine.handle(event)) == []


def test_what_is_found_later(member):
    """Coverage as it is then, with what was seen."""
    event = telling.inspected(member, COVERAGE, {"sockets": 3})

    assert (event.coverage, event.detail) == ("none", {"sockets": 3})
