// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* At egress: flows and the connections of TLS libraries that they carry are brought together. */
#include <bpf/bpf_core_read.h>

#include "join.bpf.h"
#include "plain.bpf.h"
#include "record.bpf.h"

#define AW_HELLO_HEAD	   6 /* octets: the record's header, and the type of a handshake message */
#define AW_CLIENT_HELLO	   1
#define AW_HELLO_WINDOW_NS (100ULL * 1000 * 1000)
#define AW_HELLO_BUDGET	   16 /* that one sandbox may report within AW_HELLO_WINDOW_NS */

/* What the connection is to know of its flow. */
static __always_inline void aw_note_flow(struct aw_plain_connection *connection,
					 const struct aw_socket *socket, const struct aw_case *c)
{
	struct aw_except_key key = { .generation = socket->generation, .rule = c->rule };
	__u64 *groups = bpf_map_lookup_elem(&aw_excepts, &key);

	connection->name = c->name;
	__builtin_memcpy(connection->remote, &c->remote, sizeof(connection->remote));
	__builtin_memcpy(connection->local, &c->local, sizeof(connection->local));
	connection->rule = c->rule;
	connection->remote_port = c->remote_port;
	connection->local_port = c->local_port;
	connection->direction = c->direction;
	connection->unread = socket->reason == AW_REASON_LOOPBACK ||
			     socket->terms & AW_TERM_UNREAD >> AW_TERM_SHIFT;
	connection->excepted = groups ? *groups : 0;
	connection->generation = socket->generation; /* last: the rule counts from here on */
}

/*
 * The flow carries the connection, from now on. What was found in it before counts only if the flow's rule
 * does not except it.
 */
static __always_inline void aw_tie(struct aw_plain_connection *connection, struct aw_socket *socket,
				   const struct aw_case *c, const struct aw_plain_key *key)
{
	__u64 dead = aw_dead_process(c->id, key->process);

	aw_note_flow(connection, socket, c);
	if (!connection->cookie) {
		if (connection->dead)
			bpf_map_delete_elem(&aw_plain_dead, &dead);
		if (!(connection->judged & ~connection->excepted))
			connection->dead = 0;
	}
	connection->cookie = c->cookie;
	socket->spoken.process = key->process;
	socket->spoken.connection = key->connection;
}

/* Forgets what was read of a session, when another begins in its place. */
static __always_inline void aw_begin_session(struct aw_plain_connection *connection)
{
	connection->reported = connection->judged = 0;
	connection->table = 0;
	connection->position[0] = connection->position[1] = 0;
	connection->settled[0] = connection->settled[1] = 0;
	connection->handed[0] = connection->handed[1] = 0;
	connection->hands_over = connection->dead = connection->has_sent = 0;
}

/* Kernel types, as far as they are needed here: offsets are those of the running kernel. */
struct task_struct___aw {
	int tgid;
} __attribute__((preserve_access_index));

/*
 * The connection that the thread at the processor, if it is of the sandbox, last asked for something; and
 * what it asked for. Threads end without a word, so the call may be one of an older thread at the same
 * address: its process tells.
 */
static __always_inline struct aw_plain_connection *
aw_last_asked(const struct aw_case *c, struct aw_plain_key *key, __u8 *act)
{
	__u64 task = bpf_get_current_task();
	struct aw_plain_call *call = bpf_map_lookup_elem(&aw_plain_calls, &task);

	if (!call || call->sandbox != c->id ||
	    call->process != (__u32)BPF_CORE_READ((struct task_struct___aw *)task, tgid))
		return 0;
	key->sandbox = c->id;
	key->connection = call->connection;
	key->process = call->process;
	*act = call->act;
	return bpf_map_lookup_elem(&aw_plain_connections, key);
}

/*
 * The flow is that of the connection which its sender, if *current* is the sender, last asked for
 * something. Whoever else happens to run is of no sandbox, or has told of its own flow already. Returns
 * enum aw_plain_library, or 0.
 */
static __always_inline __u8 aw_find_connection(struct aw_socket *socket, struct aw_case *c,
					       bool is_hello)
{
	struct aw_plain_connection *connection;
	struct aw_plain_key key = {};
	__u8 act = 0;

	connection = aw_last_asked(c, &key, &act);
	if (!connection)
		return 0;
	if (connection->cookie && connection->cookie != c->cookie) {
		/* It has a flow, unless this is a new session of the same object: SSL_clear(3). */
		if (!is_hello || act != AW_PLAIN_SHAKE)
			return 0;
		aw_begin_session(connection);
	}
	if (!connection->cookie)
		AW_PLAIN_COUNT(joined, 1);
	aw_tie(connection, socket, c, &key);
	return connection->library;
}

/* As aw_may_report() for denials; these are evidence only. */
static __always_inline bool aw_may_tell_hello(struct aw_case *c)
{
	struct aw_counters *counters = bpf_map_lookup_elem(&aw_counters, &c->id);
	__u64 window = aw_now(c) / AW_HELLO_WINDOW_NS;

	if (!counters)
		return false;
	if (counters->hello_window != window) {
		counters->hello_window = window;
		counters->hellos = 0;
	}
	if (counters->hellos >= AW_HELLO_BUDGET)
		return false;
	__sync_fetch_and_add(&counters->hellos, 1);
	return true;
}

/* Tells user space of a flow that begins with a ClientHello. */
static __always_inline void aw_tell_hello(struct __sk_buff *skb, struct aw_case *c,
					  const struct aw_sandbox *sandbox,
					  const struct aw_socket *socket, __u8 library)
{
	__u32 count = skb->len - c->start;
	struct aw_hello_event *event = 0;

	if (aw_may_tell_hello(c))
		event = bpf_ringbuf_reserve(&aw_excerpts, sizeof(*event), 0);
	if (!event) {
		AW_COUNT(c->id, lost_hellos);
		return;
	}
	aw_name_socket(skb, c);
	c->verdict = AW_VERDICT_ALLOW;
	aw_fill_event(&event->event, c, sandbox->generation, socket);
	event->library = library;
	__builtin_memset(event->_pad, 0, sizeof(event->_pad));
	if (count > AW_HELLO_BYTES)
		count = AW_HELLO_BYTES;
	asm volatile("" : "+r"(count));
	count = ((count - 1) & (AW_HELLO_BYTES - 1)) + 1;
	event->length = bpf_skb_load_bytes(skb, c->start, event->text, count) ? 0 : count;
	bpf_ringbuf_submit(event, 0);
}

/*
 * The thread at the processor has said something for which its connection is dead, and now sends a record
 * of text on a flow that had no handshake: the session goes on there, after SSL_set_fd(3).
 */
static __always_inline bool aw_is_moved(const struct aw_socket *socket, const struct aw_case *c)
{
	struct aw_except_key rule = { .generation = socket->generation, .rule = socket->rule };
	struct aw_plain_connection *connection;
	struct aw_plain_key key = {};
	__u8 act = 0;

	connection = aw_last_asked(c, &key, &act);
	return connection && connection->dead && act == AW_PLAIN_SAY &&
	       key.process == socket->pid && !(socket->terms & AW_TERM_UNREAD >> AW_TERM_SHIFT) &&
	       socket->reason != AW_REASON_LOOPBACK && !bpf_map_lookup_elem(&aw_excepts, &rule);
}

/*
 * Looks at a segment of a flow whose connection is not known. Returns whether it is not to pass whatever
 * is found.
 */
static __always_inline bool aw_look_at(struct __sk_buff *skb, const struct aw_sandbox *sandbox,
				       struct aw_socket *socket, struct aw_case *c)
{
	__u8 head[AW_HELLO_HEAD];
	bool is_hello;
	__u8 library;

	socket->spoken.tries++;
	if (bpf_skb_load_bytes(skb, c->start, head, sizeof(head)) || !aw_is_record(head))
		return false;
	is_hello = head[0] == AW_RECORD_HELLO && head[5] == AW_CLIENT_HELLO;
	library = aw_find_connection(socket, c, is_hello);
	if (is_hello && !socket->spoken.told) {
		socket->spoken.told = 1;
		aw_tell_hello(skb, c, sandbox, socket, library);
	}
	return !library && !socket->spoken.told && head[0] == AW_RECORD_TEXT &&
	       aw_is_moved(socket, c);
}

/*
 * Until then no call's text has left. A client's last word of the handshake may look like text, but OpenSSL
 * sends it behind a record of another kind.
 */
static __always_inline void
aw_note_sent(struct __sk_buff *skb, struct aw_plain_connection *connection, const struct aw_case *c)
{
	__u8 kind;

	if (connection->has_sent)
		return;
	if (bpf_skb_load_bytes(skb, c->start, &kind, sizeof(kind)) || kind == AW_RECORD_TEXT)
		connection->has_sent = 1;
}

/*
 * The connection that the socket carries; 0 where it is none, or the library has freed it. One that has
 * another flow by now tells in *is_dead whether it is dead: whose record another flow was taken for.
 */
static __always_inline struct aw_plain_connection *
aw_carried(const struct aw_socket *socket, const struct aw_case *c, bool *is_dead)
{
	struct aw_plain_key key = { .sandbox = c->id,
				    .connection = socket->spoken.connection,
				    .process = socket->spoken.process };
	struct aw_plain_connection *connection;

	if (!key.connection)
		return 0;
	connection = bpf_map_lookup_elem(&aw_plain_connections, &key);
	if (!connection || connection->cookie == c->cookie)
		return connection;
	*is_dead = connection->cookie && connection->dead;
	return 0;
}

/* A process that has forked goes on with the connection at the same address, under its own id. */
static __always_inline void aw_follow_fork(struct aw_socket *socket, struct aw_case *c)
{
	struct aw_plain_connection *connection;
	struct aw_plain_key key = {};
	__u8 act = 0;

	connection = aw_last_asked(c, &key, &act);
	if (!connection || (connection->cookie && connection->cookie != c->cookie) ||
	    key.connection != socket->spoken.connection || key.process == socket->spoken.process)
		return;
	aw_tie(connection, socket, c, &key);
	/* What one of them has said holds for the flow. */
	if (bpf_map_lookup_elem(&aw_plain_dead, &c->cookie))
		connection->dead = 1;
}

/*
 * Where a library puts TLS inside TLS by itself, no call hands the outer connection anything. So it is that
 * one whose records leave though nothing was said, while its process has a dead one without a flow.
 */
static __always_inline bool aw_hides_dead(const struct aw_plain_connection *connection,
					  const struct aw_socket *socket)
{
	__u64 dead = aw_dead_process(connection->sandbox, socket->spoken.process);

	return !connection->position[AW_WAY_OUT] && !connection->unread && !connection->excepted &&
	       bpf_map_lookup_elem(&aw_plain_dead, &dead);
}

/*
 * A TLS flow that no call was seen to begin: another thread sends for the one that asks the library, or it
 * was begun before there were probes. A dead connection of its process that has no flow is taken for its,
 * unless its rule does not have everything read; and one of any process, where these are not known singly.
 */
static __always_inline bool aw_is_suspect(const struct aw_socket *socket, const struct aw_case *c)
{
	struct aw_except_key key = { .generation = socket->generation, .rule = socket->rule };
	__u64 dead = aw_dead_process(c->id, socket->pid), all = aw_dead_process(c->id, 0);

	return socket->spoken.told && !(socket->terms & AW_TERM_UNREAD >> AW_TERM_SHIFT) &&
	       socket->reason != AW_REASON_LOOPBACK &&
	       (bpf_map_lookup_elem(&aw_plain_dead, &dead) ||
		bpf_map_lookup_elem(&aw_plain_dead, &all)) &&
	       !bpf_map_lookup_elem(&aw_excepts, &key);
}

AW_GLOBAL int aw_join(struct __sk_buff *skb, __u64 id)
{
	struct aw_case c = { .hook = AW_HOOK_EGRESS, .id = id };
	struct aw_plain_connection *connection;
	struct bpf_sock *sk = skb->sk;
	struct aw_sandbox *sandbox;
	struct aw_socket *socket;
	bool is_dead = false;

	if (!sk || !(sk = bpf_sk_fullsock(sk)))
		return AW_ACTION_DENY;
	sandbox = aw_sandbox_of(id);
	socket = bpf_sk_storage_get(&aw_sockets, sk, 0, 0);
	if (!sandbox || !socket)
		return AW_ACTION_DENY;
	if (aw_parse(skb, true, &c))
		return AW_ACTION_DENY;
	c.socket_type = sk->type;
	c.mode = aw_mode_of(sandbox->mode, sandbox->until_ns);
	c.direction = socket->direction;
	c.name = socket->name;
	c.rule = socket->rule;
	c.reason = socket->reason;
	aw_name_socket(skb, &c);
	if (socket->spoken.connection)
		aw_follow_fork(socket, &c);
	connection = aw_carried(socket, &c, &is_dead);
	is_dead |= !connection && bpf_map_lookup_elem(&aw_plain_dead, &c.cookie);
	if (!connection && !is_dead && socket->spoken.tries < AW_JOIN_TRIES) {
		is_dead = aw_look_at(skb, sandbox, socket, &c);
		connection = aw_carried(socket, &c, &is_dead);
	}
	if (connection) {
		aw_note_sent(skb, connection, &c);
		connection->dead |= aw_hides_dead(connection, socket);
		is_dead = connection->dead;
		if (connection->generation != socket->generation)
			aw_note_flow(connection, socket, &c);
	} else if (!is_dead) {
		is_dead = aw_is_suspect(socket, &c);
	}
	if (!is_dead || c.mode != AW_MODE_ENFORCE)
		return AW_ACTION_ALLOW;
	/* From here on aw_scan() refuses the rest. */
	socket->scan.dead = 1;
	c.reason = AW_REASON_SIGNATURE;
	c.verdict = AW_VERDICT_DENY;
	aw_settle(&c);
	aw_report(&c, sandbox->generation, socket);
	__sync_fetch_and_add(&socket->bytes_out, -(__u64)skb->len);
	return AW_ACTION_DENY;
}
