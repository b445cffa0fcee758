/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* bcc chooses by it between helpers; the oldest kernel that the probes load on is newer than this. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE	KERNEL_VERSION(5, 10, 0)
