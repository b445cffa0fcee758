# SPDX-License-Identifier: Apache-2.0
"""What is timed inside TLS is what it says: read or not, in a sandbox or not, and cut off."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path

import pytest

from agentwall.host.signature_files import automaton_of, load_signature_files, shipped_signatures
from agentwall.kernel.plain import PlainCounts
from agentwall.policy.load import load_policy
from bench.course import AGAIN, BARE
from bench.ground import lay_ground, run
from bench.policies import write_policy
from bench.searches import Sought
from bench.tls import since
from bench.tls_benign import Benign, measure_benign
from bench.tls_cuts import Cuts, Held, measure_cuts
from bench.tls_ground import copy_library, serving
from bench.tls_samples import (
    CALLS,
    TRANSFER_BYTES,
    call_tasks,
    measure,
    read_wrk,
    tasks,
    write_upload,
)
from bench.tls_tables import (
    benign_table,
    calls_table,
    clients_table,
    counts_table,
    cuts_table,
    held_table,
)
from bench.tls_variants import FOREIGN, OFF, READ, Compiled, seats
from bench.toolchain import build_tls

NONE = PlainCounts(**{field.name: 0 for field in fields(PlainCounts)})
WRK = """  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   110.93us   55.51us   2.33ms   93.84%
  Latency Distribution
     50%  100.00us
     75%  118.00us
     90%  140.00us
     99%    1.50ms
Requests/sec:   8000.00
Transfer/sec:      2.20MB
"""


@pytest.fixture(scope="module")
def laid(tmp_path_factory):
    """The ground, its servers, and every variant ready."""
    scratch = tmp_path_factory.mktemp("laid")
    scratch.chmod(0o755)
    built = build_tls(scratch / "built")
    policy = load_policy(write_policy(scratch / "policy"))
    signatures = load_signature_files([str(shipped_signatures())]).signatures
    sought = Sought(signatures, automaton_of(signatures))
    with ExitStack() as stack:
        ground = stack.enter_context(lay_ground())
        stack.enter_context(serving(ground, built.talk, scratch / "far"))
        trap = built.trap_object
        yield built.talk, stack.enter_context(seats(ground, scratch, policy, sought, trap))


@pytest.mark.kernel
@pytest.mark.slow
def test_each_variant_is_what_it_says(laid, tmp_path):
    """Only what the sandbox that reads says is read, and all its connections have a flow."""
    talk, prepared = laid
    write_upload(tmp_path / "upload")
    (_, out, _, ping, *_) = tasks(talk, tmp_path / "upload", 1)
    found = {}
    for name in (BARE, OFF, FOREIGN, READ):
        before = prepared.counts()
        samples = measure(
            {name: prepared.of[name]}, [_only(out, name), _only(ping, name)], 1, _hush
        )
        found[name] = since(before, prepared.counts())
        assert all(values[0] > 0 for values in samples.values())

    assert found[BARE] == found[OFF] == NONE
    assert found[FOREIGN].foreign > 0
    assert (found[FOREIGN].calls, found[FOREIGN].octets) == (0, 0)
    assert found[READ].calls > TRANSFER_BYTES // 16384
    assert found[READ].connections == found[READ].joined == 2
    assert 0 < found[READ].octets < 1 << 17
    assert len(prepared.compiled) >= 1


@pytest.mark.kernel
def test_calls_are_read_or_settled(laid):
    """What is called read is read, all of it and both ways; what is called settled is not."""
    talk, prepared = laid
    read, settled = call_tasks(talk)[:2]
    octets = []
    for task in (read, settled):
        before = prepared.counts()
        samples = measure({READ: prepared.of[READ]}, [_only(task, READ)], 1, _hush)
        octets.append(since(before, prepared.counts()).octets)
        assert len(samples) == 2

    assert octets[0] > 2 * 64 * 24576 > 100 * octets[1] > 0


def _only(task, name):
    return replace(task, variants=(name,))


def _hush(_: str) -> None:
    pass


@pytest.mark.kernel
def test_miners_are_cut_off(tmp_path):
    """Each connection ends with an error and a detection, and none of its text is heard."""
    tmp_path.chmod(0o755)
    talk = build_tls(tmp_path / "built").talk
    policy = write_policy(tmp_path / "policy")
    with lay_ground() as ground, serving(ground, talk, tmp_path / "far") as heard:
        cuts = measure_cuts(ground, talk, heard, policy, tmp_path, 3)

    assert cuts.connections == len(cuts.error_ms) == len(cuts.event_ms) == 3
    assert min(cuts.error_ms + cuts.event_ms) > 0
    assert cuts.octets_out == 0


@pytest.mark.kernel
@pytest.mark.slow
def test_benign_requests_are_read():
    """All are answered, all sessions read, and nothing is found."""
    (found,) = measure_benign(60, _hush, ("require",)).values()

    assert (found.asked, found.answered, found.matches) == (60, 60, 0)
    assert found.read == found.sessions > 0
    assert found.took_s > 0


def test_library_is_a_copy(tmp_path):
    """A program that is told to uses the copy, so its probes are nobody else's."""
    library = copy_library(tmp_path / "library")
    listed = run(*library.used_by("ldd", "/usr/bin/openssl"))

    assert str(library.file) in listed


def test_wrk_is_understood():
    """Microseconds of a request and of the median latency, whatever wrk's unit is."""
    assert read_wrk(WRK) == {"": 125.0, "median latency": 100.0}
    assert read_wrk(WRK.replace("100.00us", "1.50ms"))["median latency"] == 1500.0


@pytest.mark.parametrize(
    "said", ["", WRK.replace("8000.00", "0.00"), f"{WRK}Non-2xx or 3xx responses: 3\n"]
)
def test_failed_requests_are_no_sample(said):
    """Nothing asked, or nothing answered, is no figure."""
    with pytest.raises(RuntimeError, match="wrk: expected requests"):
        read_wrk(said)


def test_tables():
    """Clients are compared with bare, calls by what is above it."""
    (task, *_) = tasks(Path(), Path(), 1)
    title = task.title
    samples = {(title, name): [100.0] for name in (BARE, AGAIN, OFF)}
    samples |= {(title, READ): [150.0], (title, FOREIGN): [120.0]}
    calls = dict(
        zip([("c", name) for name in CALLS], [[400.0], [1200.0], [1300.0], [3400.0]], strict=True)
    )
    counts = replace(NONE, calls=1234, joined=7)
    day = Benign(asked=9, answered=8, sessions=5, read=4, untold=2, matches=0, took_s=1.25)
    cuts = Cuts(3, [1.0, 2.0, 9.0], [3.0, 4.0, 5.0], 0)
    held = {"off": Held(alone=40_000_000, with_one=41_000_000)}
    held["require"] = Held(alone=42_000_000, with_one=43_500_000)

    assert clients_table(samples, [task], 1).rows == [
        [
            *(title, "100 us a connection", "1.000 (1.000-1.000)", "1.000 (1.000-1.000)"),
            *("1.500 (1.500-1.500)", "1.200 (1.200-1.200)", "1.500 (1.500-1.500)"),
        ]
    ]
    assert calls_table(calls, 1).rows == [
        [
            *("c", "400 ns", "800 ns (800-800)", "900 ns (900-900)"),
            *("3000 ns (3000-3000)", "2200 ns (2200-2200)"),
        ]
    ]
    assert counts_table(counts).rows[0][1] == "1 234"
    assert benign_table({"auto": day}).rows == [["auto", "8 of 9", "5", "4", "2", "0", "1.2 s"]]
    assert cuts_table(cuts).rows[1][1] == "2.0 ms (9.0)"
    assert [row[1:] for row in held_table(held, [Compiled(0.5, 1000)]).rows] == [
        ["0.50 s (0.50-0.50)", "-"],
        ["1.0 MB", "-"],
        ["42.0 MB", "40.0 MB"],
        ["43.5 MB", "41.0 MB"],
    ]
