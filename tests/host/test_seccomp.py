# SPDX-License-Identifier: Apache-2.0
"""The filter on system calls: each verdict by interpretation, and the real thing in a sandbox."""

from __future__ import annotations

import errno
import platform
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from agentwall.host.seccomp import compile_filter, knows_machine, permitted_families

X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
X32 = 0x40000000
ALLOWED = 0
PLAIN = permitted_families(())
ABIS = [
    # machine, AUDIT_ARCH, ioctl, socket, socketpair, io_uring_setup
    ("x86_64", X86_64, 16, 41, 53, 425),
    ("x86_64", X86_64, X32 + 514, X32 + 41, X32 + 53, X32 + 425),
    ("x86_64", X86_64, X32 + 16, X32 + 41, X32 + 53, X32 + 425),
    ("x86_64", X86_64, 514, 41, 53, 425),
    ("x86_64", I386, 54, 359, 360, 425),
    ("aarch64", AARCH64, 29, 198, 199, 425),
    ("aarch64", ARM, 54, 281, 288, 425),
]
FAMILIES_TRIED = {
    "AF_UNIX": (1, ALLOWED),
    "AF_INET": (2, ALLOWED),
    "AF_INET6": (10, ALLOWED),
    "AF_NETLINK": (16, ALLOWED),
    "AF_UNSPEC": (0, errno.EAFNOSUPPORT),
    "AF_KEY": (15, errno.EAFNOSUPPORT),
    "AF_PACKET": (17, errno.EAFNOSUPPORT),
    "AF_RDS": (21, errno.EAFNOSUPPORT),
    "AF_PPPOX": (24, errno.EAFNOSUPPORT),
    "AF_CAN": (29, errno.EAFNOSUPPORT),
    "AF_TIPC": (30, errno.EAFNOSUPPORT),
    "AF_BLUETOOTH": (31, errno.EAFNOSUPPORT),
    "AF_RXRPC": (33, errno.EAFNOSUPPORT),
    "AF_ALG": (38, errno.EAFNOSUPPORT),
    "AF_VSOCK": (40, errno.EAFNOSUPPORT),
    "AF_KCM": (41, errno.EAFNOSUPPORT),
    "AF_QIPCRTR": (42, errno.EAFNOSUPPORT),
    "AF_SMC": (43, errno.EAFNOSUPPORT),
    "AF_XDP": (44, errno.EAFNOSUPPORT),
    "AF_MCTP": (45, errno.EAFNOSUPPORT),
}


def judge(
    arch: int, number: int, *arguments: int, machine: str = "x86_64", families=PLAIN
) -> int | str:
    """Interpret the filter for one system call; return the errno, 0 for allowed."""
    words = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, arch, 0, *words)
    code = list(struct.iter_unpack("=HBBI", compile_filter(machine, families)))
    word = at = 0
    while True:
        operation, if_true, if_false, operand = code[at]
        at += 1
        match operation:
            case 0x20:
                word = struct.unpack_from("=I", data, operand)[0]
            case 0x54:
                word &= operand
            case 0x15:
                at += if_true if word == operand else if_false
            case 0x06:
                return ALLOWED if operand == 0x7FFF0000 else operand - 0x50000


@pytest.mark.parametrize(("machine", "arch", "ioctl", "sock", "pair", "ring"), ABIS)
def test_every_abi(machine, arch, ioctl, sock, pair, ring):
    """Each ABI of a machine has the same calls refused, and no others."""

    def ask(number: int, *arguments: int, families=PLAIN) -> int:
        return judge(arch, number, *arguments, machine=machine, families=families)

    assert [ask(number, socket.AF_VSOCK, 1) for number in (sock, pair)] == [97, 97]
    assert [ask(number, socket.AF_UNIX, 1) for number in (sock, pair)] == [ALLOWED, ALLOWED]
    assert ask(ring, 4) == errno.ENOSYS
    assert [ask(ioctl, 0, request) for request in (0x5412, 0x541C, 0x5413)] == [1, 1, ALLOWED]
    assert ask(ioctl, 0x5412, 0) == ALLOWED
    known = {ioctl, sock, pair, ring}
    if arch == X86_64:
        known = {bit + number for bit in (0, X32) for number in (16, 514, 41, 53, 425)}
    others = [number for number in range(600) if number not in {*known, 102, 54}]
    assert {ask(number, socket.AF_VSOCK, 0x5412) for number in others} == {ALLOWED}


@pytest.mark.parametrize(("machine", "arch", "ioctl", "sock", "pair", "ring"), ABIS)
def test_every_abi_open(machine, arch, ioctl, sock, pair, ring):
    """Without a list of families only typing for others is refused."""

    def ask(number: int, *arguments: int) -> int:
        return judge(arch, number, *arguments, machine=machine, families=None)

    calls = [(sock, 40), (pair, 40), (ring, 4), (102, 1), (ioctl, 0, 0x5413)]
    assert [ask(*call) for call in calls] == [ALLOWED] * 5
    assert ask(ioctl, 0, 0x5412) == errno.EPERM


@pytest.mark.parametrize("families", [None, PLAIN])
@pytest.mark.parametrize(
    ("machine", "arch", "number"),
    [
        ("x86_64", X86_64, 54),
        ("x86_64", X86_64, 541),
        ("x86_64", X86_64, X32 + 541),
        ("x86_64", I386, 366),
        ("aarch64", AARCH64, 208),
        ("aarch64", ARM, 294),
    ],
)
def test_options(machine, arch, number, families):
    """Two options are refused at their own level, told by the low 32 bits, and no others."""
    high = 1 << 32
    tried = [(1, 60), (1 | high, 60 | high), (6, 19), (6 | high, 19), (1, 19), (6, 60), (0, 60)]

    seen = [judge(arch, number, 3, *o, machine=machine, families=families) for o in tried]
    assert seen == [errno.EPERM] * 4 + [ALLOWED] * 3


@pytest.mark.parametrize("family", FAMILIES_TRIED)
def test_families(family):
    """Four families are permitted, and a family is told by its low 32 bits, as the kernel does."""
    number, expected = FAMILIES_TRIED[family]

    seen = [judge(X86_64, 41, number | high, 1) for high in (0, 1 << 32, 0xFFFFFFFF << 32)]
    assert seen == [expected] * 3


@pytest.mark.parametrize("flags", [0, socket.SOCK_CLOEXEC, 1 << 32])
def test_packet_socket_by_its_old_name(flags):
    """AF_INET with SOCK_PACKET is an AF_PACKET socket, and is judged as one."""
    kept = permitted_families(("NET_RAW",))

    assert judge(X86_64, 41, socket.AF_INET, 10 | flags) == errno.EAFNOSUPPORT
    assert judge(X86_64, 41, socket.AF_INET, socket.SOCK_STREAM | flags) == ALLOWED
    assert judge(X86_64, 41, socket.AF_INET, 10 | flags, families=kept) == ALLOWED
    assert judge(X86_64, 41, socket.AF_PACKET, 3, families=kept) == ALLOWED
    assert judge(X86_64, 41, 44, 3) == errno.EAFNOSUPPORT


@pytest.mark.parametrize("call", range(1, 21))
def test_socketcall(call):
    """Of ia32's socketcall(2) what makes sockets or sets options is refused: it cannot be seen."""
    expected = {1: errno.EAFNOSUPPORT, 8: errno.EAFNOSUPPORT, 14: errno.EPERM}.get(call, ALLOWED)

    assert judge(I386, 102, call) == expected


@pytest.mark.parametrize(("machine", "arch"), [("x86_64", AARCH64), ("aarch64", X86_64)])
def test_abi_that_the_machine_lacks(machine, arch):
    """A system call of an ABI that is not known is refused, whatever it is."""
    assert {judge(arch, number, machine=machine) for number in range(500)} == {errno.ENOSYS}


def test_unknown_machine():
    """A machine whose system call numbers are not known gets no wrong filter."""
    assert not knows_machine("pdp11")
    assert compile_filter("pdp11", PLAIN) is None


needs_filter = pytest.mark.skipif(
    not knows_machine(platform.machine()), reason="no filter for this machine"
)
needs_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="ia32 is an ABI of x86_64")

TRY_FAMILIES = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for family in {[number for number, _ in FAMILIES_TRIED.values()]}:
    for kind in (1, 2, 3, 5):
        made = libc.socket(family, kind, 0)
        print(family, kind, 0 if made >= 0 else ctypes.get_errno())
    pair = (ctypes.c_int * 2)()
    print(family, "pair", 0 if libc.socketpair(family, 1, 0, pair) == 0 else ctypes.get_errno())
"""
HIGH_BITS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
number = {number}
for family in (40 | 1 << 32, 40 | 0xFFFFFFFF << 32, 1 | 1 << 32):
    made = libc.syscall(ctypes.c_long(number), ctypes.c_ulong(family), ctypes.c_long(1), 0)
    print(0 if made >= 0 else ctypes.get_errno())
"""
RING = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syscall(425, 4, ctypes.create_string_buffer(120)), ctypes.get_errno())
"""


OPTIONS = """
import ctypes, socket
libc = ctypes.CDLL(None, use_errno=True)
one = ctypes.byref(ctypes.c_int(1))
stream = socket.socket()
for level, name in ((1, 60), (1 | 1 << 32, 60 | 1 << 32), (6, 19), (1, 9), (6, 1)):
    words = [ctypes.c_ulong(word) for word in ({number}, stream.fileno(), level, name)]
    done = libc.syscall(*words, one, ctypes.c_ulong(4))
    print(0 if done == 0 else ctypes.get_errno())
"""


@pytest.fixture
def run_python(run_inside, public_path):
    """A function that runs a Python program in a sandbox; returns the lines it prints."""

    def run(code: str, **options: object) -> list[str]:
        program = public_path / "program.py"
        program.write_text(code)
        exit_code, output = run_inside(f"exec python3 {program}", **options)

        assert exit_code == 0, output
        return output.splitlines()

    return run


@needs_filter
@pytest.mark.kernel
@pytest.mark.parametrize("number", ["0x5412", "0x541c", "0x100005412"])
@pytest.mark.parametrize("families", [None, PLAIN])
def test_typing_refused(run_python, number, families):
    """Pushing input into a terminal is refused, whatever the upper bits of the request say."""
    code = (
        "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True); "
        "master, slave = os.openpty(); "
        f"r = libc.ioctl(slave, ctypes.c_ulong({number}), b'x'); print(r, ctypes.get_errno())"
    )

    assert run_python(code, families=families) == ["-1 1"]


@pytest.mark.kernel
def test_other_ioctls_work(run_python):
    """Other requests reach the terminal's driver."""
    code = "import os; master, slave = os.openpty(); print(os.get_terminal_size(slave).columns)"

    assert run_python(code) == ["0"]


@needs_filter
@pytest.mark.kernel
@pytest.mark.parametrize("user", [None, "nobody"])
def test_families_refused(run_python, user):
    """For root and for others, no socket of another family can be made, whatever its type."""
    lines = [line.split() for line in run_python(TRY_FAMILIES, user=user, families=PLAIN)]

    refused = {int(family) for family, *_, code in lines if int(code) == errno.EAFNOSUPPORT}
    made = {int(family) for family, *_, code in lines if int(code) == 0}
    assert refused == {number for number, code in FAMILIES_TRIED.values() if code}
    assert made == {number for number, code in FAMILIES_TRIED.values() if not code}


@pytest.mark.kernel
def test_families_open(run_python):
    """Without a list the kernel itself decides: what it knows outside opens inside."""
    possible = []
    for family, kind in ((socket.AF_VSOCK, 1), (socket.AF_ALG, 5)):
        try:
            socket.socket(family, kind).close()
            possible.append(f"{int(family)} {kind} 0")
        except OSError:
            continue

    assert set(possible) <= set(run_python(TRY_FAMILIES))


@needs_filter
@pytest.mark.kernel
def test_packet_socket_kept(run_python):
    """With NET_RAW kept AF_PACKET opens, by either name, and nothing else does."""
    options = {"capabilities": ("NET_RAW",), "families": permitted_families(("NET_RAW",))}
    lines = run_python(TRY_FAMILIES, **options)
    old = "import socket; socket.socket(socket.AF_INET, 10, 0x0300); print('made')"

    assert {"17 3 0", "40 1 97"} <= set(lines)
    assert run_python(old, **options) == ["made"]


@needs_filter
@pytest.mark.kernel
def test_family_with_high_bits(run_python):
    """A family hidden behind bits that the kernel ignores is refused, or permitted, as itself."""
    number = {"x86_64": 41, "aarch64": 198}[platform.machine()]

    assert run_python(HIGH_BITS.format(number=number), families=PLAIN) == ["97", "97", "0"]


@needs_filter
@pytest.mark.kernel
@pytest.mark.parametrize("families", [None, PLAIN])
@pytest.mark.parametrize("capabilities", [(), ("NET_ADMIN",)])
def test_rewriting_refused(run_python, families, capabilities):
    """SO_ZEROCOPY and TCP_REPAIR are refused to any command; SO_KEEPALIVE and TCP_NODELAY work."""
    number = {"x86_64": 54, "aarch64": 208}[platform.machine()]
    code = OPTIONS.format(number=number)

    seen = run_python(code, families=families, capabilities=capabilities)
    assert seen == ["1", "1", "1", "0", "0"]


@needs_filter
@pytest.mark.kernel
@pytest.mark.parametrize("user", [None, "nobody"])
def test_no_ring(run_python, user):
    """io_uring_setup(2) fails as on a kernel without it, and does not without a list."""
    assert run_python(RING, user=user, families=PLAIN) == [f"-1 {errno.ENOSYS}"]
    assert run_python(RING, user=user) != [f"-1 {errno.ENOSYS}"]


@needs_filter
@pytest.mark.kernel
def test_cannot_be_removed(run_python):
    """The filter holds through execve() and in threads, and filters that allow all lift nothing."""
    code = """
import ctypes, os, struct, subprocess, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
allow = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000))
program = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", 1, ctypes.addressof(allow)))
print(libc.prctl(22, 2, program, 0, 0))  # another filter on top
print(libc.prctl(22, 0, 0, 0, 0))        # mode 0: none
print(libc.prctl(38, 0, 0, 0, 0))        # no_new_privs off
attempt = "import socket\\ntry:\\n socket.socket(40, 1)\\nexcept OSError as e:\\n print(e.errno)"
thread = threading.Thread(target=exec, args=(attempt,))
thread.start()
thread.join()
sys.stdout.flush()
subprocess.run([sys.executable, "-c", attempt])
os.execv("/bin/sh", ["sh", "-c", f"exec {sys.executable} -c '{attempt}'"])
"""
    lines = run_python(code, families=PLAIN)

    assert lines[:3] == ["0", "-1", "-1"]
    assert sorted(lines[3:]) == ["97"] * 3


IA32 = Path(__file__).parent / "ia32.c"
STANDALONE = ("-nostdlib", "-static", "-fno-pie", "-no-pie", "-fno-stack-protector", "-Wall")


@pytest.fixture
def ia32_program(public_path):
    """A function that compiles ia32.c for 64 or 32 bits; skips where ia32 calls do not work."""

    def build(bits: int) -> str:
        made = public_path / f"ia32-{bits}"
        machine = {64: "-m64", 32: "-m32"}[bits]
        built = subprocess.run(
            ["gcc", "-O1", machine, *STANDALONE, IA32, "-o", made],
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode:
            pytest.skip(f"gcc makes no {bits}-bit program here: {built.stderr.splitlines()[-1]}")
        outside = subprocess.run([made], capture_output=True, text=True, check=False)
        if outside.returncode or outside.stdout.split()[-1:] != ["0"]:
            pytest.skip("this kernel runs no ia32 system calls")
        return str(made)

    return build


@needs_x86
@pytest.mark.kernel
@pytest.mark.parametrize("bits", [64, 32])
def test_ia32(run_inside, ia32_program, bits):
    """By int 0x80 no other way leads to such a socket: not socketcall, not socket, not a ring."""
    program = ia32_program(bits)
    code, output = run_inside(f"exec {program}", families=PLAIN)

    assert code == 0
    assert output.split() == ["-97", "-97", "-97", "-97", "-97", "-97", "-38", "0"]


@needs_x86
@pytest.mark.kernel
@pytest.mark.parametrize("bits", [64, 32])
def test_ia32_open(run_inside, ia32_program, bits):
    """Without a list the same calls are the kernel's to answer, and some of them open."""
    _, output = run_inside(f"exec {ia32_program(bits)}")

    assert int(output.split()[2]) >= 0
    assert output.split()[-1] == "0"
