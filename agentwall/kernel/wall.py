# SPDX-License-Identifier: Apache-2.0
"""The wall: the BPF programs loaded, attached to a sandbox's cgroup, and told what to permit.

Order of use, every step of which denies until the last::

    with Wall.load(pin_dir=...) as wall:
        wall.attach(cgroup, sandbox)      # everything is refused: the storage entry is zero
        wall.apply(1, tables)
        wall.bind(sandbox, settings)
        wall.activate(cgroup, sandbox)    # now the policy decides

Whether a failure closes or opens is decided here and nowhere else: whatever goes wrong on the way
leaves a cgroup that is refused everything, or one that has no links at all and an error. Where
something is pinned, the end of this process changes nothing for the sandbox.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from agentwall.errors import KernelError
from agentwall.flow.record import Attempt, Excerpt, FlowTotals, SandboxKey
from agentwall.kernel import abi, cgroup2, features, hooks, pins
from agentwall.kernel.belt import BELT, Belt, new_mark
from agentwall.kernel.bpfmap import BpfMap
from agentwall.kernel.capacity import Capacity
from agentwall.kernel.counters import Counters, unpack_counters
from agentwall.kernel.decode import decode_event, decode_excerpt, decode_flow
from agentwall.kernel.learned import Learned, LearnedNames
from agentwall.kernel.links import Link, pin
from agentwall.kernel.maps import RuleMaps, SandboxSettings, pack_settings
from agentwall.kernel.objects import BpfObject, Program
from agentwall.kernel.rings import Ring
from agentwall.kernel.signatures import SignatureMaps
from agentwall.policy.tables import RuleTables

OBJECT_PATH = Path(__file__).parents[1] / "_bpf" / "agentwall.bpf.o"
"""The shipped object."""

_DRAIN_LIMIT = 16_384
"""Events taken from one ring at a time: a flood must not keep the caller from its other work."""
_NO_SANDBOX = SandboxKey(0)
"""The entry of ``aw_counters`` for what has no sandbox yet."""


class Wall:
    """The loaded programs and their maps; a context manager that closes the descriptors."""

    def __init__(
        self, bpf: BpfObject, pin_dir: Path | None, absent: dict[str, str], *, degrade: bool
    ) -> None:
        self._bpf = bpf
        self._pin_dir = pin_dir
        self._absent = absent
        self._degrade = degrade
        self._maps = _checked_maps(bpf)
        self._links: dict[SandboxKey, dict[str, Link]] = {}
        self._missing: dict[SandboxKey, dict[str, str]] = {}
        self._rule_maps = RuleMaps(
            self._maps["aw_rules"], self._maps["aw_intervals"], self._maps["aw_names"]
        )
        self._names = LearnedNames(
            self._maps["aw_known"], self._maps["aw_bound"], self._maps["aw_counters"]
        )
        self.signatures = SignatureMaps(self._maps["aw_signatures"], self._maps["aw_excepts"])
        self._maps["aw_counters"].update(_key(_NO_SANDBOX), bytes(_COUNTERS_BYTES))
        self._rings = [Ring(self._maps[name].fd, name) for name in abi.RINGS]
        self._excerpts = Ring(self._maps[abi.EXCERPTS].fd, abi.EXCERPTS)
        self._epoll = select.epoll()
        for ring in (*self._rings, self._excerpts):
            self._epoll.register(ring.fileno(), select.EPOLLIN)

    @classmethod
    def load(
        cls,
        *,
        pin_dir: Path | None = None,
        capacity: Capacity | None = None,
        object_path: Path | None = None,
        test_sandbox: SandboxKey | None = None,
        degrade: bool = False,
    ) -> Self:
        """Load the object; nothing is attached yet.

        Args:
            pin_dir: ``pins.BPFFS / run id``, made here; without it the wall ends with the process.
            capacity: Sizes of the maps; None: the defaults.
            object_path: Another object than the shipped one.
            test_sandbox: The sandbox that ``prog_test_run`` judges for. Tests only: such an object
                takes every cgroup for this sandbox.
            degrade: Do without required hooks that this kernel does not take, but for egress;
                :meth:`missing_hooks` names them.

        Raises:
            UnsupportedFeatureError: libbpf or a required hook is missing.
            VerifierError: The verifier rejected a program.
            KernelError: The object is missing, or not of this version of ``bpf/abi.h``.
            HostError: *pin_dir* cannot be made.
        """
        bpf = BpfObject.open(object_path or OBJECT_PATH)
        try:
            _configure(bpf, capacity or Capacity(), test_sandbox)
            absent = hooks.choose_programs(bpf, degrade=degrade)
            bpf.load()
            wall = cls(bpf, pin_dir, absent, degrade=degrade)
        except BaseException:
            bpf.close()
            raise
        try:
            wall._pin_maps_and_programs()
        except BaseException:
            wall.close()
            raise
        return wall

    def attach(self, cgroup: Path, sandbox: SandboxKey) -> None:
        """Put every program at *cgroup*, which from now on is refused everything.

        Raises:
            HostError: *cgroup* is not one below the root of a cgroup v2 hierarchy.
            KernelError: A link was refused, and those made before it are gone again. A wall loaded
                to degrade bears that of all but egress.
        """
        if sandbox == _NO_SANDBOX or sandbox in self._links:
            raise KernelError(
                errno.EINVAL, f"attach to {cgroup}: expected an unused sandbox id, got {sandbox}"
            )
        self._links[sandbox], self._missing[sandbox] = {}, dict(self._absent)
        try:
            with cgroup2.attachable(cgroup) as fd:
                for program in self.programs():
                    self._attach(program, fd, sandbox)
        except BaseException:
            self.detach(sandbox)
            raise

    def _attach(self, program: Program, cgroup_fd: int, sandbox: SandboxKey) -> None:
        try:
            link = Link.attach(program.fd, cgroup_fd, program.attach_type)
        except KernelError as err:
            if not hooks.may_be_missing(program.name, degrade=self._degrade):
                raise hooks.refused(program, err) from err
            self._missing[sandbox][program.name] = hooks.explain_refusal(err)
            return
        self._links[sandbox][program.name] = link
        if self._pin_dir:
            link.pin(self._pin_dir / pins.LINKS / f"{sandbox:016x}-{program.name}")

    def apply(self, generation: int, tables: RuleTables) -> None:
        """Write the rules of a new generation; nothing points at it yet.

        Raises:
            KernelError: There is no room, or the generation is in use.
        """
        self._rule_maps.apply(generation, tables)

    def forget(self, generation: int) -> None:
        """Remove a generation to which no sandbox is bound."""
        self._rule_maps.forget(generation)
        self.signatures.forget(generation)

    def bind(self, sandbox: SandboxKey, settings: SandboxSettings) -> None:
        """Say how *sandbox* is judged; bound again, it is switched over at once and without a gap.

        Raises:
            KernelError: The generation was not applied, or there are too many sandboxes.
        """
        if not self._rule_maps.holds(settings.generation):
            raise KernelError(
                errno.ENOENT,
                f"bind sandbox {sandbox}: generation {settings.generation} is not applied",
            )
        entry = pack_settings(settings, self._rule_maps.names_slot(settings.generation))
        counters = self._maps["aw_counters"]
        if counters.lookup(_key(sandbox)) is None:
            counters.update(_key(sandbox), bytes(_COUNTERS_BYTES))
        self._maps["aw_sandboxes"].update(_key(sandbox), entry)

    rebind = bind

    def activate(self, cgroup: Path, sandbox: SandboxKey) -> None:
        """Let the policy decide: the last step, after :meth:`attach` and :meth:`bind`.

        Raises:
            HostError: *cgroup* is no such directory.
            KernelError: ENOENT: nothing is attached there, or the sandbox is not bound.
        """
        if self._maps["aw_sandboxes"].lookup(_key(sandbox)) is None:
            raise KernelError(errno.ENOENT, f"activate {cgroup}: sandbox {sandbox} is not bound")
        with cgroup2.attachable(cgroup) as fd:
            key = cgroup2.id_of(fd).to_bytes(8, sys.byteorder)
        self._maps["aw_sandbox_id"].update(key, _key(sandbox))

    def fileno(self) -> int:
        """Return a descriptor that polls readable while there are events."""
        return self._epoll.fileno()

    def attempts(self) -> list[Attempt]:
        """Take the events that are there, denials first; with many there, poll and call again.

        Raises:
            EventDecodeError: An event does not match ``bpf/abi.h``; the other events of the call
                are lost.
        """
        name_of = self._names.name_of
        return [
            decode_event(raw, name_of) for ring in self._rings for raw in ring.consume(_DRAIN_LIMIT)
        ]

    def excerpts(self) -> list[Excerpt]:
        """Take what the decoders are to see, in the order in which it passed.

        Raises:
            EventDecodeError: As :meth:`attempts`.
        """
        name_of = self._names.name_of
        return [decode_excerpt(raw, name_of) for raw in self._excerpts.consume(_DRAIN_LIMIT)]

    def totals(self) -> list[FlowTotals]:
        """Take what permitted flows have moved since the last call, removing it from the kernel.

        Raises:
            EventDecodeError: An entry does not match ``bpf/abi.h``.
        """
        name_of = self._names.name_of
        drained = self._maps["aw_flow_table"].drain()
        return [decode_flow(key, value, name_of) for key, value in drained]

    def learned(self, sandbox: SandboxKey) -> list[Learned]:
        """Return the addresses that *sandbox* learned, each with its name; some may be over."""
        return self._names.learned(sandbox)

    def expire(self, now_ns: int) -> None:
        """Make room: remove what sandboxes learned and what is over at *now_ns*, CLOCK_BOOTTIME.

        To be called every few seconds. What is over counts no longer, removed or not.

        Raises:
            KernelError: The kernel refuses.
        """
        self._names.expire(now_ns)

    def counters(self, sandbox: SandboxKey) -> Counters:
        """Return the counters of a bound *sandbox*; of 0 for what had no sandbox yet.

        Raises:
            KernelError: The sandbox is not bound.
        """
        raw = self._maps["aw_counters"].lookup(_key(sandbox))
        if raw is None:
            raise KernelError(errno.ENOENT, f"counters of sandbox {sandbox}: not bound")
        return unpack_counters(raw)

    def programs(self) -> list[Program]:
        """Return the programs for cgroups; tests run them through :meth:`Program.test_run`."""
        return [p for p in self._bpf.programs() if p.autoload and p.name != BELT]

    def belt(self, netns: int) -> Belt:
        """Return a belt, put nowhere yet, for the network namespace with the cookie *netns*."""
        links = self._pin_dir / pins.LINKS if self._pin_dir else None
        program = self._bpf.program(BELT)
        return Belt(program, self._maps["aw_belts"], netns=netns, pin_dir=links)

    def maps(self) -> dict[str, BpfMap]:
        """Return the maps by name."""
        return dict(self._maps)

    def links(self, sandbox: SandboxKey) -> list[Link]:
        """Return the links of an attached *sandbox*."""
        return list(self._links[sandbox].values())

    def hooks(self, sandbox: SandboxKey) -> dict[str, Link]:
        """Return the links of an attached *sandbox* by the name of their program."""
        return dict(self._links[sandbox])

    def missing_hooks(self, sandbox: SandboxKey) -> dict[str, str]:
        """Return why programs do not judge an attached *sandbox*, by name."""
        return dict(self._missing[sandbox])

    def detach(self, sandbox: SandboxKey) -> None:
        """Take the wall from *sandbox*, whose processes must have ended; read its counters before.

        Raises:
            KernelError: A link could not be detached; it then stays, and denies.
        """
        for link in self._links.get(sandbox, {}).values():
            with _unless_gone():
                link.detach()
        for link in self._links.pop(sandbox, {}).values():
            link.close()
        self._missing.pop(sandbox, None)
        if self._pin_dir:
            for path in (self._pin_dir / pins.LINKS).glob(f"{sandbox:016x}-*"):
                path.unlink()
        # After the links: a sandbox without its entry is one that everything is refused to.
        self._maps["aw_sandboxes"].delete(_key(sandbox))
        self._maps["aw_counters"].delete(_key(sandbox))
        self._names.drop(sandbox)

    def close(self) -> None:
        """Close the descriptors. What is pinned stays in force; what is not ends here."""
        self._epoll.close()
        for ring in (*self._rings, self._excerpts):
            ring.close()
        for link in [link for links in self._links.values() for link in links.values()]:
            link.close()
        self._links.clear()
        self._names.close()
        self._bpf.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _pin_maps_and_programs(self) -> None:
        if self._pin_dir:
            pins.make_pin_dir(self._pin_dir)
            for name, bpf_map in self._maps.items():
                pin(bpf_map.fd, self._pin_dir / pins.MAPS / name)
            for program in self.programs():
                pin(program.fd, self._pin_dir / pins.PROGRAMS / program.name)


_COUNTERS_BYTES = abi.MAP_LAYOUTS["aw_counters"].value_size


def _key(sandbox: SandboxKey) -> bytes:
    return sandbox.to_bytes(8, sys.byteorder)


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    try:
        yield
    except KernelError as err:
        # The cgroup has been removed, and the kernel took the program off then.
        if err.errno != errno.ENOLINK:
            raise


def _configure(bpf: BpfObject, capacity: Capacity, test_sandbox: SandboxKey | None) -> None:
    if bpf.constant("aw_test_sandbox") != 0:
        raise KernelError(errno.EINVAL, f"{bpf.path}: expected aw_test_sandbox 0: a test object")
    bpf.set_constant("aw_test_sandbox", test_sandbox or 0)
    bpf.set_constant("aw_have_set_retval", int(features.has_set_retval()))
    bpf.set_constant("aw_belt_mark", new_mark())
    # Unknown to the sandbox, which could else look for names of one hash.
    bpf.set_constant("aw_hash_seed", secrets.randbits(64))
    for name, entries in capacity.entries().items():
        bpf.set_max_entries(name, entries)


def _checked_maps(bpf: BpfObject) -> dict[str, BpfMap]:
    maps = bpf.maps()
    for name, layout in abi.MAP_LAYOUTS.items():
        shape = maps[name].shape if name in maps else None
        found = abi.MapLayout(shape.key_size, shape.value_size) if shape else None
        if found != layout:
            raise KernelError(
                errno.EINVAL,
                f"{bpf.path}: map {name}: expected {layout}, got {found}: rebuild the object",
            )
    for name in (*abi.RINGS, abi.EXCERPTS):
        if name not in maps:
            raise KernelError(errno.ENOENT, f"{bpf.path}: expected a ring buffer {name}")
    return maps
