/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is kept per socket: the last verdict and the traffic it let through.
 *
 * A verdict in a socket says what the rules say (ALLOW or DENY); the mode is applied afterwards, by
 * aw_settle(). It counts only where protocol, remote, port, direction, generation and mode all match.
 */
#ifndef AGENTWALL_SOCKET_H
#define AGENTWALL_SOCKET_H

#include "case.bpf.h"
#include "report.bpf.h"

#define AW_FLUSH_JIFFIES 2500 /* 2.5 to 25 s: how far the table may lag behind a live flow */

static __always_inline void aw_flow_key_of(const struct aw_socket *socket, struct aw_flow_key *key)
{
	key->sandbox = socket->sandbox;
	__builtin_memcpy(key->remote, socket->remote, sizeof(key->remote));
	key->generation = socket->generation;
	key->rule = socket->rule;
	key->pid = socket->pid;
	key->port = socket->direction == AW_DIRECTION_IN ? socket->local_port :
							     socket->remote_port;
	key->protocol = socket->protocol;
	key->direction = socket->direction;
	key->verdict = socket->verdict == AW_VERDICT_ALLOW ? AW_VERDICT_ALLOW :
							     AW_VERDICT_WOULD_DENY;
	key->reason = socket->reason;
}

/* Says whether the traffic of the verdict in *socket* is counted: whatever passed. */
static __always_inline bool aw_is_passing(const struct aw_socket *socket)
{
	return socket->generation &&
	       (socket->verdict == AW_VERDICT_ALLOW || socket->mode != AW_MODE_ENFORCE);
}

/* Moves the socket's counters into the flow table. */
static __attribute__((noinline, unused)) int aw_flush(struct aw_socket *socket)
{
	struct aw_flow_key key = {};
	struct aw_flow *flow;
	__u64 now = bpf_ktime_get_boot_ns();

	if (!aw_is_passing(socket))
		return 0;
	aw_flow_key_of(socket, &key);
	flow = bpf_map_lookup_elem(&aw_flow_table, &key);
	if (!flow) {
		/* Drained by user space since it was first seen. */
		struct aw_flow fresh = { .first_ns = now, .last_ns = now, .uid = socket->uid };

		__builtin_memcpy(fresh.comm, socket->comm, sizeof(fresh.comm));
		bpf_map_update_elem(&aw_flow_table, &key, &fresh, BPF_NOEXIST);
		flow = bpf_map_lookup_elem(&aw_flow_table, &key);
	}
	if (!flow) {
		AW_COUNT(socket->sandbox, lost_totals);
	} else {
		__sync_fetch_and_add(&flow->bytes_out, socket->bytes_out);
		__sync_fetch_and_add(&flow->bytes_in, socket->bytes_in);
		__sync_fetch_and_add(&flow->duration_ns, now - socket->since_ns);
		flow->last_ns = now;
	}
	socket->bytes_out = 0;
	socket->bytes_in = 0;
	socket->since_ns = now;
	socket->flushed_jiffies = bpf_jiffies64();
	return 0;
}

/* Counts a new use of a permitted flow; reports it to user space when it is seen for the first time. */
static __attribute__((noinline, unused)) int aw_account(const struct aw_socket *socket,
							const struct aw_case *c)
{
	struct aw_flow_key key = {};
	struct aw_flow *flow;

	aw_flow_key_of(socket, &key);
	flow = bpf_map_lookup_elem(&aw_flow_table, &key);
	if (flow) {
		__sync_fetch_and_add(&flow->sockets, 1);
		flow->last_ns = bpf_ktime_get_boot_ns();
		return 0;
	}
	{
		struct aw_flow fresh = { .sockets = 1, .uid = socket->uid };

		fresh.first_ns = fresh.last_ns = bpf_ktime_get_boot_ns();
		__builtin_memcpy(fresh.comm, socket->comm, sizeof(fresh.comm));
		if (bpf_map_update_elem(&aw_flow_table, &key, &fresh, BPF_NOEXIST) ==
		    -7 /* E2BIG */)
			AW_COUNT(socket->sandbox, lost_totals);
	}
	if (c->verdict == AW_VERDICT_ALLOW)
		aw_report(c, socket->generation, socket);
	return 0;
}

/* Starts a fresh life: after connect(), or in the socket that accept() returned. */
static __always_inline void aw_reset(struct aw_socket *socket, __u64 id, __u8 direction)
{
	if (socket->bytes_out || socket->bytes_in)
		aw_flush(socket);
	bpf_spin_lock(&socket->lock);
	socket->generation = 0;
	socket->direction = direction;
	socket->flags = 0;
	socket->sandbox = id;
	socket->claimed_port = 0;
	socket->bytes_out = 0;
	socket->bytes_in = 0;
	bpf_spin_unlock(&socket->lock);
}

/*
 * Finds the verdict for *c* in *socket* and counts the packet. On a match fills c->verdict, reason
 * and rule and returns true.
 */
static __always_inline bool aw_recall(struct aw_socket *socket, const struct aw_sandbox *sandbox,
				      struct aw_case *c)
{
	bool match;

	bpf_spin_lock(&socket->lock);
	match = socket->generation == sandbox->generation && socket->sandbox == c->id &&
		socket->mode == sandbox->mode && socket->protocol == c->protocol &&
		socket->remote_port == c->remote_port && socket->direction == c->direction &&
		aw_same_address(socket->remote, &c->remote);
	if (match) {
		c->verdict = socket->verdict;
		c->reason = socket->reason;
		c->rule = socket->rule;
		if (c->hook == AW_HOOK_EGRESS)
			socket->bytes_out += c->size;
		else if (c->hook == AW_HOOK_INGRESS)
			socket->bytes_in += c->size;
	}
	bpf_spin_unlock(&socket->lock);
	return match;
}

/* Keeps the verdict on *c* in *socket*, for its following packets. */
static __always_inline void aw_remember(struct aw_socket *socket, const struct aw_sandbox *sandbox,
					const struct aw_case *c)
{
	__u64 now = bpf_ktime_get_boot_ns();
	__u64 jiffies = bpf_jiffies64();

	if (socket->bytes_out || socket->bytes_in)
		aw_flush(socket);
	bpf_spin_lock(&socket->lock);
	socket->generation = sandbox->generation;
	socket->sandbox = c->id;
	socket->mode = sandbox->mode;
	socket->protocol = c->protocol;
	socket->remote_port = c->remote_port;
	socket->local_port = c->local_port;
	socket->direction = c->direction;
	socket->remote[0] = c->remote.halves[0];
	socket->remote[1] = c->remote.halves[1];
	socket->verdict = c->verdict;
	socket->reason = c->reason;
	socket->rule = c->rule;
	socket->since_ns = now;
	socket->flushed_jiffies = jiffies;
	if (c->verdict == AW_VERDICT_ALLOW)
		socket->flags |= AW_SOCKET_PERMITTED;
	socket->bytes_out = c->hook == AW_HOOK_EGRESS ? c->size : 0;
	socket->bytes_in = c->hook == AW_HOOK_INGRESS ? c->size : 0;
	bpf_spin_unlock(&socket->lock);
}

/* Flushes at the end of a flow, and now and then, so that a long one shows while it lives. */
static __always_inline void aw_flush_when_due(struct aw_socket *socket, const struct aw_case *c)
{
	__u8 fin_or_rst = 0x01 | 0x04;

	if ((c->protocol == IPPROTO_TCP && c->tcp_flags & fin_or_rst) ||
	    socket->flags & AW_SOCKET_RELEASED ||
	    bpf_jiffies64() - socket->flushed_jiffies > AW_FLUSH_JIFFIES)
		aw_flush(socket);
}

static __always_inline void aw_claim(struct aw_socket *socket, const struct aw_case *c)
{
	bpf_spin_lock(&socket->lock);
	socket->claimed[0] = c->remote.halves[0];
	socket->claimed[1] = c->remote.halves[1];
	socket->claimed_port = c->remote_port;
	bpf_spin_unlock(&socket->lock);
}

#endif /* AGENTWALL_SOCKET_H */
