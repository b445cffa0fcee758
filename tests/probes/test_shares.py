# SPDX-License-Identifier: Apache-2.0
"""Who has more than a fair share of the probes gives way, and nobody takes a place back."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwall.probes.shares import Held, giving_way, owner_of, poorest, weigh


def held(*owners: str, used_s: float = 0.0, is_system: bool = False) -> Held:
    """Return a file that each of *owners* uses."""
    return Held(owners=Counter(owners), used_s=used_s, is_system=is_system)


@pytest.mark.parametrize(
    ("user", "owner"), [(("a", 7), "a"), (("a", 0), "a"), ("a", "a"), (7, 7), ((), ())]
)
def test_owner(user, owner):
    """A user's sandbox is the first of the tuple; anything else is one of its own."""
    assert owner_of(user) == owner


def test_weight():
    """A file counts in equal parts, however many processes use it; the system's does not."""
    shared = Held(owners=Counter({"a": 30, "b": 1}))

    assert weigh([held("a"), shared, held("b", is_system=True)]) == {"a": 1.5, "b": 0.5}


def test_poorest():
    """A file is as urgent as the sandbox that has least; the system's most, nobody's least."""
    has = {"a": 3.0, "b": 1.0}

    assert poorest(held("a", "b"), has) == 1.0
    assert poorest(held("a", "c"), has) == 0.0
    assert poorest(held("a", is_system=True), has) == 0.0
    assert poorest(held(), has) == float("inf")


def test_the_greedy_gives_way():
    """One that has all gives way, with what it has not used for longest."""
    files = [held("greedy", used_s=float(each)) for each in (3, 1, 2, 4)]

    assert giving_way(files, held("a"), [], 4) is files[1]


def test_the_greediest_gives_way():
    """Of two with more than their share the one with more does."""
    files = [held("b", used_s=0.0) for _ in range(3)] + [held("c", used_s=9.0) for _ in range(5)]

    assert giving_way(files, held("a"), [], 8).owners == {"c": 1}


@pytest.mark.parametrize(
    ("files", "newcomer"),
    [
        pytest.param([held("b")], held("a"), id="it would have nothing"),
        pytest.param([held("b"), held("b"), held("a")], held("a"), id="as much as then"),
        pytest.param([held("b")] * 2 + [held("a")] * 2, held("a"), id="equal shares"),
        pytest.param([held("a")] * 4, held("a"), id="its own"),
        pytest.param([held("b", is_system=True)] * 4, held("a"), id="the system's"),
        pytest.param([held()] * 4, held("a"), id="nobody's: not asked here"),
        pytest.param([], held("a"), id="nothing there"),
    ],
)
def test_nobody_gives_way(files, newcomer):
    """Who would be left with less than the other one then has keeps what there is."""
    assert giving_way(files, newcomer, [], 4) is None


def test_within_the_share():
    """Who has no more than the share of each gives nothing, though others have less."""
    files = [held("b"), held("b"), held("c"), held("c")]
    waiting = [held("d")]

    assert giving_way(files, held("d"), waiting, 6) is None
    assert giving_way(files, held("d"), waiting, 4) is files[0]


def test_shared_files_go_last():
    """What several sandboxes use is displaced only if nothing else can be."""
    shared = [held("b", "c", used_s=0.0) for _ in range(5)]
    own = held("b", used_s=9.0)

    assert giving_way([*shared, own], held("a"), [], 6) is own
    assert giving_way(shared, held("a"), [], 5) is shared[0]


def test_one_of_the_users_has_little():
    """What a sandbox within its share uses as well stays."""
    files = [held("greedy", "modest")] * 2 + [held("greedy", "also modest")] * 2

    assert giving_way(files, held("a"), [], 4) is None


def test_the_systems_library_finds_room():
    """A library of the host takes a place even for the sandbox that has all."""
    files = [held("greedy", used_s=float(each)) for each in range(4)]

    assert giving_way(files, held("greedy", is_system=True), [], 4) is files[0]


OWNERS = st.sets(st.sampled_from("abcde"), min_size=1, max_size=3)
FILES = st.lists(st.tuples(OWNERS, st.booleans()), min_size=1, max_size=24)


@settings(max_examples=200, deadline=None)
@given(FILES, st.integers(1, 12), st.randoms())
def test_exchanges_come_to_an_end(files, room, random):
    """However files are used, places change hands a bounded number of times, and then no more."""
    every = [
        Held(owners=Counter(owners), is_system=is_system and number < 2, used_s=float(number))
        for number, (owners, is_system) in enumerate(files)
    ]
    probed, waiting = every[:room], every[room:]
    for _ in range(len(every) * room + 1):
        offers = [
            (newcomer, gives_way)
            for newcomer in waiting
            if (gives_way := giving_way(probed, newcomer, waiting, room)) is not None
        ]
        if not offers:
            break
        newcomer, gives_way = random.choice(offers)
        least = poorest(newcomer, weigh(probed))
        at = next(number for number, each in enumerate(probed) if each is gives_way)
        probed[at] = newcomer
        waiting = [each for each in waiting if each is not newcomer] + [gives_way]

        assert not gives_way.is_system
        assert newcomer.is_system or all(
            weigh(probed).get(owner, 0.0) > least for owner in gives_way.owners
        )
    else:
        raise AssertionError("places change hands without end")
