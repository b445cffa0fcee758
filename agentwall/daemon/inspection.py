# SPDX-License-Identifier: Apache-2.0
"""What a run looks for in its flows: signatures read and judged before anything is made.

Files and a policy in, then the kernel's tables. What does not fit is an error before the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentwall.detect.automaton import Automaton
from agentwall.detect.judging import Masks, masks_of
from agentwall.detect.signature import SignatureSet
from agentwall.host.signature_files import automaton_of, read_signatures
from agentwall.kernel.signatures import Inspection
from agentwall.kernel.wall import Wall
from agentwall.policy.model import Policy
from agentwall.policy.tables import RuleTables


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is looked for."""

    signatures: SignatureSet
    """Their lists of names hold whether or not there is an automaton."""
    automaton: Automaton | None
    """None: every class that has signatures is off, and the kernel reads nothing."""
    masks: Masks
    depth_bytes: int

    @property
    def accepts(self) -> tuple[tuple[int, ...], ...]:
        """What the kernel's matches mean: sets of indices into the signatures."""
        return self.automaton.accepts if self.automaton is not None else ()


def plan_search(policy: Policy, tables: RuleTables, extra: Sequence[str] = ()) -> Search:
    """Read the signatures of this host and *extra* files or directories, and judge them.

    Args:
        policy: In force.
        tables: Compiled from *policy*.
        extra: As ``--signatures`` names them.

    Raises:
        PolicyError: With everything that is wrong with them, or that they need too many states.
        BudgetError: They have too many dialects.
    """
    signatures = read_signatures(extra)
    masks = masks_of(policy, tables, signatures)
    is_on = masks.blocks | masks.alerts
    return Search(
        signatures=signatures,
        automaton=automaton_of(signatures) if is_on else None,
        masks=masks,
        depth_bytes=policy.detect.depth_bytes,
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
    if search.automaton is None:
        return None
    slot = wall.signatures.write(search.automaton, search.signatures)
    wall.signatures.apply_excepts(generation, search.masks.excepts)
    return Inspection(slot=slot, masks=search.masks, depth_bytes=search.depth_bytes)
