# SPDX-License-Identifier: Apache-2.0
"""What looking for signatures costs: tables of the wall with it beside the wall without. Pure."""

from __future__ import annotations

import itertools

from bench.course import (
    AGAIN,
    AGENTWALL,
    BARE,
    EMPTY,
    FEW_SIGNATURES,
    INSPECTED,
    INSPECTED_PROFILED,
    JUDGED_ROADS,
    LINES,
    LINES_BYTES,
    LINES_VARIANTS,
    LOCAL,
    MANY_SIGNATURES,
    OPERATIONS,
    TALKS,
    Operation,
)
from bench.latency import Samples
from bench.programs import Costs
from bench.ratios import Spread, paired_ratio, spread
from bench.tables import Table

_ONCE_A_RUN = 0.5


def inspection_table(samples: Samples, rounds: int) -> Table:
    """Return the operations with signatures looked for, beside the wall without and bare."""
    rows = []
    for operation, road in itertools.product((*TALKS, *OPERATIONS), JUDGED_ROADS):
        of = {
            name: samples[operation.title, road.title, name]
            for name in (BARE, AGAIN, EMPTY, AGENTWALL, INSPECTED)
        }
        more = [one - other for one, other in zip(of[INSPECTED], of[AGENTWALL], strict=True)]
        rows.append(
            [
                operation.title,
                road.title,
                f"{spread(of[BARE]).median:.0f} ns",
                *(_ratio(paired_ratio(of[name], of[BARE])) for name in (AGAIN, EMPTY)),
                *(_ratio(paired_ratio(of[name], of[BARE])) for name in (AGENTWALL, INSPECTED)),
                _ratio(paired_ratio(of[INSPECTED], of[AGENTWALL])),
                f"{spread(more).median:.0f} ns",
            ]
        )
    return Table(
        title="What signatures cost a flow",
        note="The shipped signatures looked for, against bare and against the wall without them. "
        "The first rows are new flows that say something: connect, a request of 300 bytes, an "
        "answer of 300 bytes, close. Of HTTP all is read, for more may follow a head; TLS is "
        "settled by its first bytes, as are the zeros of '64 KiB sent and read' and UDP. Medians "
        f"of {rounds} ratios and quartiles.",
        header=[
            *("operation", "to", BARE, AGAIN, EMPTY, AGENTWALL, INSPECTED),
            *("against the wall without", "above it"),
        ],
        rows=rows,
    )


def bytes_table(samples: Samples, costs: Costs, rounds: int) -> Table:
    """Return what a byte costs that is read, with few signatures and with many."""
    rows = []
    few = _per_byte(samples, FEW_SIGNATURES)
    for name in LINES_VARIANTS[1:]:
        here = _per_byte(samples, name)
        rows.append(
            [
                "shipped" if name == INSPECTED else name,
                f"{spread(samples[LINES.title, LOCAL.title, name]).median / 1e3:.1f} us",
                _per_byte_text(spread(here)),
                _ratio(paired_ratio(here, few)),
                f"{_program_ns(costs, name) / LINES_BYTES:.2f} ns",
                f"{_program_ns(costs, name) / _program_ns(costs, FEW_SIGNATURES):.3f}",
                "1.0" if name == MANY_SIGNATURES else "-",
            ]
        )
    return Table(
        title="What a byte costs that is read",
        note="A flow of 64 KiB of JSON lines, in any of which something may begin that is looked "
        "for, so all of it is read; generated signatures are literals of JSON methods. 'a byte' "
        "is the time above the wall without signatures; the last columns are the kernel's own run "
        f"statistics of the same. Medians of {rounds} and quartiles.",
        header=[
            *("signatures", "an operation", "a byte", f"against {FEW_SIGNATURES}"),
            *("a byte, run statistics", f"against {FEW_SIGNATURES}", "target"),
        ],
        rows=rows,
    )


def _per_byte(samples: Samples, name: str) -> list[float]:
    of = (samples[LINES.title, LOCAL.title, each] for each in (name, AGENTWALL))
    return [max(with_ - without, 1.0) / LINES_BYTES for with_, without in zip(*of, strict=True)]


def _program_ns(costs: Costs, name: str) -> float:
    """Return nanoseconds of programs an operation, above those of the wall without signatures."""
    of = {
        each: sum(
            cost.runs * cost.ns
            for (title, _, variant), cost in costs.items()
            if (title, variant) == (LINES.title, each)
        )
        for each in (name, AGENTWALL)
    }
    return max(of[name] - of[AGENTWALL], 1.0)


def inspected_programs_table(costs: Costs) -> Table:
    """Return where the time goes that signatures take."""
    rows = []
    for operation in (*TALKS, *OPERATIONS):
        for hook in sorted(_hooks(costs, operation)):
            of = {name: costs.get((operation.title, hook, name)) for name in INSPECTED_PROFILED}
            wall, inspected = of[AGENTWALL], of[INSPECTED]
            if wall is None or inspected is None or inspected.runs < _ONCE_A_RUN:
                continue
            more = inspected.runs * inspected.ns - wall.runs * wall.ns
            ran = [f"{cost.ns:.0f} ns" if cost else "-" for cost in of.values()]
            rows.append([operation.title, hook, f"{inspected.runs:.2f}", *ran, f"{more:.0f} ns"])
    return Table(
        title="Where the time of signatures goes",
        note="Run statistics of the kernel as above. The last column is an operation's time with "
        "signatures above that of the wall without.",
        header=["operation", "hook", "runs an operation", *INSPECTED_PROFILED, "above the wall"],
        rows=rows,
    )


def _hooks(costs: Costs, operation: Operation) -> set[str]:
    return {
        hook
        for title, hook, name in costs
        if (title, name) == (operation.title, INSPECTED) and "gress" in hook
    }


def _ratio(value: Spread) -> str:
    return f"{value.median:.3f} ({value.low:.3f}-{value.high:.3f})"


def _per_byte_text(value: Spread) -> str:
    return f"{value.median:.2f} ns ({value.low:.2f}-{value.high:.2f})"
