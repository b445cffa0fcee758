/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is kept per socket: the last verdict and the traffic it let through.
 *
 * A verdict in a socket says what the rules say (ALLOW or DENY); the mode is applied afterwards, by
 * aw_settle(). It counts only where protocol, remote, port, direction, generation and mode all match.
 */
#ifndef AGENTWALL_SOCKET_H
#define AGENTWALL_SOCKET_H

#include "names.bpf.h"
#include "report.bpf.h"

#define AW_FLUSH_JIFFIES 2500 /* 2.5 to 25 s: how far the table may lag behind a live flow */

static __always_inline void aw_flow_key_of(const struct aw_socket *socket, struct aw_flow_key *key)
{
	key->sandbox = socket->sandbox;
	key->name = socket->name;
	__builtin_memcpy(key->remote, socket->remote, sizeof(key->remote));
	key->generation = socket->generation;
	key->rule = socket->rule;
	key->pid = socket->pid;
	key->port = socket->direction == AW_DIRECTION_IN ? socket->local_port : socket->remote_port;
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

/* Keeps the name of a flow that lives: user space removes those not seen for long. */
static __always_inline void aw_see_name(const struct aw_socket *socket, __u64 now)
{
	struct aw_known *known = aw_find_known(socket->sandbox, socket->name);

	if (known)
		known->seen_ns = now;
}

/* Moves the socket's counters into the flow table. */
static __attribute__((noinline, unused)) int aw_flush(struct aw_socket *socket, __u64 now)
{
	struct aw_flow_key key = {};
	__u64 out, in, since;
	struct aw_flow *flow;

	bpf_spin_lock(&socket->lock);
	out = socket->bytes_out;
	in = socket->bytes_in;
	since = socket->since_ns;
	/* What is refused after it was counted, and flushed, is owed until more has passed. */
	if ((__s64)out < 0)
		out = 0;
	/* Subtracted, not cleared: packets are counted without the lock. */
	__sync_fetch_and_add(&socket->bytes_out, -out);
	__sync_fetch_and_add(&socket->bytes_in, -in);
	socket->since_ns = now;
	bpf_spin_unlock(&socket->lock);
	socket->flushed_jiffies = bpf_jiffies64();
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
		return 0;
	}
	__sync_fetch_and_add(&flow->bytes_out, out);
	__sync_fetch_and_add(&flow->bytes_in, in);
	__sync_fetch_and_add(&flow->duration_ns, now - since);
	flow->last_ns = now;
	if (socket->name)
		aw_see_name(socket, now);
	return 0;
}

/*
 * Counts one more use of a flow that passes, and reports it when it is seen for the first time: in
 * audit mode too, so that a flow that is denied there makes one event, not one a packet.
 */
static __attribute__((noinline, unused)) int aw_account(const struct aw_socket *socket,
							__u32 generation, struct aw_case *c)
{
	struct aw_flow fresh = { .sockets = 1, .uid = socket->uid };
	struct aw_flow_key key = {
		.sandbox = c->id,
		.name = c->name,
		.generation = generation,
		.rule = c->rule,
		.pid = socket->pid,
		.port = c->direction == AW_DIRECTION_IN ? c->local_port : c->remote_port,
		.protocol = c->protocol,
		.direction = c->direction,
		.verdict = c->verdict,
		.reason = c->reason,
	};
	struct aw_flow *flow;
	long failed;

	__builtin_memcpy(key.remote, &c->remote, sizeof(key.remote));
	flow = bpf_map_lookup_elem(&aw_flow_table, &key);
	if (flow) {
		__sync_fetch_and_add(&flow->sockets, 1);
		flow->last_ns = aw_now(c);
		return 0;
	}
	fresh.first_ns = fresh.last_ns = aw_now(c);
	__builtin_memcpy(fresh.comm, socket->comm, sizeof(fresh.comm));
	/* The table is full, or there is no memory now; aw_flush() may still find some. */
	failed = bpf_map_update_elem(&aw_flow_table, &key, &fresh, BPF_NOEXIST);
	if (failed && failed != -EEXIST)
		AW_COUNT(c->id, lost_totals);
	aw_report(c, generation, socket);
	return 0;
}

/* Drops the verdict: after connect(), or in the socket that accept() returned. */
static __always_inline void aw_forget(struct aw_socket *socket, struct aw_case *c)
{
	if (socket->bytes_out || socket->bytes_in)
		aw_flush(socket, aw_now(c));
	socket->generation = 0;
	socket->name = 0;
	socket->claimed_port = 0;
}

/* See aw_adopt(). */
static __attribute__((noinline, unused)) int aw_take_over(struct aw_socket *socket,
							  struct aw_case *c)
{
	if (socket->bytes_out || socket->bytes_in)
		aw_flush(socket, aw_now(c));
	bpf_spin_lock(&socket->lock);
	socket->generation = 0;
	socket->reason = 0; /* at ingress it says more than the verdict: see aw_take_segment() */
	socket->sandbox = c->id;
	bpf_spin_unlock(&socket->lock);
	return 0;
}

/*
 * Makes the socket this sandbox's, before anything of it may pass: a scope's program, which runs after
 * this one, then keeps out of it. It may have been made before the wall stood, or under a scope, or for
 * a sandbox that was released: no verdict of those counts. What the socket is, and what it has said,
 * stays: its direction, the name it said, how far it was read.
 */
static __always_inline void aw_adopt(struct aw_socket *socket, struct aw_case *c)
{
	if (socket->sandbox != c->id)
		aw_take_over(socket, c);
}

/*
 * Says whether *id* is a scope and a sandbox below it has the socket: its program has run before this
 * one, and has judged. If that sandbox is gone, or a scope itself, this one's default holds. To be asked
 * first: it is all that a scope does for such a socket.
 */
static __always_inline bool aw_is_anothers(struct aw_socket *socket, __u64 id)
{
	__u64 owner = socket->sandbox;
	struct aw_sandbox *sandbox;

	if (!id || !owner || owner == id)
		return false;
	if (socket->above != id) {
		sandbox = aw_sandbox_of(id);
		if (!sandbox || !sandbox->scope)
			return false;
		socket->above = id;
	}
	sandbox = aw_sandbox_of(owner);
	return sandbox && !sandbox->scope;
}

/* Says whether the socket was made in the network namespace that the sandbox was admitted with. */
static __always_inline bool aw_is_home(const struct aw_socket *socket,
				       const struct aw_sandbox *sandbox)
{
	return sandbox->netns && socket->netns == sandbox->netns;
}

/* Starts a fresh life of a TCP socket. */
static __always_inline void aw_reset(struct aw_socket *socket, struct aw_case *c, __u8 direction)
{
	aw_forget(socket, c);
	__builtin_memset(&socket->scan, 0, sizeof(socket->scan));
	__builtin_memset(&socket->spoken, 0, sizeof(socket->spoken));
	socket->direction = direction;
	socket->flags &= AW_SOCKET_USER;
}

/*
 * Says whether every look at the verdict runs under the socket's own lock: connect() and egress of
 * TCP do. Ingress does not, and the sends of a UDP socket run side by side; those take turns by the
 * entry's lock, or one could see half of another's verdict.
 */
static __always_inline bool aw_is_serial(const struct aw_case *c)
{
	return c->protocol == IPPROTO_TCP && c->direction == AW_DIRECTION_OUT;
}

static __always_inline bool aw_match(const struct aw_socket *socket,
				     const struct aw_sandbox *sandbox, struct aw_case *c)
{
	if (socket->generation != sandbox->generation || socket->sandbox != c->id ||
	    socket->mode != c->mode || socket->protocol != c->protocol ||
	    socket->remote_port != c->remote_port || socket->direction != c->direction ||
	    !aw_same_address(socket->remote, &c->remote))
		return false;
	/* Inward the own port is judged, and a UDP socket can change it. */
	if (c->direction == AW_DIRECTION_IN && socket->local_port != c->local_port)
		return false;
	c->verdict = socket->verdict;
	c->reason = socket->reason;
	c->rule = socket->rule;
	c->terms = socket->terms;
	return true;
}

/* The name by which the flow to c->remote was opened, or that it said; or 0. */
static __always_inline __u64 aw_kept_name(const struct aw_socket *socket, struct aw_case *c)
{
	if (!socket->name || socket->direction != AW_DIRECTION_OUT ||
	    socket->protocol != c->protocol || socket->remote_port != c->remote_port ||
	    !aw_same_address(socket->remote, &c->remote))
		return 0;
	c->said = !!(socket->flags & AW_SOCKET_SAID);
	return socket->name;
}

/*
 * Finds the verdict for *c* in *socket* and counts the packet. On a match fills c->verdict, reason
 * and rule and returns true.
 */
static __always_inline bool aw_recall(struct aw_socket *socket, const struct aw_sandbox *sandbox,
				      struct aw_case *c)
{
	bool match;

	if (aw_is_serial(c)) {
		match = aw_match(socket, sandbox, c);
	} else {
		bpf_spin_lock(&socket->lock);
		match = aw_match(socket, sandbox, c);
		bpf_spin_unlock(&socket->lock);
	}
	if (match && c->hook == AW_HOOK_EGRESS)
		__sync_fetch_and_add(&socket->bytes_out, c->size);
	else if (match && c->hook == AW_HOOK_INGRESS)
		__sync_fetch_and_add(&socket->bytes_in, c->size);
	return match;
}

static __always_inline void aw_store(struct aw_socket *socket, const struct aw_sandbox *sandbox,
				     const struct aw_case *c)
{
	/* A TCP socket has one remote until it connects anew. */
	if (c->protocol != IPPROTO_TCP &&
	    (socket->remote_port != c->remote_port || !aw_same_address(socket->remote, &c->remote)))
		__builtin_memset(&socket->scan, 0, sizeof(socket->scan));
	socket->sandbox = c->id;
	socket->mode = c->mode;
	socket->protocol = c->protocol;
	socket->remote_port = c->remote_port;
	socket->local_port = c->local_port;
	socket->direction = c->direction;
	socket->remote[0] = c->remote.halves[0];
	socket->remote[1] = c->remote.halves[1];
	socket->verdict = c->verdict;
	socket->reason = c->reason;
	socket->rule = c->rule;
	socket->name = c->name;
	socket->terms = c->terms;
	socket->generation = sandbox->generation; /* last: from here on the rest counts */
	if (c->verdict == AW_VERDICT_ALLOW)
		socket->flags |= AW_SOCKET_PERMITTED;
}

/* Keeps the verdict on *c* in *socket*, for its following packets. */
static __always_inline void aw_remember(struct aw_socket *socket, const struct aw_sandbox *sandbox,
					struct aw_case *c)
{
	__u64 now = aw_now(c);

	if (socket->bytes_out || socket->bytes_in)
		aw_flush(socket, now);
	bpf_spin_lock(&socket->lock);
	aw_store(socket, sandbox, c);
	bpf_spin_unlock(&socket->lock);
	socket->since_ns = now;
	socket->flushed_jiffies = bpf_jiffies64();
	if (c->hook == AW_HOOK_EGRESS)
		__sync_fetch_and_add(&socket->bytes_out, c->size);
	else if (c->hook == AW_HOOK_INGRESS)
		__sync_fetch_and_add(&socket->bytes_in, c->size);
}

/*
 * Flushes once at the end of a flow, and now and then, so that a long one shows while it lives.
 * What follows the last FIN or RST of our own, the peer's farewell, is not counted.
 */
static __always_inline void aw_flush_when_due(struct aw_socket *socket, struct aw_case *c)
{
	bool parting = c->protocol == IPPROTO_TCP && c->tcp_flags & (AW_TCP_FIN | AW_TCP_RST) &&
		       c->hook == AW_HOOK_EGRESS;
	bool watched = socket->flags & AW_SOCKET_USER && !(socket->flags & AW_SOCKET_RELEASED);

	if ((parting && !watched) || bpf_jiffies64() - socket->flushed_jiffies > AW_FLUSH_JIFFIES)
		aw_flush(socket, aw_now(c));
}

/* Notes what the application asked for: evidence, for the report of a translated destination. */
static __always_inline void aw_claim(struct aw_socket *socket, const struct aw_case *c)
{
	socket->claimed[0] = c->remote.halves[0];
	socket->claimed[1] = c->remote.halves[1];
	socket->claimed_port = c->remote_port;
}

#endif /* AGENTWALL_SOCKET_H */
