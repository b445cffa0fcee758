/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Calls that are made again. A library that has not shaken hands yet takes no text from who does not want
 * to wait: the caller hands over the same once more, as Node.js does with all that is written early.
 */
#ifndef AGENTWALL_REPEAT_H
#define AGENTWALL_REPEAT_H

#include "plain.bpf.h"

#define AW_AGAIN_LEAST 16 /* octets; less may well be the same twice */

/*
 * Whether the call says all once more that was said before, of which nothing has left. Told by its size
 * and its last octets.
 */
AW_GLOBAL int aw_says_again(__u32 index, __u64 text, __u64 size)
{
	struct aw_plain_work *work = aw_plain_work_at(index);
	struct aw_plain_connection *connection;
	__u32 count;

	if (!work || size < AW_AGAIN_LEAST)
		return 0;
	connection = bpf_map_lookup_elem(&aw_plain_connections, &work->key);
	if (!connection || !connection->cookie || connection->has_sent ||
	    size != connection->position[AW_WAY_OUT])
		return 0;
	count = size < AW_TAIL_BYTES ? size : AW_TAIL_BYTES - 1;
	if (connection->tail.have[AW_WAY_OUT] != count)
		return 0;
	asm volatile("" : "+r"(count));
	count = ((count - 1) & (AW_TAIL_BYTES - 1)) + 1;
	if (bpf_probe_read_user(work->message, count, (void *)(unsigned long)(text + size - count)))
		return 0;
	for (__u32 i = 0; i < AW_TAIL_BYTES / 8; i++) {
		__s32 left = count - i * 8;
		__u64 now, before;

		if (left <= 0)
			break;
		__builtin_memcpy(&now, &work->message[i * 8], sizeof(now));
		__builtin_memcpy(&before, &connection->tail.text[AW_WAY_OUT][i * 8],
				 sizeof(before));
		now ^= before;
		/* The first octets of a word are its lowest: little-endian. */
		if (left < 8)
			now &= (1ULL << left * 8) - 1;
		if (now)
			return 0;
	}
	return 1;
}

#endif /* AGENTWALL_REPEAT_H */
