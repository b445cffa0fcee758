// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What depends on the time: the mode that counts, and how many events a sandbox may send. */
#include "case.bpf.h"

#define AW_BUDGET_NS (100ULL * 1000 * 1000)

AW_GLOBAL __u32 aw_mode_of(__u32 mode, __u64 until_ns)
{
	if (mode != AW_MODE_ENFORCE && until_ns && bpf_ktime_get_boot_ns() >= until_ns)
		return AW_MODE_ENFORCE;
	return mode;
}

/* Two that begin a window at once may let a few events more pass: none is counted twice, or not. */
AW_GLOBAL int aw_may_report(__u64 sandbox, __u64 now_ns, __u32 is_match)
{
	__u64 window = now_ns / AW_BUDGET_NS, most = (__u64)aw_event_budget << !!is_match, id = 0;
	struct aw_counters *counters;

	if (!aw_event_budget)
		return true;
	counters = bpf_map_lookup_elem(&aw_counters, &sandbox);
	/* A sandbox without an entry, whose links deny all, shares with what has none. */
	if (!counters)
		counters = bpf_map_lookup_elem(&aw_counters, &id);
	if (!counters)
		return true;
	if (counters->window != window) {
		counters->window = window;
		counters->events = 0;
	}
	if (counters->events >= most) {
		AW_COUNT(sandbox, lost_denials);
		return false;
	}
	__sync_fetch_and_add(&counters->events, 1);
	return true;
}
