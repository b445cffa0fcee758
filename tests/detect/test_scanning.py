# SPDX-License-Identifier: Apache-2.0
"""Scans, and what looks a little like them."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwall.detect.scanning import MAX_TRIALS, Outcome, ScanWatch, Trial
from agentwall.flow.finding import Confidence, DetectionClass
from agentwall.flow.severity import Severity
from agentwall.net.endpoint import Endpoint, L4Protocol
from agentwall.policy.model import ScanLimits

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND
REFUSED, UNANSWERED, PERMITTED = Outcome.REFUSED, Outcome.UNANSWERED, Outcome.PERMITTED


def trial(at_s, address, port=22, outcome=REFUSED, name=None, protocol=L4Protocol.TCP):
    """Return one attempt."""
    remote = Endpoint(ip_address(address), port, protocol)
    return Trial(START + int(at_s * SECOND), remote, outcome, name)


def seen(trials, limits=None, *, ends=False):
    """Return what a watch of its own says to *trials*, in order."""
    watch = ScanWatch(limits or ScanLimits())
    found = [finding for one in trials for finding in watch.see(one)]
    return found + list(watch.end()) if ends else found


def signatures(found):
    """Return the ids of findings."""
    return [finding.signature for finding in found]


def test_internal_sweep():
    """Twelve private addresses refused within a minute are one finding, with its numbers."""
    found = seen([trial(n, f"10.20.{n % 2}.{n}") for n in range(20)])

    assert signatures(found) == ["behaviour/scan-horizontal"]
    finding = found[0]
    assert (finding.cls, finding.severity) == (DetectionClass.SCAN, Severity.HIGH)
    assert finding.evidence["addresses"] == finding.evidence["private"] == 12
    assert finding.evidence["refused"] == 12
    assert finding.evidence["networks"] == ["10.20.0.0/24 (6)", "10.20.1.0/24 (6)"]
    assert finding.evidence["services"] == ["tcp/22 (12)"]
    assert finding.evidence["examples"][:2] == ["10.20.0.0:22", "10.20.1.1:22"]
    assert finding.evidence["seconds"] == 11.0
    assert finding.evidence["limit"] == {"count": 12, "seconds": 60}


def test_ports_of_one_host():
    """Twelve refused ports of one address are a vertical scan, IPv6 included."""
    found = seen([trial(n / 10, "fd00::5", 1000 + n) for n in range(40)])

    assert signatures(found) == ["behaviour/scan-vertical"]
    assert found[0].evidence["ports"] == 12
    assert found[0].evidence["networks"] == ["fd00::/64"]
    assert found[0].evidence["examples"][0] == "[fd00::5]:1000"


def test_one_finding_a_burst():
    """A burst is told of once, then once a window, and what came after that at the end."""
    sweep = [trial(n / 4, ip_address("10.0.0.0") + n) for n in range(600)]  # 150 s
    found = seen(sweep, ends=True)

    assert signatures(found) == ["behaviour/scan-horizontal"] * 4
    assert [finding.evidence["updates"] for finding in found] == [0, 1, 2, 3]
    assert found[-1].evidence["targets_since_first_told"] == 600 - 12
    assert found[1].confidence is Confidence.HIGH


def test_two_bursts():
    """After a quiet window the next scan is another finding."""
    first = [trial(n, f"10.0.0.{n}") for n in range(12)]
    second = [trial(1000 + n, f"10.0.1.{n}") for n in range(12)]
    found = seen(first + second, ends=True)

    assert [finding.evidence["updates"] for finding in found] == [0, 0]


def test_slow_sweep():
    """What does not come to the limit within the window is no scan."""
    assert seen([trial(6 * n, f"10.0.0.{n}") for n in range(200)]) == []


def test_public_addresses_weigh_less():
    """Public addresses count half of private ones, and a quarter at the web's ports."""
    ssh = [trial(n, f"203.0.113.{n}") for n in range(24)]
    web = [trial(n, f"203.0.113.{n}", 443) for n in range(48)]

    assert seen(ssh[:23]) == []
    assert signatures(seen(ssh)) == ["behaviour/scan-horizontal"]
    assert seen(ssh)[0].severity is Severity.MEDIUM
    assert seen(web[:47]) == []
    assert signatures(seen(web)) == ["behaviour/scan-horizontal"]


def test_training_job():
    """A job that reaches 64 workers on a permitted port, some of them late, is no scan."""
    workers = [trial(n / 100, f"10.20.0.{n}", 29500, PERMITTED) for n in range(64)]
    late = [trial(1 + n, f"10.20.0.{n}", 29500, UNANSWERED) for n in range(5)]

    assert seen(workers + late) == []


def test_collectives():
    """Workers that open many permitted ports of each other are no scan."""
    assert seen([trial(n / 50, "10.20.0.7", 30000 + n, PERMITTED) for n in range(64)]) == []


def test_permitted_counts_beside_refused():
    """Of a scan inside what is permitted some are reached: they count one for one."""
    found = seen(
        [trial(n, f"10.20.0.{n}", 22, PERMITTED if n % 2 else UNANSWERED) for n in range(1, 12)]
    )

    assert signatures(found) == []
    mixed = [trial(n, f"10.20.0.{n}", 22, PERMITTED if n % 2 else UNANSWERED) for n in range(13)]
    assert signatures(seen(mixed)) == ["behaviour/scan-horizontal"]
    assert seen(mixed)[0].evidence["permitted"] == 6


def test_known_target_that_met_nobody():
    """A permitted attempt that turns out unanswered counts from then on."""
    first = [trial(n / 10, f"10.20.0.{n}", 22, PERMITTED) for n in range(30)]
    later = [trial(10 + n / 10, f"10.20.0.{n}", 22, UNANSWERED) for n in range(30)]

    assert seen(first) == []
    assert signatures(seen(first + later)) == ["behaviour/scan-horizontal"]


def test_happy_eyeballs():
    """All addresses of one name are one target."""
    trials = [
        trial(n / 10, f"203.0.113.{n}", 443, name=f"mirror{n % 8}.example.org") for n in range(120)
    ]

    assert seen(trials) == []


def test_many_mirrors():
    """Thirty permitted mirrors over 443 are no scan."""
    assert seen([trial(n / 10, f"203.0.113.{n}", 443, PERMITTED) for n in range(30)]) == []


@pytest.mark.parametrize("address", ["224.0.0.251", "ff02::fb", "255.255.255.255"])
def test_to_everybody(address):
    """What goes to many at once has no target to look for."""
    assert seen([trial(n / 10, address, 1000 + n) for n in range(60)]) == []


def test_loopback():
    """A sandbox's programs may talk to each other; what is refused even there counts."""
    assert seen([trial(n / 10, "127.0.0.1", 1000 + n, PERMITTED) for n in range(60)]) == []
    assert seen([trial(n / 10, "127.0.0.1", 1000 + n, UNANSWERED) for n in range(60)]) == []
    assert signatures(seen([trial(n / 10, "127.0.0.1", 1000 + n) for n in range(60)])) == [
        "behaviour/scan-vertical"
    ]


def test_ping_sweep():
    """Pings have no port and count as well."""
    found = seen([trial(n, f"10.0.0.{n}", 0, protocol=1) for n in range(12)])

    assert signatures(found) == ["behaviour/scan-horizontal"]
    assert found[0].evidence["services"] == ["icmp (12)"]
    assert found[0].evidence["examples"][0] == "10.0.0.0"


def test_mapped_addresses():
    """An address written in two ways is one target."""
    trials = [trial(n / 10, f"10.0.0.{n}") for n in range(11)]
    mapped = [trial(2 + n / 10, f"::ffff:10.0.0.{n}") for n in range(11)]

    assert seen(trials + mapped) == []


def test_memory_is_bounded():
    """A sandbox that tries everything costs no more than the cap; what was forgotten is counted."""
    watch = ScanWatch(ScanLimits())
    for n in range(3 * MAX_TRIALS):
        for _ in watch.see(trial(n / 1e6, ip_address("10.0.0.0") + n)):
            pass

    assert len(watch._trials) == MAX_TRIALS
    assert len(watch._places) == MAX_TRIALS
    assert watch.dropped == 2 * MAX_TRIALS
    assert watch._missed == 4 * MAX_TRIALS


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), many=st.integers(1, 400), stretch=st.floats(0.01, 2))
def test_sums_agree(seed, many, stretch):
    """The running sums are what counting anew gives, whatever came and went."""
    chance = random.Random(seed)
    watch = ScanWatch(ScanLimits(seconds=20))
    for n in range(many):
        name = chance.choice((None, None, "a.example", "b.example"))
        address = chance.choice(("10.0.0.", "203.0.113.")) + str(chance.randint(0, 40))
        one = trial(
            n * stretch - chance.uniform(0, 10),
            address,
            chance.choice((22, 80, 443, 1000 + chance.randint(0, 30))),
            chance.choice(tuple(Outcome)),
            name,
        )
        for _ in watch.see(one):
            pass
    places = watch._places.values()

    assert watch._missed == sum(place.weight for place in places if place.missed)
    assert watch._reached == sum(
        place.weight for place in places if not place.missed and not place.is_named
    )
    assert sum(len(place.targets) for place in places) == len(watch._trials)
    assert sum(place.missed for place in places) == sum(
        known.outcome is not PERMITTED for known in watch._trials.values()
    )


@settings(max_examples=50, deadline=None)
@given(targets=st.integers(2, 60), seconds=st.integers(1, 600))
def test_limits_of_the_policy(targets, seconds):
    """The policy's numbers decide, to the one."""
    limits = ScanLimits(targets=targets, ports=1000, seconds=seconds)
    trials = [trial(0.001 * n, ip_address("10.0.0.0") + n) for n in range(targets)]

    assert seen(trials[:-1], limits) == []
    assert signatures(seen(trials, limits)) == ["behaviour/scan-horizontal"]
