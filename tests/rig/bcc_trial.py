# SPDX-License-Identifier: Apache-2.0
"""Tries, where agentwall is installed, what reading inside TLS needs: for a Python of its own.

Prints a list of what is missing, ``[]`` where nothing is; ends with an error where bcc cannot
compile and load a program of the probes' kind.
"""

from __future__ import annotations

SCRIPT = """
import os, subprocess
from agentwall.cli.doctor_tls import inside_tls
from agentwall.probes.compiling import SOURCES

print([each.detail for each in inside_tls(is_able=True) if each.remedy])
tiny = "int aw_x(struct pt_regs *ctx) { return 0; }"
load = f"from bcc import BPF; BPF(text={tiny!r}).load_func('aw_x', BPF.KPROBE)"
headers = os.environ | {"BCC_KERNEL_SOURCE": f"{SOURCES}/headers"}
subprocess.run(["/usr/bin/python3", "-I", "-c", load], env=headers, check=True)
"""
