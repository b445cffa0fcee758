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
