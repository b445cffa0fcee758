/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the parts of reading inside TLS share. */
#ifndef AGENTWALL_PLAIN_BPF_H
#define AGENTWALL_PLAIN_BPF_H

#include "scan.bpf.h"

#define AW_PLAIN_COUNT(field, by)                                        \
	do {                                                             \
		__u32 _zero = 0;                                         \
		struct aw_plain_counters *_counters =                    \
			bpf_map_lookup_elem(&aw_plain_counters, &_zero); \
                                                                         \
		if (_counters)                                           \
			__sync_fetch_and_add(&_counters->field, (by));   \
	} while (0)

static __always_inline struct aw_plain_work *aw_plain_work_at(__u32 index)
{
	return bpf_map_lookup_elem(&aw_plain_works, &index);
}

/* Where a sandbox's entries are counted: 0: there is no room for the count. */
static __always_inline __s64 *aw_counted_by(void *counts, __u64 sandbox)
{
	__s64 *count = bpf_map_lookup_elem(counts, &sandbox), none = 0;

	if (count)
		return count;
	bpf_map_update_elem(counts, &sandbox, &none, BPF_NOEXIST);
	return bpf_map_lookup_elem(counts, &sandbox);
}

/*
 * Notes that what *dead* names, a cookie or a process, has a dead connection. A sandbox that has no room for
 * more is marked as a whole: it then loses flows of its own, and others no marks.
 */
static __always_inline void aw_mark_dead(__u64 sandbox, __u64 dead)
{
	struct aw_plain_mark mark = { .sandbox = sandbox, .since_ns = bpf_ktime_get_boot_ns() };
	__s64 *marks = aw_counted_by(&aw_plain_marks, sandbox);

	if (!marks || *marks >= AW_PLAIN_MARKS) {
		dead = aw_dead_process(sandbox, 0);
		bpf_map_update_elem(&aw_plain_dead, &dead, &mark, BPF_ANY);
	} else if (!bpf_map_update_elem(&aw_plain_dead, &dead, &mark, BPF_NOEXIST)) {
		__sync_fetch_and_add(marks, 1);
	}
}

/*
 * Takes what the automaton has found in aw_plain_works[index]: told once a connection and group. Returns
 * enum aw_action.
 */
int aw_take_plain(__u32 index);

/* Gives user space the octets of the call, which begin at *text*. */
int aw_hand_plain(__u32 index, __u64 text, __u32 size);

/* Keeps the last octets of the call: evidence, should a match end in a later one. */
int aw_tail_plain(__u32 index);

#endif /* AGENTWALL_PLAIN_BPF_H */
