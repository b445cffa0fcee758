# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.tls``: what reading inside TLS costs, side by side in one run."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

from agentwall.host.signature_files import automaton_of, load_signature_files, shipped_signatures
from agentwall.kernel.plain import PlainCounts
from agentwall.policy.load import load_policy
from agentwall.probes.compiling import why_not
from bench.ground import lay_ground
from bench.machine import describe_machine
from bench.policies import write_policy
from bench.searches import Sought
from bench.tables import Table, as_markdown, as_text
from bench.tls_benign import REQUESTS, measure_benign
from bench.tls_cuts import measure_cuts, measure_held
from bench.tls_ground import serving
from bench.tls_samples import call_tasks, measure, tasks, write_upload
from bench.tls_tables import (
    benign_table,
    calls_table,
    clients_table,
    counts_table,
    cuts_table,
    held_table,
)
from bench.tls_variants import seats
from bench.toolchain import build_tls
from bench.variants import OTHER_CPU

EXIT_UNSUPPORTED = 77
_NEEDED = (
    "cc",
    "clang",
    "curl",
    "ip",
    "nginx",
    "nsenter",
    "openssl",
    "ss",
    "taskset",
    "wget",
    "wrk",
)
_ROUNDS = 9
_CUTS = 50


def measure_tls(
    scratch: Path, rounds: int, seconds: int, progress: Callable[[str], None]
) -> Iterator[Table]:
    """Measure all of it.

    Args:
        scratch: A directory to make.
        rounds: How often each variant is sampled.
        seconds: Of one run of wrk or s_time.
        progress: Is told what is next.
    """
    scratch.mkdir()
    # The program that is sandboxed lies in there, and whoever runs it must get to it.
    scratch.chmod(0o755)
    built = build_tls(Path("build/bench"))
    talk = Path(shutil.copy(built.talk, scratch))
    policy_path = write_policy(scratch / "policy")
    signatures = load_signature_files([str(shipped_signatures())]).signatures
    sought = Sought(signatures, automaton_of(signatures))
    write_upload(scratch / "upload")
    timed, called = tasks(talk, scratch / "upload", seconds), call_tasks(talk)
    os.sched_setaffinity(0, {OTHER_CPU})
    with lay_ground() as ground, serving(ground, talk, scratch / "far") as heard:
        policy = load_policy(policy_path)
        with seats(ground, scratch, policy, sought, built.trap_object) as prepared:
            calls = measure(prepared.of, called, rounds, progress)
            before = prepared.counts()
            samples = measure(prepared.of, timed, rounds, progress)
            counts = since(before, prepared.counts())
            compiled = prepared.compiled
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        progress("inside TLS: miners")
        cuts = measure_cuts(ground, talk, heard, policy_path, scratch, _CUTS)
    yield clients_table(samples, timed, rounds)
    yield calls_table(calls, rounds)
    yield counts_table(counts)
    yield cuts_table(cuts)
    yield benign_table(measure_benign(REQUESTS, progress))
    yield held_table(measure_held(scratch, progress), compiled)


def since(before: PlainCounts, after: PlainCounts) -> PlainCounts:
    """Return what was counted between two looks."""
    more = {f.name: getattr(after, f.name) - getattr(before, f.name) for f in fields(after)}
    return PlainCounts(**more)


def missing() -> list[str]:
    """Return what this needs that is not here."""
    found = [name for name in _NEEDED if shutil.which(name) is None]
    refused = why_not()
    return found + ([refused] if refused else [])


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="bench.tls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help=f"(default {_ROUNDS})")
    parser.add_argument("--seconds", type=int, default=1, help="of one run of wrk (default 1)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write tables as well")
    options = parser.parse_args()
    lacking = missing()
    if os.geteuid() != 0 or lacking or (os.cpu_count() or 1) < 2:
        wanted = f"expected root, two processors and {', '.join(_NEEDED)}"
        print(f"bench: {wanted}; missing: {', '.join(lacking) or 'none'}", file=sys.stderr)
        return EXIT_UNSUPPORTED
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    facts = describe_machine()
    with tempfile.TemporaryDirectory(prefix="agentwall-bench-") as directory:
        Path(directory).chmod(0o755)
        scratch = Path(directory) / "tls"
        tables = list(measure_tls(scratch, options.rounds, options.seconds, _progress))
    print("\n".join([*facts, "", *map(as_text, tables)]))
    if options.markdown:
        options.markdown.write_text("\n".join(map(as_markdown, tables)))
    return 0


def _progress(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
