/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef AGENTWALL_PROBES_PTRACE_H
#define AGENTWALL_PROBES_PTRACE_H

/* The kernel's names: Linux arch/x86/include/asm/ptrace.h, arch/arm64/include/asm/ptrace.h. */
struct pt_regs {
#if defined(__x86_64__)
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax;
	unsigned long ip, cs, flags, sp, ss;
#elif defined(__aarch64__)
	unsigned long regs[31], sp, pc, pstate;
#else
#error "probes: expected x86-64 or arm64"
#endif
};

#endif /* AGENTWALL_PROBES_PTRACE_H */
