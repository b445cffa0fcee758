# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to libraries in whatever order, the books agree with what is attached."""

import os

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from rig.places import ALL, OFFSETS, PROBES, Places, use

from agentwall.flow.tls import Unread
from agentwall.probes.attached import LINGER_S, MOST_CLOSING, Attached
from agentwall.probes.mappings import FileId

NUMBERS = st.integers(0, 5)


class Machine(RuleBasedStateMachine):
    """Whatever happens in whatever order, the books agree with what is attached."""

    def __init__(self) -> None:
        super().__init__()
        self.places = Places()
        self.attached = Attached(ALL, max_libraries=2, pins=None, attach=self.places.attach)
        self.now_s = 0.0
        self.using: set[tuple[int, int]] = set()
        self.fds = [os.memfd_create("file") for _ in range(6)]

    def teardown(self) -> None:
        self.attached.close()
        assert self.places.standing == 0
        for fd in self.fds:
            os.close(fd)

    @rule(file=NUMBERS, user=NUMBERS)
    def use(self, file, user):
        use(self.attached, (FileId(1, file), self.fds[file]), user, self.now_s)
        self.using.add((file, user))

    @rule(user=NUMBERS)
    def drop(self, user):
        self.attached.drop(user, self.now_s)
        self.using = {each for each in self.using if each[1] != user}

    @rule(file=NUMBERS)
    def write_over(self, file):
        os.write(self.fds[file], b"more")

    @rule(by_s=st.sampled_from([1.0, 30.0, LINGER_S]))
    def wait(self, by_s):
        self.now_s += by_s
        self.attached.expire(self.now_s)

    @rule(limit=st.integers(1, 20))
    def close_some(self, limit):
        self.attached.close_some(limit)

    @rule(offset=st.sampled_from(sorted(OFFSETS.values())))
    def refuse(self, offset):
        self.places.refused ^= {offset}

    @precondition(lambda self: not self.places.refused)
    @rule()
    def settle(self):
        self.attached.expire(self.now_s)
        while self.attached.close_some():
            self.attached.expire(self.now_s)
        self.attached.expire(self.now_s)
        waiting = [
            file
            for file in range(6)
            if (state := self.attached.state_of(FileId(1, file))) and state.unread is Unread.LIMIT
        ]
        # Who waits does so because all room is taken by files with users.
        taken = [each.users for each in self.attached.libraries()]
        assert not waiting or len(taken) == 2
        assert not waiting or all(taken)

    @invariant()
    def books_agree(self):
        assert len(self.attached) <= 2
        for file in range(6):
            users = {user for used, user in self.using if used == file}
            assert self.attached.users_of(FileId(1, file)) == users
        probed = len(self.attached) * PROBES
        queued = self.places.standing - probed
        assert 0 <= queued <= MOST_CLOSING + PROBES


Machine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase
