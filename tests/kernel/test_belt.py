# SPDX-License-Identifier: Apache-2.0
"""The belt at real interfaces: refused questions come back as answers, and never leave."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from rig.cgroup import temp_cgroup
from rig.lab import FAR4, NEAR4, NEAR6, NEAR_DEVICE, Lab, lab
from rig.namespace import Namespace, temp_netns
from rig.refusal import (
    ANSWER_S,
    SILENCE_S,
    ask,
    egress_of,
    loaded_rig,
    make_belt,
    put_on,
    skip_without_tcx,
)
from rig.sniffer import Sniffer, sniff

from agentwall.errors import KernelError
from agentwall.kernel import abi, pins
from agentwall.kernel.belt import BELT, Interface, interfaces, new_mark
from agentwall.kernel.objects import BpfObject

pytestmark = pytest.mark.kernel

SERVER4, SERVER6 = "198.51.100.53", "2001:db8:53::53"
REFUSED = "12340100000100000000000002787804746573740000010001"
"""A question for xx.test."""
PERMITTED = REFUSED.replace("7878", "7979")
ANSWER = REFUSED[:4] + "8183" + REFUSED[8:]
RECVERR4, RECVERR6 = f"{socket.SOL_IP},11,1", f"{socket.IPPROTO_IPV6},25,1"
NO_SUM = f"{socket.SOL_SOCKET},11,1"
TELL_MARK = f"{socket.SOL_SOCKET},75,1"
SEGMENTS = f"{socket.SOL_UDP if hasattr(socket, 'SOL_UDP') else 17},103,{len(REFUSED) // 2}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A lab, its wire, a cgroup in which xx.test is refused, and the programs."""

    lab: Lab
    wire: Sniffer
    cgroup: Path
    bpf: BpfObject

    def ask(self, server: str, *options: str, question: str = REFUSED, how: str = "sent") -> str:
        """Ask *server* from inside; return what came back, or the error."""
        return ask(self.lab.near, self.cgroup, server, *options, question=question, how=how)

    def ask_in_vain(self, server: str, question: str = REFUSED) -> None:
        """Ask *server*, which is not to answer."""
        heard = ask(self.lab.near, self.cgroup, server, question=question, wait_s=SILENCE_S)
        assert heard == "TimeoutError None"

    def crossed(self, server: str) -> int:
        """Return how many packets to *server* have crossed, and forget them."""
        self.wire.settle()
        count = len(self.wire.to(server))
        self.wire.clear()
        return count


@pytest.fixture(scope="module")
def shared(compile_bpf: Callable[[str], Path]) -> Iterator[Bench]:
    """Everything but the belt, built once."""
    skip_without_tcx()
    with (
        loaded_rig(compile_bpf("belt_rig")) as bpf,
        lab() as made,
        temp_cgroup() as cgroup,
        sniff(made) as wire,
        egress_of(bpf, cgroup),
    ):
        yield Bench(lab=made, wire=wire, cgroup=cgroup, bpf=bpf)


@pytest.fixture
def bench(shared: Bench) -> Bench:
    """The same, with a wire that nothing has crossed yet."""
    shared.wire.clear()
    return shared


@pytest.mark.parametrize(
    ("server", "options"),
    [
        (SERVER4, ()),
        (SERVER6, ()),
        (SERVER4, (RECVERR4,)),
        (SERVER6, (RECVERR6,)),
        (SERVER4, (NO_SUM,)),
    ],
)
@pytest.mark.parametrize("how", ["sent", "connected"])
def test_answers(bench: Bench, server: str, options: tuple[str, ...], how: str) -> None:
    """A refused question comes back as the server's answer, without the mark; nothing crosses."""
    with closing(make_belt(bench.bpf, bench.lab.near)) as belt:
        put_on(belt, bench.lab.near)
        heard = bench.ask(server, *options, TELL_MARK, how=how)

        assert heard in (f"{ANSWER} {server} 53 0", f"{ANSWER} {server} 53")
        assert bench.crossed(server) == 0


def test_permitted_leaves(bench: Bench) -> None:
    """A question that is not marked crosses as it is."""
    with closing(make_belt(bench.bpf, bench.lab.near)) as belt:
        put_on(belt, bench.lab.near)
        bench.ask_in_vain(SERVER4, PERMITTED)
        bench.wire.settle()

    assert bench.wire.payload_to(SERVER4, 53).hex() == PERMITTED


def test_several_questions_in_one(bench: Bench) -> None:
    """Two refused questions that the kernel would cut from one send (UDP_SEGMENT) do not leave."""
    with closing(make_belt(bench.bpf, bench.lab.near)) as belt:
        put_on(belt, bench.lab.near)
        heard = bench.ask(SERVER4, SEGMENTS, RECVERR4, question=REFUSED * 2)

        assert heard == f"OSError {errno.ENOBUFS}"
        assert bench.crossed(SERVER4) == 0


def test_fragments(bench: Bench) -> None:
    """Egress sees a question whole; cut for a small MTU, none of its fragments leaves."""
    near = bench.lab.near
    with closing(make_belt(bench.bpf, near)) as belt:
        put_on(belt, near)
        near.ip("link", "set", NEAR_DEVICE, "mtu", "1300")
        heard = bench.ask(SERVER4, RECVERR4, question=REFUSED + "00" * 1350)
        near.ip("link", "set", NEAR_DEVICE, "mtu", "1500")

        assert heard == f"OSError {errno.ENOBUFS}"
        assert bench.crossed(SERVER4) == 0


def test_waits_for_a_neighbour(bench: Bench) -> None:
    """A question that waits for the server's link address is answered once that is known."""
    near = bench.lab.near
    with closing(make_belt(bench.bpf, near)) as belt:
        put_on(belt, near)
        near.ip("neighbour", "del", FAR4, "dev", NEAR_DEVICE)

        assert bench.ask(SERVER4) == f"{ANSWER} {SERVER4} 53"
        assert bench.crossed(SERVER4) == 0


def test_many_at_once(bench: Bench) -> None:
    """Of many questions from several threads each is answered, to whom it belongs."""
    script = """
import socket, sys, threading
question = bytes.fromhex(sys.argv[2])
def ask(first):
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asker.settimeout(60)
    for number in range(first, first + 500):
        asker.sendto(number.to_bytes(2, "big") + question[2:], (sys.argv[1], 53))
        good[first] += asker.recv(512)[:4] == number.to_bytes(2, "big") + b"\\x81\\x83"
good = dict.fromkeys(range(0, 4000, 500), 0)
threads = [threading.Thread(target=ask, args=(first,)) for first in good]
for each in threads: each.start()
for each in threads: each.join()
print(sum(good.values()))
"""
    with closing(make_belt(bench.bpf, bench.lab.near)) as belt:
        put_on(belt, bench.lab.near)
        command = (sys.executable, "-I", "-S", "-c", script, SERVER4, REFUSED)
        done = bench.lab.near.run(*command, cgroup=bench.cgroup)

        assert (done.stdout.strip(), done.stderr) == ("4000", "")
        assert bench.crossed(SERVER4) == 0


def test_stands_before_others(bench: Bench) -> None:
    """A program that lets everything pass does not let a marked question pass."""
    near = bench.lab.near
    with (
        closing(make_belt(bench.bpf, near, "let_pass")) as other,
        closing(make_belt(bench.bpf, near)) as belt,
    ):
        put_on(other, near)
        put_on(belt, near)

        assert bench.ask(SERVER4).startswith(ANSWER)
        assert bench.crossed(SERVER4) == 0


def test_who_administers_the_interface(bench: Bench) -> None:
    """CAP_NET_ADMIN takes the mark off before the belt: with_belt has none where it is kept."""
    near = bench.lab.near
    rules = f"""
        table netdev t {{
          chain c {{ type filter hook egress device {NEAR_DEVICE} priority 0;
            meta mark set 0
          }}
        }}
    """
    with closing(make_belt(bench.bpf, near)) as belt:
        put_on(belt, near)
        load_rules(near, rules)
        bench.ask_in_vain(SERVER4)
        near.run("nft", "delete", "table", "netdev", "t")

        assert bench.crossed(SERVER4) == 1


def test_entries_and_links(bench: Bench) -> None:
    """aw_belts lists exactly the interfaces where the belt stands, and none once it is closed."""
    near, listed = bench.lab.near, bench.bpf.maps()["aw_belts"]
    found = {interface.name: interface for interface in near.call(interfaces)}
    belt = make_belt(bench.bpf, near)
    near.call(lambda: belt.attach(found[NEAR_DEVICE]))
    (entry,) = listed.entries()
    key = abi.BeltKey.from_buffer_copy(entry[0])

    assert belt.standing() == [found[NEAR_DEVICE].ifindex] == [key.ifindex]
    assert key.netns != 0
    assert entry[1] == struct.pack("=I", abi.BELT_STANDS | abi.BELT_TRANSLATED)
    belt.close()
    assert (belt.standing(), listed.entries()) == ([], [])
    bench.ask_in_vain(SERVER4)
    assert bench.crossed(SERVER4) == 1


def test_interface_that_goes(bench: Bench) -> None:
    """An interface that was removed is listed no longer."""
    near = bench.lab.near
    near.ip("link", "add", "pair0", "type", "veth", "peer", "name", "pair1")
    with closing(make_belt(bench.bpf, near)) as belt:
        put_on(belt, near)
        before = belt.standing()
        near.ip("link", "del", "pair0")
        after = belt.standing()

        assert (len(before), len(after)) == (4, 2)
        assert len(bench.bpf.maps()["aw_belts"].entries()) == 2


def test_pinned(bench: Bench, tmp_path: Path) -> None:
    """Pinned, the belt outlives its maker, and clear_pins takes it off."""
    near = bench.lab.near
    point = pins.mount_bpffs(tmp_path / "bpf")
    run = point / "run"
    belt = make_belt(bench.bpf, near, pin_dir=run / pins.LINKS)
    try:
        pins.make_pin_dir(run)
        for link in put_on(belt, near):
            link.close()

        assert bench.ask(SERVER4).startswith(ANSWER)
        assert pins.clear_pins(run) == 2
        bench.ask_in_vain(SERVER4)
        assert bench.crossed(SERVER4) == 1
    finally:
        belt.close()
        pins.clear_pins(run)
        pins.unmount_bpffs(point)


def test_no_such_interface(bench: Bench) -> None:
    """An interface that is not there is an error, and leaves no entry."""
    belt = make_belt(bench.bpf, bench.lab.near)
    gone = Interface(name="gone0", ifindex=0x7FFFFFFF, is_loopback=False)
    with pytest.raises(KernelError, match=f"attach {BELT} to gone0: no such device"):
        belt.attach(gone)

    assert (belt.standing(), bench.bpf.maps()["aw_belts"].entries()) == ([], [])


@pytest.mark.parametrize("server", ["127.0.0.1", "127.0.0.53", "::1", NEAR4, NEAR6])
def test_on_loopback(bench: Bench, server: str) -> None:
    """A server of the same namespace is asked through lo, and does not hear the question."""
    near = bench.lab.near
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with (
        near.socket(family, socket.SOCK_DGRAM) as listening,
        closing(make_belt(bench.bpf, near)) as belt,
    ):
        listening.bind((server, 53))
        listening.setblocking(False)
        put_on(belt, near)

        assert bench.ask(server).split()[:3] == [ANSWER, server, "53"]
        with pytest.raises(BlockingIOError):
            listening.recv(512)


def load_rules(namespace: Namespace, rules: str) -> None:
    """Load nftables *rules* in *namespace*."""
    done = namespace.run("nft", "-f", "-", text=rules)
    if done.returncode != 0:
        pytest.skip(f"nft: {done.stderr.splitlines()[0]}")


def translate(namespace: Namespace, server: str, target: str, port: int) -> None:
    """Send what goes to port 53 of *server* to *port* of *target*, as Docker does."""
    rules = f"""
        table ip belt {{
          chain out {{ type nat hook output priority -100;
            ip daddr {server} udp dport 53 dnat to {target}:{port}
          }}
        }}
    """
    load_rules(namespace, rules)


def test_translated(compile_bpf: Callable[[str], Path]) -> None:
    """An answer to a question that was sent elsewhere comes from where it was sent to."""
    skip_without_tcx()
    with (
        loaded_rig(compile_bpf("belt_rig"), port=5353) as bpf,
        lab() as made,
        temp_cgroup() as cgroup,
        sniff(made) as wire,
        egress_of(bpf, cgroup),
        closing(make_belt(bpf, made.near)) as belt,
    ):
        translate(made.near, SERVER4, "198.51.100.99", 5353)
        put_on(belt, made.near)

        assert ask(made.near, cgroup, SERVER4, question=REFUSED) == f"{ANSWER} {SERVER4} 53"
        wire.settle()
        assert wire.packets() == []


@pytest.mark.parametrize("routes", [False, True])
def test_translated_on_loopback(compile_bpf: Callable[[str], Path], routes: bool) -> None:
    """Docker's 127.0.0.11 needs route_localnet on lo, and aw_belts says whether it is there."""
    skip_without_tcx()
    with (
        loaded_rig(compile_bpf("belt_rig"), port=5353) as bpf,
        temp_netns("docker") as near,
        temp_cgroup() as cgroup,
        near.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening,
        egress_of(bpf, cgroup),
        closing(make_belt(bpf, near)) as belt,
    ):
        near.set("net/ipv4/conf/lo/route_localnet", int(routes))
        translate(near, "127.0.0.11", "127.0.0.11", 5353)
        listening.bind(("127.0.0.11", 5353))
        listening.setblocking(False)
        put_on(belt, near)
        ((_, value),) = bpf.maps()["aw_belts"].entries()
        wait_s = ANSWER_S if routes else SILENCE_S
        heard = ask(near, cgroup, "127.0.0.11", question=REFUSED, wait_s=wait_s)

        assert bool(value[0] & abi.BELT_TRANSLATED) is routes
        assert heard == (f"{ANSWER} 127.0.0.11 53" if routes else "TimeoutError None")
        with pytest.raises(BlockingIOError):
            listening.recv(512)


def test_interfaces() -> None:
    """Ethernet and loopback interfaces are found, up or down; no others are."""
    with temp_netns("kinds") as near:
        near.ip("link", "add", "pair0", "type", "veth", "peer", "name", "pair1")
        near.ip("tuntap", "add", "plain0", "mode", "tun")
        found = near.call(interfaces)

    assert {(each.name, each.is_loopback) for each in found} == {
        ("lo", True),
        ("pair0", False),
        ("pair1", False),
    }
    assert found[0].ifindex == 1


def test_marks_are_secret() -> None:
    """No two objects share a mark, and none has 0, which means no belt."""
    marks = {new_mark() for _ in range(100)}

    assert len(marks) == 100
    assert all(0 < mark < 1 << 32 for mark in marks)
