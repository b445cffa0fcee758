/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Of how many threads of a sandbox the last call is known. Threads end without a word, and a sandbox has as
 * many as it likes, so the one that was taken in first makes room for the next: of the same sandbox, never
 * of another. It is taken in anew with its next call. What counts is the time from a call to the record that
 * follows it, in which there are no AW_PLAIN_THREADS others.
 */
#ifndef AGENTWALL_TURN_H
#define AGENTWALL_TURN_H

#include "plain.bpf.h"

/* Where the turns of a sandbox are counted; 0: there is no room for the count. */
static __always_inline __u32 *aw_turns_of(__u64 sandbox)
{
	__u32 *turns = bpf_map_lookup_elem(&aw_plain_turns, &sandbox), none = 0;

	if (turns)
		return turns;
	bpf_map_update_elem(&aw_plain_turns, &sandbox, &none, BPF_NOEXIST);
	return bpf_map_lookup_elem(&aw_plain_turns, &sandbox);
}

/*
 * Lets the thread have a turn, unless the one that its entry *call* of aw_plain_calls has is its own yet.
 * Returns false where there is no room; then the entry is gone.
 *
 * To count and to read the count is one step, which needs Linux 5.12: nobody else has this turn, and this
 * seat only who is AW_PLAIN_THREADS turns away.
 */
static __always_inline bool aw_take_turn(__u64 task, struct aw_plain_call *call)
{
	struct aw_plain_seat seat = { .sandbox = call->sandbox,
				      .seat = call->turn & (AW_PLAIN_THREADS - 1) };
	__u64 *owner = call->turn ? bpf_map_lookup_elem(&aw_plain_order, &seat) : 0, former;
	struct aw_plain_call *old;
	__u32 *turns, turn;

	if (owner && *owner == task)
		return true;
	turns = aw_turns_of(call->sandbox);
	if (turns) {
		turn = __sync_fetch_and_add(turns, 1) + 1;
		seat.seat = turn & (AW_PLAIN_THREADS - 1);
		owner = bpf_map_lookup_elem(&aw_plain_order, &seat);
		former = owner ? *owner : 0;
		old = former && former != task ? bpf_map_lookup_elem(&aw_plain_calls, &former) : 0;
		/* Its thread may have ended, and another sandbox's be at the same address. */
		if (old && old->sandbox == call->sandbox &&
		    ((old->turn ^ turn) & (AW_PLAIN_THREADS - 1)) == 0)
			bpf_map_delete_elem(&aw_plain_calls, &former);
		/* 0 is no turn, but a seat like others. */
		call->turn = turn ? turn : AW_PLAIN_THREADS;
		if (!bpf_map_update_elem(&aw_plain_order, &seat, &task, BPF_ANY))
			return true;
	}
	bpf_map_delete_elem(&aw_plain_calls, &task);
	return false;
}

#endif /* AGENTWALL_TURN_H */
