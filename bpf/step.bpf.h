/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One stride of the automaton through a message, on the wire or in a process. */
#ifndef AGENTWALL_STEP_H
#define AGENTWALL_STEP_H

#include "maps.bpf.h"

#define AW_SCAN_PIECE 32 /* octets read at a time: the verifier follows each */

enum aw_found {
	AW_FOUND_NOTHING, /* all was read */
	AW_FOUND_DEAD, /* nothing can match any more */
	AW_FOUND_MATCH,
	AW_FOUND_MORE,
	AW_FOUND_ERROR,
};

/*
 * Says whether a match tells of a group for the first time, or of one that is blocked for the first time
 * for certain: a weak signature of the group may have been met before.
 */
static __always_inline bool aw_is_news(const struct aw_accept *found, __u64 ignored, __u64 spared)
{
	return (found->groups & ~ignored) | (found->certain & ~spared);
}

/*
 * Reads *message*, of AW_MESSAGE_LEN octets, on: AW_SCAN_PIECE octets at most, or until something is
 * found. The cursor lies in map memory, where the verifier does not follow it.
 */
static __always_inline int aw_step_on(struct aw_cursor *cursor, const __u8 *message)
{
	__u32 state, first, at, size, slot;
	struct aw_signatures *table;
	int found = AW_FOUND_NOTHING;
	__u64 ignored, spared;

	slot = cursor->table;
	table = bpf_map_lookup_elem(&aw_signatures, &slot);
	if (!table)
		return AW_FOUND_ERROR;
	state = cursor->state;
	ignored = cursor->ignored;
	spared = cursor->spared;
	at = cursor->at;
	size = cursor->size;
	first = table->first_accepting;
#pragma clang loop unroll(disable)
	for (int i = 0; i < AW_SCAN_PIECE; i++) {
		__u32 octet, cell, accept;

		if (at >= size)
			break;
		octet = message[at++ & (AW_MESSAGE_LEN - 1)];
		cell = table->base[state & (AW_STATES - 1)] +
		       table->classes[table->group_of[state & (AW_STATES - 1)]][octet];
		state = table->next[cell & (AW_CELLS - 1)];
		if (state >= first) {
			accept = table->accept_of[state] & (AW_ACCEPTS - 1);
			if (aw_is_news(&table->accepts[accept], ignored, spared)) {
				cursor->accept = accept;
				found = AW_FOUND_MATCH;
				break;
			}
		} else if (!state) {
			found = AW_FOUND_DEAD;
			break;
		}
	}
	cursor->state = state;
	cursor->at = at;
	return found;
}

#endif /* AGENTWALL_STEP_H */
