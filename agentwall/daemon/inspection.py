# SPDX-License-Identifier: Apache-2.0
"""What a run looks for in its flows: signatures read and judged before anything is made.

Files and a policy in, then the kernel's tables. What does not fit is an error before the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentwall.daemon.inside_state import TlsUse
from agentwall.detect.judging import Masks, masks_of
from agentwall.detect.packed import PackedTable
from agentwall.detect.signature import SignatureSet
from agentwall.kernel.abi import Plain
from agentwall.kernel.signatures import Inspection
from agentwall.kernel.wall import Wall
from agentwall.policy.model import Inspect, Policy
from agentwall.policy.tables import RuleTables


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is looked for."""

    signatures: SignatureSet
    """Their lists of names hold whether or not there is a table."""
    table: PackedTable | None
    """None: every class that has signatures is off, and the kernel reads nothing."""
    masks: Masks
    depth_bytes: int
    inside: Plain
    """Whether what is said inside TLS is read."""

    @property
    def accepts(self) -> tuple[tuple[int, ...], ...]:
        """What the kernel's matches mean: sets of indices into the signatures."""
        return self.table.accepts if self.table is not None else ()


def inside_of(tables: RuleTables, use: TlsUse) -> Plain:
    """Return whether what is said inside TLS is read under rules that may say otherwise."""
    if use is TlsUse.OFF:
        return Plain.OFF
    is_all = all(rule.inspect is Inspect.ALL for rule in tables.rules)
    return Plain.ALL if is_all else Plain.JOINED


def plan_search(
    policy: Policy,
    tables: RuleTables,
    extra: Sequence[str] = (),
    tls: TlsUse = TlsUse.AUTO,
) -> Search:
    """Read the signatures of this host and *extra* files or directories, and judge them.

    Args:
        policy: In force.
        tables: Compiled from *policy*.
        extra: As ``--signatures`` names them.
        tls: Whether they are looked for inside TLS.

    Raises:
        PolicyError: With everything that is wrong with them, or that they need too many states.
        BudgetError: They have too many dialects, or need too many cells.
    """
    # pydantic comes with it, which a process that only holds a wall does without.
    from agentwall.host.signature_files import read_signatures, table_of

    signatures = read_signatures(extra)
    masks = masks_of(policy, tables, signatures)
    table = table_of(signatures) if masks.blocks | masks.alerts else None
    return Search(
        signatures=signatures,
        table=table,
        masks=masks,
        depth_bytes=policy.detect.depth_bytes,
        inside=inside_of(tables, tls),
    )


def begin_search(wall: Wall, search: Search, generation: int) -> Inspection | None:
    """Write what *search* needs into the kernel; it counts once a sandbox is bound with it.

    Args:
        wall: Loaded.
        search: What to look for.
        generation: Of the rules that have the exceptions.

    Returns:
        For ``SandboxSettings``; None where nothing is looked for.

    Raises:
        KernelError: There is no room.
    """
    if search.table is None:
        return None
    slot = wall.signatures.write(search.table)
    wall.signatures.apply_excepts(generation, search.masks.excepts)
    return Inspection(
        slot=slot, masks=search.masks, depth_bytes=search.depth_bytes, inside=search.inside
    )
