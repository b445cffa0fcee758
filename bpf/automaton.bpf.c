// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The automaton of the signatures at work. What it reads lies in struct aw_work, and so does its state,
 * where the verifier does not follow it. Each loop has but one call in it, and one way out: Linux 6.1
 * refuses others for how clang lays them out.
 */
#include "evidence.bpf.h"
#include "work.bpf.h"

#define AW_SCAN_STOPS  24 /* matches and datagrams of one packet; what has more does not pass */
#define AW_SCAN_PIECE  64 /* octets read at a time: the verifier follows each */
#define AW_SCAN_PIECES 20 /* of AW_MESSAGE_LEN octets: more than a packet has */

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

/* Reads aw_works[index].message on from at: AW_SCAN_PIECE octets at most, or until something is found. */
AW_GLOBAL int aw_step(__u32 index)
{
	struct aw_work *work = aw_work_at(index);
	__u32 state, first, at, size, slot;
	struct aw_signatures *table;
	int found = AW_FOUND_NOTHING;
	__u64 ignored, spared;

	if (!work)
		return AW_FOUND_ERROR;
	slot = work->table;
	table = bpf_map_lookup_elem(&aw_signatures, &slot);
	if (!table)
		return AW_FOUND_ERROR;
	state = work->state;
	ignored = work->ignored;
	spared = work->spared;
	at = work->at;
	size = work->size;
	first = table->first_accepting;
#pragma clang loop unroll(disable)
	for (int i = 0; i < AW_SCAN_PIECE; i++) {
		__u32 octet, cell, accept;

		if (at >= size)
			break;
		octet = work->message[at++ & (AW_MESSAGE_LEN - 1)];
		cell = table->base[state & (AW_STATES - 1)] +
		       table->classes[table->group_of[state & (AW_STATES - 1)]][octet];
		state = table->next[cell & (AW_CELLS - 1)];
		if (state >= first) {
			accept = table->accept_of[state] & (AW_ACCEPTS - 1);
			if (aw_is_news(&table->accepts[accept], ignored, spared)) {
				work->accept = accept;
				found = AW_FOUND_MATCH;
				break;
			}
		} else if (!state) {
			found = AW_FOUND_DEAD;
			break;
		}
	}
	work->state = state;
	work->at = at;
	return found;
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
	work->at = 0;
	work->size = count;
	found = aw_read_steps(index);
	read = work->at < count ? work->at : count;
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
	accept = work->accept & (AW_ACCEPTS - 1);
	sandbox = aw_sandbox_of(c->id);
	socket = bpf_sk_storage_get(&aw_sockets, sk, 0, 0);
	table = bpf_map_lookup_elem(&aw_signatures, &work->table);
	if (!sandbox || !socket || !table)
		return AW_ACTION_DENY;
	groups = table->accepts[accept].groups;
	certain = table->accepts[accept].certain & ~work->spared;
	fresh = (groups & ~work->ignored) | certain;
	work->ignored |= groups;
	work->spared |= certain;
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
	table = bpf_map_lookup_elem(&aw_signatures, &work->table);
	if (!table)
		return AW_FOUND_ERROR;
	work->accept = table->end_of[work->state & (AW_STATES - 1)];
	work->state = r->start;
	if (aw_is_news(&table->accepts[work->accept & (AW_ACCEPTS - 1)], work->ignored,
		       work->spared))
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
