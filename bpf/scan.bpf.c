// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Which octets of a flow are new to the automaton, and what becomes of the packet that brings them. */
#include "evidence.bpf.h"
#include "say.bpf.h"

#define AW_READ 2 /* beside enum aw_action */

/* The groups that do not count behind the rule that permits the flow. */
static __always_inline __u64 aw_excepted(const struct aw_socket *socket)
{
	struct aw_except_key key = { .generation = socket->generation, .rule = socket->rule };
	__u64 *groups = bpf_map_lookup_elem(&aw_excepts, &key);

	return groups ? *groups : 0;
}

/* Refuses what cannot be judged by what is read of it. Returns enum aw_action. */
static __always_inline int aw_refuse_unread(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
					    struct aw_socket *socket, struct aw_case *c, __u32 way)
{
	int action;

	c->reason = AW_REASON_UNREADABLE;
	aw_name_socket(skb, c);
	action = aw_end_flow(socket, c);
	socket->scan.settled[way & 1] = 1;
	if (c->verdict != AW_VERDICT_ALLOW)
		aw_report(c, sandbox->generation, socket);
	return action;
}

/* Where the stream of a socket whose SYN was not seen is read from. */
static __always_inline void aw_begin_late(struct bpf_sock *sk, struct aw_scan *scan, __u32 sequence,
					  __u32 way, bool is_ours)
{
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);

	if (way == AW_WAY_IN && tcp && tcp->rcv_nxt)
		sequence = tcp->rcv_nxt;
	/* What is on its way, or was put into the queue by TCP_REPAIR, can come again. */
	if (way == AW_WAY_OUT && is_ours && tcp)
		sequence = tcp->snd_una;
	scan->expected[way & 1] = sequence;
	scan->begun[way & 1] = 1;
}

/* Of a stream that was read late the peer may have got what was never seen: it will not come again. */
static __always_inline void aw_pass_over(struct bpf_sock *sk, struct aw_scan *scan, __u32 start)
{
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);

	if (!tcp || (__s32)(tcp->snd_una - scan->expected[AW_WAY_OUT]) <= 0)
		return;
	scan->expected[AW_WAY_OUT] = tcp->snd_una;
	scan->state[AW_WAY_OUT] = start;
}

/* Says whether the application could still change what leaves. */
static __always_inline bool aw_may_be_written(struct __sk_buff *skb, const struct aw_case *c,
					      __u32 way)
{
	return way == AW_WAY_OUT && c->direction == AW_DIRECTION_OUT && aw_is_lent(skb);
}

/* See say.bpf.h. */
AW_GLOBAL int aw_joins(struct __sk_buff *skb, __u32 start, __u32 options)
{
	__u32 at = start - options;

	for (int i = 0; i < AW_TCP_OPTIONS; i++) {
		__u8 option[3] = {};

		if (at >= start || bpf_skb_load_bytes(skb, at, option, 1) ||
		    option[0] == AW_TCP_OPTION_END)
			return false;
		if (option[0] == AW_TCP_OPTION_NOP) {
			at++;
			continue;
		}
		if (bpf_skb_load_bytes(skb, at, option, sizeof(option)))
			return false;
		if (option[0] == AW_TCP_OPTION_MPTCP)
			return option[2] >> 4 == AW_MP_JOIN;
		if (option[1] < 2)
			return false;
		at += option[1];
	}
	return false;
}

/*
 * Notes where a stream begins. Our own SYN can be sent again, then without the data it had; the peer's
 * counts only until its stream is read, for what says SYN later is thrown away by TCP.
 */
static __always_inline void aw_note_syn(struct aw_scan *scan, __u32 first, __u32 way)
{
	if (way == AW_WAY_OUT) {
		scan->position[way] = 0;
		scan->settled[way] = 0;
	} else if (scan->position[way & 1]) {
		return;
	}
	scan->expected[way & 1] = first;
	scan->begun[way & 1] = 1;
}

/* Says whether a SYN has the options of Linux as it comes: no room is left to join a connection. */
static __always_inline bool aw_is_usual_syn(struct __sk_buff *skb, __u32 start, __u32 options)
{
	__be32 found = 0;

	return options == AW_SYN_OPTIONS &&
	       !bpf_skb_load_bytes(skb, start - AW_SYN_OPTIONS + 4, &found, sizeof(found)) &&
	       found == bpf_htonl(AW_SYN_USUAL);
}

/* A plain SYN only says where the stream begins, which is noted here: connecting must stay cheap. */
AW_GLOBAL int aw_is_syn_due(struct __sk_buff *skb, __u32 way, __u32 sequence, __u32 place)
{
	__u32 start = place & 0xffff, options = place >> 16;
	struct bpf_sock *sk = skb->sk;
	struct aw_socket *socket;

	if (skb->len > start ||
	    (options >= AW_JOIN_OPTION && !aw_is_usual_syn(skb, start, options)))
		return 1;
	if (!sk || !(sk = bpf_sk_fullsock(sk)))
		return 1;
	socket = bpf_sk_storage_get(&aw_sockets, sk, 0, 0);
	if (!socket)
		return 1;
	aw_note_syn(&socket->scan, sequence + 1, way & 1);
	return 0;
}

/* Finds what of a segment is new. Returns 0 where nothing is to be read; *action* is then what to do. */
static __always_inline bool aw_open_segment(struct __sk_buff *skb, struct bpf_sock *sk,
					    const struct aw_sandbox *sandbox,
					    struct aw_socket *socket, struct aw_case *c,
					    struct aw_reading *r, __u64 ignored, int *action)
{
	__u32 length = skb->len - c->start, sequence = c->sequence, way = r->way & 1, seen;
	struct aw_scan *scan = &socket->scan;
	bool blocks = sandbox->blocks & ~ignored;

	if (c->tcp_flags & AW_TCP_SYN) {
		aw_note_syn(scan, ++sequence, way);
		r->before = scan->position[way];
		if (blocks && aw_joins(skb, c->start, c->options)) {
			*action = aw_refuse_unread(skb, sandbox, socket, c, way);
			return false;
		}
	}
	if (!scan->begun[way])
		aw_begin_late(sk, scan, sequence, way, c->direction == AW_DIRECTION_OUT);
	*action = AW_ACTION_ALLOW;
	if (!length)
		return false;
	seen = scan->expected[way] - sequence;
	if ((__s32)seen < 0 && way == AW_WAY_OUT) {
		aw_pass_over(sk, scan, r->start);
		seen = scan->expected[way] - sequence;
	}
	if ((__s32)seen < 0) {
		/* The octets between come again, and then this segment. */
		if (c->mode == AW_MODE_ENFORCE) {
			*action = AW_ACTION_DENY;
			return false;
		}
		scan->expected[way] = sequence;
		scan->state[way] = r->start;
		seen = 0;
	}
	if (seen >= length)
		return false;
	/* An urgent octet is not where the peer reads it; lent pages may be written to, once read. */
	if (blocks && (c->tcp_flags & AW_TCP_URG ||
		       (!(c->tcp_flags & AW_TCP_SYN) && aw_may_be_written(skb, c, way)))) {
		*action = aw_refuse_unread(skb, sandbox, socket, c, way);
		return false;
	}
	r->first = r->offset = c->start + seen;
	r->left = length - seen;
	r->before = scan->position[way];
	return true;
}

/* Keeps how far was read; *left* octets were not. */
static __always_inline void aw_close_packet(const struct aw_sandbox *sandbox, struct aw_scan *scan,
					    const struct aw_reading *r, __u32 state, __u32 left)
{
	__u32 way = r->way & 1, read;
	bool done;

	if (r->is_stream) {
		scan->state[way] = state;
		scan->position[way] += r->offset - r->first;
		scan->expected[way] += r->offset - r->first + left;
		done = !state || scan->position[way] >= sandbox->depth;
	} else {
		read = scan->datagrams[way] + (r->offset - r->first + r->unit - 1) / r->unit;
		if (r->offset == r->first)
			read++;
		done = read >= AW_SCAN_DATAGRAMS;
		scan->datagrams[way] = done ? AW_SCAN_DATAGRAMS : read;
	}
	if (done && (!scan->hands_over || scan->handed[way] >= AW_HANDED_BYTES))
		scan->settled[way] = 1;
}

/* Says how much of the packet is read. */
static __always_inline void aw_limit(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
				     const struct aw_scan *scan, const struct aw_case *c,
				     struct aw_reading *r)
{
	__u32 way = r->way & 1, room = sandbox->depth, most;

	if (r->is_stream)
		room -= scan->position[way] < room ? scan->position[way] : room;
	if (r->left > room) {
		r->beyond = r->left - room;
		r->left = room;
	}
	r->unit = r->left;
	if (c->protocol == IPPROTO_UDP && skb->gso_size && skb->gso_size < r->left)
		r->unit = skb->gso_size;
	if (!r->unit)
		r->unit = 1;
	most = r->unit * (scan->datagrams[way] < AW_SCAN_DATAGRAMS ?
				  AW_SCAN_DATAGRAMS - scan->datagrams[way] :
				  1);
	if (!r->is_stream && r->left > most)
		r->left = most;
	r->due = r->unit < r->left ? r->unit : r->left;
}

/* A packet that passes was read. Returns enum aw_action. */
AW_GLOBAL int aw_end_reading(struct __sk_buff *skb, __u32 index)
{
	struct aw_work *work = aw_work_at(index);
	struct bpf_sock *sk = skb->sk;
	struct aw_sandbox *sandbox;
	struct aw_socket *socket;
	struct aw_reading *r;
	struct aw_case *c;

	if (!work || !sk || !(sk = bpf_sk_fullsock(sk)))
		return AW_ACTION_DENY;
	c = (void *)work->about;
	r = &work->reading;
	sandbox = aw_sandbox_of(c->id);
	socket = bpf_sk_storage_get(&aw_sockets, sk, 0, 0);
	if (!sandbox || !socket)
		return AW_ACTION_DENY;
	if (socket->scan.hands_over)
		aw_hand_over(skb, c, sandbox, socket, r);
	if (r->is_stream && work->cursor.state)
		aw_keep_tail(skb, r);
	aw_close_packet(sandbox, &socket->scan, r, work->cursor.state, r->left + r->beyond);
	return AW_ACTION_ALLOW;
}

/* Finds what is to be read of the packet. Returns enum aw_action, or READ where there is something. */
AW_GLOBAL int aw_begin_reading(struct __sk_buff *skb, __u32 index, __u32 way)
{
	struct aw_work *work = aw_work_at(index);
	struct bpf_sock *sk = skb->sk;
	struct aw_signatures *table;
	int action = AW_ACTION_ALLOW;
	struct aw_sandbox *sandbox;
	struct aw_socket *socket;
	struct aw_reading *r;
	struct aw_scan *scan;
	__u32 slot, transport;
	struct aw_case *c;
	__u64 ignored;

	if (!work || !sk || !(sk = bpf_sk_fullsock(sk)))
		return AW_ACTION_DENY;
	socket = bpf_sk_storage_get(&aw_sockets, sk, 0, 0);
	if (!socket)
		return AW_ACTION_DENY;
	sandbox = aw_sandbox_of(socket->sandbox);
	if (!sandbox)
		return AW_ACTION_DENY;
	slot = (sandbox->signatures - 1) & 0xff;
	table = bpf_map_lookup_elem(&aw_signatures, &slot);
	if (!table)
		return AW_ACTION_DENY;
	c = (void *)work->about;
	r = &work->reading;
	scan = &socket->scan;
	__builtin_memset(r, 0, sizeof(*r));
	r->way = way & 1;
	__builtin_memset(c, 0, sizeof(*c));
	c->hook = way == AW_WAY_OUT ? AW_HOOK_EGRESS : AW_HOOK_INGRESS;
	c->id = socket->sandbox;
	c->mode = aw_mode_of(sandbox->mode, sandbox->until_ns);
	c->socket_type = sk->type;
	if (aw_parse(skb, way == AW_WAY_OUT, c))
		return AW_ACTION_DENY;
	c->reason = AW_REASON_SIGNATURE;
	c->rule = socket->rule;
	c->name = socket->name;
	c->direction = socket->direction;
	if (scan->dead)
		return c->tcp_flags & AW_TCP_RST && !c->payload;
	if (!table->generation || c->start > skb->len)
		return AW_ACTION_ALLOW;
	r->is_stream = c->protocol == IPPROTO_TCP;
	transport = r->is_stream	       ? AW_TRANSPORT_TCP :
		    c->protocol == IPPROTO_UDP ? AW_TRANSPORT_UDP :
						 AW_TRANSPORT_ICMP;
	r->start = table->starts[transport << 1 |
				 (c->direction == AW_DIRECTION_OUT ? r->way : !r->way)];
	if (scan->table != table->generation) {
		scan->table = table->generation;
		scan->state[0] = table->starts[c->direction == AW_DIRECTION_IN];
		scan->state[1] = table->starts[c->direction == AW_DIRECTION_OUT];
		scan->reported = scan->judged = 0;
	}
	work->cursor.table = slot;
	ignored = aw_excepted(socket);
	work->cursor.ignored = scan->reported | ignored |
			       ~(sandbox->blocks | sandbox->alerts | AW_GROUP_HAND_OVER);
	work->cursor.spared = scan->judged | ignored | ~sandbox->blocks;
	work->cursor.state = r->start;
	if (r->is_stream) {
		if (!aw_open_segment(skb, sk, sandbox, socket, c, r, ignored, &action))
			return action;
		if (scan->position[r->way & 1])
			work->cursor.state = scan->state[r->way & 1];
	} else if (c->protocol == IPPROTO_UDP && sandbox->blocks & ~ignored &&
		   aw_may_be_written(skb, c, way)) {
		return aw_refuse_unread(skb, sandbox, socket, c, way);
	} else {
		r->first = r->offset = c->start;
		r->left = skb->len - c->start;
	}
	aw_limit(skb, sandbox, scan, c, r);
	return AW_READ;
}

AW_GLOBAL int aw_scan(struct __sk_buff *skb, __u64 sandbox_id, __u32 way)
{
	struct aw_sandbox *sandbox = aw_sandbox_of(sandbox_id);
	struct bpf_sock *sk = skb->sk;
	struct aw_socket *socket;
	struct aw_work *work;
	int action = AW_ACTION_DENY;
	__u32 index;
	bool enforce;
	__u8 busy;

	if (!sandbox || !sk || !(sk = bpf_sk_fullsock(sk)))
		return AW_ACTION_DENY;
	socket = bpf_sk_storage_get(&aw_sockets, sk, 0, 0);
	if (!socket)
		return AW_ACTION_DENY;
	enforce = aw_mode_of(sandbox->mode, sandbox->until_ns) == AW_MODE_ENFORCE;
	bpf_spin_lock(&socket->lock);
	busy = socket->scan.busy[way & 1];
	socket->scan.busy[way & 1] = 1;
	bpf_spin_unlock(&socket->lock);
	/* Of two segments that arrive at once the one that is turned away comes again. */
	if (busy && sk->protocol == IPPROTO_TCP)
		return !enforce;
	index = aw_claim_work();
	work = aw_work_at(index);
	if (work) {
		action = aw_begin_reading(skb, index, way);
		if (action == AW_READ)
			action = aw_read_packet(skb, index);
		else
			work = 0;
		if (work && action == AW_ACTION_ALLOW)
			action = aw_end_reading(skb, index);
	}
	aw_release_work(index);
	socket->scan.busy[way & 1] = 0;
	/* What could not be read holds nothing up where nothing is enforced. */
	if (!enforce && !socket->scan.dead)
		action = AW_ACTION_ALLOW;
	if (action == AW_ACTION_DENY && way == AW_WAY_OUT)
		__sync_fetch_and_add(&socket->bytes_out, -(__u64)skb->len);
	else if (action == AW_ACTION_DENY)
		__sync_fetch_and_add(&socket->bytes_in, -(__u64)skb->len);
	return action;
}
