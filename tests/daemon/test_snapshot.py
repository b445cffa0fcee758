# SPDX-License-Identifier: Apache-2.0
"""What a scrape shows agrees with what status says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rig.cgroup import temp_cgroup
from rig.insides import Insides, process, readings
from rig.keeping import bare_config, keeping, make_edition, owned, spelled

from agentwall.daemon.config import LogSettings
from agentwall.daemon.describe import Vitals, describe_daemon
from agentwall.daemon.members import Admission, Override
from agentwall.daemon.reload import Outcome
from agentwall.daemon.sinks import open_sinks
from agentwall.daemon.snapshot import take_snapshot
from agentwall.flow.tls import Unread
from agentwall.flow.verdict import Mode
from agentwall.kernel.counters import Counters

pytestmark = pytest.mark.kernel

NONE = Counters(**dict.fromkeys(Counters.__dataclass_fields__, 0))


@pytest.fixture
def sinks(tmp_path):
    """Sinks with a log of the test's own."""
    made = open_sinks(bare_config(log=LogSettings(path=tmp_path / "e.jsonl")), None)
    yield made
    made.close()


@pytest.fixture
def scope():
    """An owned scope with one cgroup."""
    with temp_cgroup("scope") as made:
        (made / "one").mkdir()
        yield made


def vitals(**changes: object) -> Vitals:
    """A daemon that is fine."""
    plain = Vitals(
        started_ns=5 * 10**9,
        lost={},
        log={},
        last_check_ns=None,
        problems={},
        reload=None,
        unbound={},
        scope_problems={},
    )
    return replace(plain, **changes)


def test_a_scrape_shows_what_status_says(small_wall, tmp_path, scope, sinks):
    """Counts, modes, scopes and hooks of the same moment."""
    edition = make_edition(tmp_path, {}, owned(spelled(scope)))
    with keeping(small_wall, edition) as bench:
        bench.admit(scope, admission=Admission.SCOPE)
        member = bench.admit(scope / "one")
        member.counters = replace(NONE, denied=7, would_denied=2, lost_denials=3, lost_flows=1)
        member.detections = 4
        member.override = Override(mode=Mode.AUDIT, until_ns=None, reason="", by="")
        now = vitals(last_check_ns=7 * 10**9, problems={"a": "b"}, unbound={"/x": 3})
        found = take_snapshot(bench.keeper, now, sinks)
        status = describe_daemon(bench.keeper, now)
    (one,) = found.sandboxes

    assert (one.id, one.denied, one.would_denied, one.lost, one.detections) == ("one", 7, 2, 4, 4)
    assert (one.mode, found.overrides) == ("audit", 1)
    assert one.coverage == "partial"
    assert found.scopes == {each["cgroup"]: each["in_force"] for each in status["scopes"]}
    assert found.hooks == {each["name"]: each["in_force"] for each in status["hooks"]}
    assert (found.checked_s, found.problems, dict(found.unbound)) == (7.0, 1, {"/x": 3})
    assert (found.reloaded_s, found.reload_applied) == (None, True)
    assert found.journal_sent is None


def test_a_scrape_tells_who_is_read(small_wall, tmp_path, scope, sinks):
    """Of the sandboxes there are, and the same as status; without a reader it is off."""
    edition = make_edition(tmp_path, {}, owned(spelled(scope)))
    with keeping(small_wall, edition) as bench:
        member = bench.admit(scope / "one")
        inside = Insides({member.key: readings(process(1), process(2, Unread.GO, sessions=1))})
        found = take_snapshot(bench.keeper, vitals(), sinks, inside).tls
        status = describe_daemon(bench.keeper, vitals(), inside)["tls"]
        without = take_snapshot(bench.keeper, vitals(), sinks).tls

    assert (found.state, found.read, found.unread["go"], found.calls) == ("on", 1, 1, 40)
    assert status["processes"] == {"read": 1, "unread": {"go": 1}, "unread_speakers": 1}
    assert status["calls"] == found.calls
    assert (without.state, without.read) == ("off", 0)


def test_what_is_not_as_it_should_be(small_wall, tmp_path, scope, sinks):
    """A scope without its wall, a reload that was refused, a log that loses."""
    edition = make_edition(tmp_path, {}, owned(spelled(scope)))
    sinks.writer.lost = 5
    with keeping(small_wall, edition) as bench:
        refused = Outcome(time_ns=9 * 10**9, applied=False, what="kept")
        found = take_snapshot(bench.keeper, vitals(reload=refused), sinks)

    assert found.scopes == {spelled(scope): False}
    assert (found.reloaded_s, found.reload_applied) == (9.0, False)
    assert (found.log_failed, found.started_s, found.sandboxes) == (5, 5.0, ())
