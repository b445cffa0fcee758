# SPDX-License-Identifier: Apache-2.0
"""Object files are opened, configured and loaded; a rejected program says why."""

import struct

import pytest

from agentwall.errors import KernelError, VerifierError
from agentwall.kernel.libbpf import AttachType
from agentwall.kernel.objects import BpfObject, last_useful_line

pytestmark = pytest.mark.kernel

NULL_READ = "map_value_or_null"


def number(bpf, key: int) -> int:
    raw = bpf.maps()["numbers"].lookup(struct.pack("=I", key))
    return struct.unpack("=Q", raw)[0]


def test_constants_reach_the_programs(compile_bpf):
    """A constant of any width set before load is what the running program reads."""
    with BpfObject.open(compile_bpf("binding")) as bpf:
        bpf.set_constant("first_constant", 2**64 - 2)
        bpf.set_constant("second_constant", 7)
        bpf.load()
        bpf.program("on_egress").test_run(bytes(64))

        assert bpf.constant("first_constant") == 2**64 - 2
        assert (number(bpf, 0), number(bpf, 1)) == (2**64 - 2, 7)


@pytest.mark.parametrize(("size", "action"), [(64, 1), (300, 0)])
def test_test_run(compile_bpf, size, action):
    """A test run returns the program's verdict on the bytes it was given."""
    with BpfObject.open(compile_bpf("binding")) as bpf:
        bpf.load()
        run = bpf.program("on_egress").test_run(bytes(size), repeat=3)

        assert (run.retval, run.data_out) == (action, bytes(size))
        assert number(bpf, 2) == size - 14  # without the Ethernet header


def test_test_run_of_sock_addr(compile_bpf):
    """The kernel cannot test sock_addr programs, and says so."""
    with BpfObject.open(compile_bpf("binding")) as bpf:
        bpf.load()

        with pytest.raises(KernelError, match="program on_connect4: test run: "):
            bpf.program("on_connect4").test_run(bytes(64))


def test_sections(compile_bpf):
    """A program's attach type follows from its section."""
    with BpfObject.open(compile_bpf("binding")) as bpf:
        found = {program.name: program.attach_type for program in bpf.programs()}

    assert found == {"on_connect4": AttachType.CONNECT4, "on_egress": AttachType.INET_EGRESS}


def test_max_entries(compile_bpf):
    """A map has the size that was set before load."""
    with BpfObject.open(compile_bpf("binding")) as bpf:
        bpf.set_max_entries("numbers", 33)
        bpf.load()

        assert bpf.maps()["numbers"].shape.max_entries == 33
        with pytest.raises(KernelError, match="set max_entries to 5"):
            bpf.set_max_entries("numbers", 5)


def test_rejected(compile_bpf):
    """A rejected program is named, with the verifier's last useful line and its whole log."""
    with BpfObject.open(compile_bpf("rejected")) as bpf, pytest.raises(VerifierError) as caught:
        bpf.load()

    assert "program careless: rejected by the verifier: " in str(caught.value)
    assert NULL_READ in str(caught.value)
    assert len(caught.value.log.splitlines()) > 5


def test_not_loading_a_program(compile_bpf):
    """A program whose autoload is off is not loaded, and the others are."""
    with BpfObject.open(compile_bpf("rejected")) as bpf:
        bpf.program("careless").set_autoload(False)
        bpf.load()

        assert bpf.program("careful").fd >= 0
        with pytest.raises(KernelError, match="program careless"):
            _ = bpf.program("careless").fd


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda bpf: bpf.program("absent"), "expected a program absent, got none"),
        (lambda bpf: bpf.constant("absent"), "constant absent: expected it in .rodata"),
        (lambda bpf: bpf.set_max_entries("absent", 1), "map absent: set max_entries to 1"),
    ],
)
def test_absent_names(compile_bpf, call, message):
    """Asking for what the object does not have is an error that names it."""
    with BpfObject.open(compile_bpf("binding")) as bpf, pytest.raises(KernelError, match=message):
        call(bpf)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a BPF object, got no such file"),
        (b"no object", "open BPF object: not a BPF object"),
    ],
)
def test_no_object(tmp_path, content, message):
    """A file that is absent or not an object is an error with its path."""
    path = tmp_path / "x.bpf.o"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(KernelError, match=message) as caught:
        BpfObject.open(path)

    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (
            "0: (b7) r0 = 0\nR0 invalid mem access 'scalar'\n"
            "processed 7 insns (limit 1000000) max_states_per_insn 0\n",
            "R0 invalid mem access 'scalar'",
        ),
        (
            "unreachable insn 3\nverification time 12 usec\nstack depth 0\nprocessed 0 insns\n",
            "unreachable insn 3",
        ),
        (
            "R0 may be anything\n\nVerification failed: Safety\n\nSuggestion:\n  Do not.\n\n"
            "processed 7 insns\n",
            "R0 may be anything",
        ),
        ("\nVerification failed: Safety\n", "Verification failed: Safety"),
        ("\n", "no reason given"),
    ],
)
def test_last_useful_line(log, line):
    """The verifier's closing statistics and explanations are passed over."""
    assert last_useful_line(log) == line
