// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The automaton of the signatures at work. What it reads lies in struct aw_work, and so does its state,
 * where the verifier does not follow it. Each loop has but one call in it, and one way out: Linux 6.1
 * refuses others for how clang lays them out.
 */
#include "evidence.bpf.h"
#include "step.bpf.h"
#include "work.bpf.h"

#define AW_SCAN_STOPS  24 /* matches and datagrams of one packet; what has more does not pass */
#define AW_SCAN_PIECES 20 /* of AW_MESSAGE_LEN octets: more than a packet has */

/* Reads aw_works[index].message on: AW_SCAN_PIECE octets at most, or until something is found. */
AW_GLOBAL int aw_step(__u32 index)
{
	struct aw_work *work = aw_work_at(index);

	return work ? aw_step_on(&work->cursor, work->message) : AW_FOUND_ERROR;
}

/* Reads aw_works[index].message to its end, or until something is found. */
AW_GLOBAL int aw_read_steps(__u32 index)
{
	for (int i = 0; i < AW_MESSAGE_LEN / AW_SCAN_PIECE; i++) {
		int found = aw_step(index);

		if (found)
			return found;
	}
	return AW_FOUND_NOTHING;
}

/* Reads a part of the stream or datagram: at most what work->message holds. Returns MORE after that. */
AW_GLOBAL int aw_read_piece(struct __sk_buff *skb, __u32 index)
{
	struct aw_work *work = aw_work_at(index);
	struct aw_reading *r;
	__u32 count, read;
	int found;

	if (!work)
		return AW_FOUND_ERROR;
	r = &work->reading;
	count = r->due;
	if (!count)
		return AW_FOUND_NOTHING;
	if (count > AW_MESSAGE_LEN)
		count = AW_MESSAGE_LEN;
	asm volatile("" : "+r"(count));
	count = ((count - 1) & (AW_MESSAGE_LEN - 1)) + 1;
	if (bpf_skb_load_bytes(skb, r->offset, work->message, count))
		return AW_FOUND_ERROR;
	work->cursor.at = 0;
	work->cursor.size = count;
	found = aw_read_steps(index);
	read = work->cursor.at < count ? work->cursor.at : count;
	r->offset += read;
	r->left -= read;
	r->due -= read;
	return found ? found : AW_FOUND_MORE;
}

/* Reads to the end of what is due, or until something is found. */
AW_GLOBAL int aw_read_pieces(struct __sk_buff *skb, __u32 index)
{
	for (int i = 0; i < AW_SCAN_PIECES; i++) {
		int found = aw_read_piece(skb, index);

		if (found != AW_FOUND_MORE)
			return found;
	}
	return AW_FOUND_ERROR;
}

/* What the automaton has found: reported once a flow and group. Returns enum aw_action. */
AW_GLOBAL int aw_take_match(struct __sk_buff *skb, __u32 index)
{
	struct aw_work *work = aw_work_at(index);
	int action = AW_ACTION_ALLOW;
	struct aw_signatures *table;
	struct aw_sandbox *sandbox;
	struct aw_socket *socket;
	struct bpf_sock *sk = skb->sk;
	__u64 groups, fresh, certain;
	struct aw_case *c;
	__u32 accept;

	if (!work || !sk || !(sk = bpf_sk_fullsock(sk)))
		return AW_ACTION_DENY;
	c = (void *)work->about;
	accept = work->cursor.accept & (AW_ACCEPTS - 1);
	sandbox = aw_sandbox_of(c->id);
	socket = bpf_sk_storage_get(&aw_sockets, sk, 0, 0);
	table = bpf_map_lookup_elem(&aw_signatures, &work->cursor.table);
	if (!sandbox || !socket || !table)
		return AW_ACTION_DENY;
	groups = table->accepts[accept].groups;
	certain = table->accepts[accept].certain & ~work->cursor.spared;
	fresh = (groups & ~work->cursor.ignored) | certain;
	work->cursor.ignored |= groups;
	work->cursor.spared |= certain;
	socket->scan.reported |= groups;
	socket->scan.judged |= certain;
	if (fresh & AW_GROUP_HAND_OVER) {
		socket->scan.hands_over = 1;
		socket->scan.settled[0] = socket->scan.settled[1] = 0;
	}
	fresh &= ~AW_GROUP_HAND_OVER;
	if (!fresh)
		return AW_ACTION_ALLOW;
	AW_COUNT(c->id, matches);
	aw_name_socket(skb, c);
	c->reason = AW_REASON_SIGNATURE;
	c->verdict = AW_VERDICT_ALLOW;
	if (certain)
		action = aw_end_flow(socket, c);
	aw_report_match(skb, c, sandbox, socket, work, table->generation);
	return action;
}

/* A stream or datagram was read as far as it can be. Returns enum aw_found. */
static __always_inline int aw_end_unit(struct aw_work *work, int found)
{
	struct aw_reading *r = &work->reading;
	struct aw_signatures *table;

	if (r->is_stream)
		return found == AW_FOUND_DEAD ? AW_FOUND_NOTHING : found;
	/* The rest of a datagram in which nothing can match any more is passed over. */
	r->offset += r->due;
	r->left -= r->due < r->left ? r->due : r->left;
	r->due = r->unit < r->left ? r->unit : r->left;
	table = bpf_map_lookup_elem(&aw_signatures, &work->cursor.table);
	if (!table)
		return AW_FOUND_ERROR;
	work->cursor.accept = table->end_of[work->cursor.state & (AW_STATES - 1)];
	work->cursor.state = r->start;
	if (aw_is_news(&table->accepts[work->cursor.accept & (AW_ACCEPTS - 1)],
		       work->cursor.ignored, work->cursor.spared))
		return AW_FOUND_MATCH;
	return r->left ? AW_FOUND_MORE : AW_FOUND_NOTHING;
}

/* Reads to the next match, or the end of a datagram or of the packet. Returns enum aw_found. */
static __always_inline int aw_read_unit(struct __sk_buff *skb, __u32 index)
{
	struct aw_work *work = aw_work_at(index);
	int found;

	if (!work)
		return AW_FOUND_ERROR;
	found = aw_read_pieces(skb, index);
	return found == AW_FOUND_MATCH || found == AW_FOUND_ERROR ? found :
								    aw_end_unit(work, found);
}

/* Reads a unit, and takes what was found. Returns enum aw_action, or MORE. */
AW_GLOBAL int aw_read_next(struct __sk_buff *skb, __u32 index)
{
	int found = aw_read_unit(skb, index);

	if (found == AW_FOUND_NOTHING)
		return AW_ACTION_ALLOW;
	if (found == AW_FOUND_ERROR)
		return AW_ACTION_DENY;
	if (found == AW_FOUND_MATCH && aw_take_match(skb, index) == AW_ACTION_DENY)
		return AW_ACTION_DENY;
	return AW_FOUND_MORE;
}

/* Reads what is left of the packet, datagram by datagram. Returns enum aw_action. */
AW_GLOBAL int aw_read_packet(struct __sk_buff *skb, __u32 index)
{
	for (int i = 0; i < AW_SCAN_STOPS; i++) {
		int next = aw_read_next(skb, index);

		if (next != AW_FOUND_MORE)
			return next;
	}
	return AW_ACTION_DENY;
}
