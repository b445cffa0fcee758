/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What bcc includes before everything. These headers stand in for those of a kernel, so that programs
 * which use UAPI types only compile on a host that has neither kernel headers nor libc's.
 */
#define CONFIG_BPF_SYSCALL 1
/* bcc brings its own linux/bpf.h; another one is not to be read. */
#define __LINUX_BPF_H__
#include <linux/log2.h>
