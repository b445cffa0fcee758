# SPDX-License-Identifier: Apache-2.0
"""A containerd of the test's own, and containers that ``ctr`` has it make, without any registry.

Its state is where its socket is, as usual. A container is in ``<parent>/<id>``; its root is an
overlay unless another snapshotter is named, or a directory of the host's.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rig.containers import (
    FOREVER,
    make_tree,
    spelled,
    succeeds,
    without_hierarchies_of_version_1,
    without_mounts,
)
from rig.process import run_checked, running
from rig.scratch import scratch

_TIMEOUT_S = 120.0
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_REGISTRY = "images.test"
"""Whose images they claim to be: containerd knows none that is nobody's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Containerd:
    """One that runs."""

    directory: Path
    """Everything it keeps is below."""

    @property
    def socket(self) -> Path:
        """Where it answers."""
        return self.directory / "state" / "containerd.sock"

    @property
    def bundles(self) -> Path:
        """Where those of its containers are, of one that ``ctr`` makes in ``default``."""
        return self.directory / "state" / "io.containerd.runtime.v2.task"

    def command(self, *words: str) -> list[str]:
        """Return the command line of ``ctr``."""
        return ["ctr", "-a", str(self.socket), *words]

    def call(self, *words: str) -> str:
        """Run ``ctr``, which must succeed; return what it printed."""
        return run_checked(*self.command(*words))

    def load(self, archive: Path, name: str, snapshotter: str = "overlayfs") -> None:
        """Take the files in *archive* for an image.

        Args:
            archive: Of tar, not compressed.
            name: As ``name:tag``.
            snapshotter: What is to have it.
        """
        wrapped = self.directory / "image.tar"
        _wrap(archive, wrapped, image_name(name))
        self.call("images", "import", "--snapshotter", snapshotter, str(wrapped))

    @contextmanager
    def mounted(self, name: str) -> Iterator[Path]:
        """Mount an image as a container's root would be; yield where."""
        place = self.directory / "mounted"
        place.mkdir()
        self.call("images", "mount", "--rw", image_name(name), str(place))
        try:
            yield place
        finally:
            self.call("images", "unmount", "--rm", str(place))
            place.rmdir()

    def start_words(self, *, detached: bool) -> list[str]:
        """Return how ``ctr run`` begins here."""
        places = ["--runc-root", str(self.directory / "runc")]
        ending = ["-d", "--null-io"] if detached else ["--rm", "--fifo-dir", str(self._fifos)]
        return ["run", *places, *ending]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a container to its end by ``ctr run``; *words* are options, image, id and command."""
        return self._run(*self.start_words(detached=False), *words)

    def run_in(self, identity: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run *command* in a container that runs; whatever it exits with."""
        words = ["--exec-id", "test", "--fifo-dir", str(self._fifos), identity]
        return self._run("task", "exec", *words, *command)

    def pid_of(self, identity: str) -> int:
        """Return the first process of a container."""
        return int((self.bundles / "default" / identity / "init.pid").read_text())

    def remove(self, identity: str) -> None:
        """Kill and remove a container, which need not exist any more."""
        for end in (("task", "rm", "-f", identity), ("container", "rm", identity)):
            self._run(*end)

    def remove_all(self) -> None:
        """Kill and remove every container."""
        for identity in self.call("container", "ls", "-q").split():
            self.remove(identity)

    @property
    def _fifos(self) -> Path:
        return self.directory / "fifos"

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
        )


def image_name(name: str) -> str:
    """Return how containerd calls the image that is loaded as *name*."""
    return f"{_REGISTRY}/{name}"


@contextmanager
def private_containerd() -> Iterator[Containerd]:
    """Run a containerd; end it, and what it runs, with the block."""
    with scratch("containerd") as directory:
        made = Containerd(directory=directory)
        configuration = directory / "config.toml"
        configuration.write_text(
            f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{made.socket}"\n'
        )
        with (
            without_mounts(directory),
            running(
                ["containerd", "-c", str(configuration)],
                log=directory / "log",
                ready=lambda: succeeds(*made.command("version")),
            ),
        ):
            try:
                yield made
            finally:
                # Its shims would outlive it.
                with suppress(RuntimeError):
                    made.remove_all()


@contextmanager
def containerd_sandbox(
    parent: Path, identity: str, annotations: Mapping[str, str]
) -> Iterator[tuple[Path, Path]]:
    """Run a container of busybox in ``<parent>/<identity>``.

    Yields the directory of its bundles and the container's cgroup.
    """
    with private_containerd() as made, without_hierarchies_of_version_1(spelled(parent)):
        tree = made.directory / "image"
        make_tree(tree)
        options = ["--rootfs", *place_words(parent, identity, annotations)]
        made.call(*made.start_words(detached=True), *options, str(tree), identity, *FOREVER)
        try:
            yield made.bundles, parent / identity
        finally:
            made.remove(identity)


def place_words(parent: Path, identity: str, annotations: Mapping[str, str]) -> Sequence[str]:
    """Return the options of ``ctr run`` for a container's cgroup and annotations."""
    labels = [f"--annotation={key}={text}" for key, text in annotations.items()]
    return ["--cgroup", f"{spelled(parent)}/{identity}", *labels]


def _wrap(layer: Path, archive: Path, name: str) -> None:
    """Write an image of one layer, as ``docker save`` does."""
    text = layer.read_bytes()
    digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
    configuration = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Env": ["PATH=/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    }
    listed = {"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}
    files = {
        "config.json": json.dumps(configuration).encode(),
        "layer.tar": text,
        "manifest.json": json.dumps([listed]).encode(),
    }
    with tarfile.open(archive, "w") as written:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            written.addfile(entry, io.BytesIO(content))
