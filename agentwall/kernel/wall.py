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
something is pinned, the end of this process changes nothing for the sandbox, and another one can
take the wall over, with the same object or another (see ``adoption``)::

    with Wall.load(pin_dir=..., adopt=True) as wall:
        wall.apply(wall.highest_generation() + 1, tables)
        wall.bind(sandbox, settings)       # each
        wall.take_over(cgroup, sandbox)    # each; the old rules hold until then
        wall.settle()                      # the pins are this wall's now
"""

from __future__ import annotations

import errno
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self

from agentwall.errors import KernelError
from agentwall.flow.record import Attempt, Excerpt, FlowTotals, SandboxKey
from agentwall.flow.tls import HelloSeen
from agentwall.kernel import adoption, cgroup2, hooks, pins
from agentwall.kernel.adoption import Inheritance, Migration
from agentwall.kernel.attachments import Attachments
from agentwall.kernel.belt import BELT, Belt
from agentwall.kernel.bpfmap import BpfMap
from agentwall.kernel.capacity import Capacity
from agentwall.kernel.counters import Counters
from agentwall.kernel.entries import NO_SANDBOX, Entries
from agentwall.kernel.learned import Learned, LearnedNames
from agentwall.kernel.links import Link
from agentwall.kernel.loading import OBJECT_PATH, checked_maps, configure
from agentwall.kernel.maps import RuleMaps, SandboxSettings, pack_settings
from agentwall.kernel.objects import BpfObject, Program
from agentwall.kernel.plain import PROGRAM, Plain
from agentwall.kernel.reports import DRAIN_LIMIT, Reports
from agentwall.kernel.signatures import SignatureMaps
from agentwall.policy.tables import RuleTables

_ANY_TIME = nullcontext()


class Wall:
    """The loaded programs and their maps; a context manager that closes the descriptors."""

    def __init__(
        self,
        bpf: BpfObject,
        pin_dir: Path | None,
        absent: dict[str, str],
        *,
        degrade: bool,
        inheritance: Inheritance | None = None,
    ) -> None:
        self._bpf = bpf
        self._pin_dir = pin_dir
        self._inheritance = inheritance
        self._floor = inheritance.floor if inheritance else 0
        self._migrated = inheritance.migrations if inheritance else []
        self._maps = maps = checked_maps(bpf)
        self._entries = Entries(maps, inheritance)
        links_dir = pin_dir / pins.LINKS if pin_dir else None
        self._attachments = Attachments(self.programs(), absent, links_dir, degrade=degrade)
        self._rule_maps = RuleMaps(maps["aw_rules"], maps["aw_intervals"], maps["aw_names"])
        self._names = LearnedNames(maps["aw_known"], maps["aw_bound"], maps["aw_counters"])
        last = inheritance.last_table if inheritance else 0
        self.signatures = SignatureMaps(maps["aw_signatures"], maps["aw_excepts"], last=last)
        self.plain = Plain.of(maps, bpf.programs())
        self._reports = Reports(maps, self._names.name_of, inheritance)

    @classmethod
    def load(
        cls,
        *,
        pin_dir: Path | None = None,
        capacity: Capacity | None = None,
        object_path: Path | None = None,
        test_sandbox: SandboxKey | None = None,
        degrade: bool = False,
        adopt: bool = False,
        event_budget: int = 0,
        pinning: AbstractContextManager[object] = _ANY_TIME,
    ) -> Self:
        """Load the object; nothing is attached yet.

        Args:
            pin_dir: ``pins.BPFFS / run id``, made here; without it the wall ends with the process.
            capacity: Sizes of the maps; None: the defaults.
            object_path: Another object than the shipped one.
            test_sandbox: Whom ``prog_test_run`` judges for, and whose every cgroup is. Tests only.
            degrade: Do without required hooks that this kernel does not take, but for egress;
                :meth:`missing_hooks` names them.
            adopt: Take over what is pinned in *pin_dir*, which may be nothing.
            event_budget: ``aw_event_budget``, if the object has it.
            pinning: Entered while the pin directory is made, and not for the second or two before.

        Raises:
            UnsupportedFeatureError: libbpf or a required hook is missing.
            VerifierError: The verifier rejected a program.
            KernelError: The object is missing, or not of this version of ``bpf/abi.h``; or it
                cannot take over what is pinned, which then stays as it is.
            HostError: *pin_dir* cannot be made.
        """
        bpf = BpfObject.open(object_path or OBJECT_PATH)
        inheritance = None
        try:
            configure(bpf, capacity or Capacity(), test_sandbox, event_budget)
            absent = hooks.choose_programs(bpf, degrade=degrade)
            inheritance = adoption.begin(bpf, pin_dir) if adopt and pin_dir else None
            bpf.load()
            wall = cls(bpf, pin_dir, absent, degrade=degrade, inheritance=inheritance)
        except BaseException:
            if inheritance:
                inheritance.close()
            bpf.close()
            raise
        with ExitStack() as undo:
            undo.callback(wall.close)
            wall._pin_maps_and_programs(pinning)
            undo.pop_all()
        return wall

    def attach(self, cgroup: Path, sandbox: SandboxKey) -> None:
        """Put every program at *cgroup*, which from now on is refused everything.

        Raises:
            HostError: *cgroup* is not one below the root of a cgroup v2 hierarchy.
            KernelError: A link was refused, and those made before it are gone again. A wall loaded
                to degrade bears that of all but egress.
        """
        if sandbox == NO_SANDBOX or sandbox in self._attachments:
            raise KernelError(
                errno.EINVAL, f"attach to {cgroup}: expected an unused sandbox id, got {sandbox}"
            )
        try:
            self._attachments.attach(cgroup, sandbox)
        except BaseException:
            self._forget(sandbox)
            raise

    def take_over(self, sandbox: SandboxKey, cgroup: Path) -> list[str]:
        """Have this wall's programs judge a bound *sandbox* of the predecessor, without a gap.

        Args:
            sandbox: Its key, as the predecessor had it.
            cgroup: Its cgroup; one made later under the same path is another sandbox's.

        Returns:
            What had to be repaired, a line each. Hooks that are new are no repair.

        Raises:
            HostError: As :meth:`attach`.
            KernelError: ENOENT: it is not bound; or a hook can be neither taken over nor attached,
                and what stood there stands. It may be tried again.
        """
        self._entries.expect_written(f"take over {cgroup}", sandbox)
        inherited = self._inheritance.programs if self._inheritance else frozenset()
        repaired = self._attachments.take_over(sandbox, cgroup, inherited)
        if self._entries.identify(sandbox, self._attachments.cgroup_id(sandbox) or 0):
            repaired.append("aw_sandbox_id: the cgroup was not this sandbox's")
        return repaired

    def settle(self) -> list[SandboxKey]:
        """Make the pins this wall's own, once every sandbox was taken over; again if that failed.

        Returns:
            Sandboxes of the predecessor that stand and were not taken over. Its programs judge
            them by its rules as before; :meth:`detach` ends that.

        Raises:
            KernelError: A pin cannot be moved or removed.
        """
        heir, pin_dir = self._inheritance, self._pin_dir
        if heir is None or pin_dir is None:
            return []
        left = pins.remove_stale_links(pin_dir, self._attachments.sandboxes())
        self._entries.take_counters(self._attachments.sandboxes())
        heir.settle()
        if not left:
            self._reports.let_go()
            self._entries.let_go()
            self._inheritance = None
            heir.close()
        return left

    @property
    def migrated(self) -> list[Migration]:
        """Maps of the predecessor that could not be kept, complete after :meth:`settle`."""
        return self._migrated

    def highest_generation(self) -> int:
        """Return the highest generation that a predecessor bound a sandbox to; 0: none."""
        return self._floor

    def apply(self, generation: int, tables: RuleTables) -> None:
        """Write the rules of a new generation; nothing points at it yet.

        Raises:
            KernelError: There is no room, or the generation is in use, or was by a predecessor.
        """
        if generation <= self._floor:
            what = f"expected one beyond the predecessor's {self._floor}, got {generation}"
            raise KernelError(errno.EEXIST, f"generation: {what}")
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
        slot = self._rule_maps.names_slot(settings.generation)
        self._entries.write(sandbox, pack_settings(sandbox, settings, slot))

    rebind = bind

    def activate(self, cgroup: Path, sandbox: SandboxKey) -> None:
        """Let the policy decide: the last step, after :meth:`attach` and :meth:`bind`.

        Raises:
            HostError: *cgroup* is no such directory.
            KernelError: ENOENT: nothing is attached there, or the sandbox is not bound.
        """
        self._entries.expect_written(f"activate {cgroup}", sandbox)
        found = self._attachments.cgroup_id(sandbox, cgroup)
        if found is None:
            with cgroup2.attachable(cgroup) as fd:
                found = cgroup2.id_of(fd)
        self._entries.identify(sandbox, found)

    def damage(self, sandbox: SandboxKey) -> list[str]:
        """Return which hooks of an attached *sandbox* do not hold, ``program: what is wrong``.

        Raises:
            KernelError: The kernel does not say.
        """
        return self._attachments.damage(sandbox)

    def repair(self, sandbox: SandboxKey, cgroup: Path) -> list[str]:
        """Put back what :meth:`damage` finds; return that.

        Raises:
            HostError: As :meth:`attach`.
            KernelError: It cannot be put back.
        """
        return self._attachments.repair(sandbox, cgroup)

    def check_maps(self, sandbox: SandboxKey) -> list[str]:
        """Write again what is not in the maps as it was written for *sandbox*; return what.

        Raises:
            KernelError: It cannot be read or written.
        """
        return self._entries.check(sandbox)

    def fileno(self) -> int:
        """Return a descriptor that polls readable while there are events."""
        return self._reports.fileno()

    def attempts(self, limit: int = DRAIN_LIMIT) -> list[Attempt]:
        """Take the events that are there, at most *limit* of each ring, denials first.

        Raises:
            EventDecodeError: An event does not match ``bpf/abi.h``; the other events of the call
                are lost.
        """
        return self._reports.attempts(limit)

    def excerpts(self) -> list[Excerpt | HelloSeen]:
        """Take what the decoders are to see, and ClientHellos, in the order in which it passed.

        Raises:
            EventDecodeError: As :meth:`attempts`.
        """
        return self._reports.excerpts()

    def totals(self) -> list[FlowTotals]:
        """Take what permitted flows have moved since the last call, removing it from the kernel.

        Raises:
            EventDecodeError: An entry does not match ``bpf/abi.h``.
        """
        return self._reports.totals()

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
        return self._entries.counters(sandbox)

    def programs(self) -> list[Program]:
        """Return the programs for cgroups; tests run them through :meth:`Program.test_run`."""
        return [p for p in self._bpf.programs() if p.autoload and p.name not in (BELT, PROGRAM)]

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
        return list(self._attachments.links(sandbox).values())

    def hooks(self, sandbox: SandboxKey) -> dict[str, Link]:
        """Return the links of an attached *sandbox* by the name of their program."""
        return self._attachments.links(sandbox)

    def missing_hooks(self, sandbox: SandboxKey) -> dict[str, str]:
        """Return why programs do not judge an attached *sandbox*, by name."""
        return self._attachments.missing(sandbox)

    def detach(self, sandbox: SandboxKey) -> None:
        """Take the wall from *sandbox*, whose processes must have ended; read its counters before.

        Raises:
            KernelError: A link could not be detached; it then stays, and denies.
        """
        self._entries.revoke(sandbox)  # first: else a scope above takes what passes for judged
        if self._pin_dir and self._inheritance and sandbox not in self._attachments:
            pins.detach_links(self._pin_dir, sandbox)
        self._attachments.detach(sandbox)
        self._forget(sandbox)

    def _forget(self, sandbox: SandboxKey) -> None:
        self._entries.forget(sandbox)
        self._names.drop(sandbox)

    def close(self) -> None:
        """Close the descriptors. What is pinned stays in force; what is not ends here."""
        self._reports.close()
        self._attachments.close()
        self._names.close()
        if self._inheritance:
            self._inheritance.close()
            self._inheritance = None
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

    def _pin_maps_and_programs(self, pinning: AbstractContextManager[object]) -> None:
        if self._pin_dir is not None:
            with pinning:
                place = adoption.make_place(self._pin_dir, self._inheritance)
                adoption.pin_wall(place, self._bpf, self._maps, self.programs())
        if self._inheritance:
            self._inheritance.prune()
