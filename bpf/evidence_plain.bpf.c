// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What user space gets of text inside TLS: the octets of a match, and octets for the decoders. */
#include "plain.bpf.h"

/*
 * Of a flow that is to be judged by other rules with its next packet it is not known which of them will
 * count; it is read by what they have in common.
 */
static __always_inline void aw_open_case(const struct aw_plain_work *work,
					 const struct aw_plain_connection *connection,
					 const struct aw_sandbox *sandbox, struct aw_case *c)
{
	__builtin_memset(c, 0, sizeof(*c));
	c->id = connection->sandbox;
	c->hook = AW_HOOK_PLAIN;
	c->reason = AW_REASON_SIGNATURE;
	c->verdict = AW_VERDICT_ALLOW;
	c->mode = aw_mode_of(sandbox->mode, sandbox->until_ns);
	c->protocol = IPPROTO_TCP;
	c->socket_type = SOCK_STREAM;
	c->cookie = connection->cookie;
	c->name = connection->name;
	c->rule = connection->generation == work->generation ? connection->rule : AW_NO_RULE;
	c->direction = connection->direction;
	c->remote_port = connection->remote_port;
	c->local_port = connection->local_port;
	__builtin_memcpy(&c->remote, connection->remote, sizeof(c->remote));
	__builtin_memcpy(&c->local, connection->local, sizeof(c->local));
}

/* Here, unlike at egress, who runs is who said it. */
static __always_inline void aw_fill_plain(struct aw_event *event, struct aw_case *c,
					  __u32 generation)
{
	aw_fill_event(event, c, generation, 0);
	event->pid = bpf_get_current_pid_tgid() >> 32;
	event->uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(event->comm, sizeof(event->comm));
}

/* Sends an event with the last octets up to the end of the match. */
static __always_inline void aw_tell_plain(struct aw_case *c,
					  const struct aw_plain_connection *connection,
					  const struct aw_plain_work *work, __u32 table)
{
	__u32 have, count = work->read, way = work->way & 1;
	struct aw_match_event *event;

	if (!aw_may_report(c->id, aw_now(c), true))
		return;
	event = bpf_ringbuf_reserve(&aw_denials, sizeof(*event), 0);
	if (!event) {
		AW_COUNT(c->id, lost_denials);
		return;
	}
	aw_fill_plain(&event->event, c, work->generation);
	event->table = table;
	event->position = work->before + count;
	event->left = work->before;
	event->accept = work->cursor.accept;
	event->side = work->side;
	__builtin_memset(event->_pad, 0, sizeof(event->_pad));
	__builtin_memset(event->text, 0, sizeof(event->text));
	__builtin_memcpy(event->text, connection->tail.text[way], AW_TAIL_BYTES);
	have = work->before ? connection->tail.have[way] & (AW_TAIL_BYTES - 1) : 0;
	if (count > AW_TAIL_BYTES)
		count = AW_TAIL_BYTES;
	event->length = have + count;
	if (count) {
		asm volatile("" : "+r"(count));
		count = ((count - 1) & (AW_TAIL_BYTES - 1)) + 1;
		if (bpf_probe_read_user(&event->text[have], count,
					(void *)(unsigned long)(work->text - count)))
			event->length = have;
	}
	bpf_ringbuf_submit(event, 0);
}

AW_GLOBAL int aw_take_plain(__u32 index)
{
	struct aw_plain_work *work = aw_plain_work_at(index);
	struct aw_plain_connection *connection;
	int action = AW_ACTION_ALLOW;
	struct aw_signatures *table;
	struct aw_sandbox *sandbox;
	__u64 groups, fresh, certain, dead = 0;
	__u32 accept;
	struct aw_case *c;

	if (!work)
		return AW_ACTION_DENY;
	connection = bpf_map_lookup_elem(&aw_plain_connections, &work->key);
	table = bpf_map_lookup_elem(&aw_signatures, &work->cursor.table);
	if (!connection || !table)
		return AW_ACTION_DENY;
	sandbox = aw_sandbox_of(connection->sandbox);
	if (!sandbox)
		return AW_ACTION_DENY;
	accept = work->cursor.accept & (AW_ACCEPTS - 1);
	groups = table->accepts[accept].groups;
	certain = table->accepts[accept].certain & ~work->cursor.spared;
	fresh = (groups & ~work->cursor.ignored) | certain;
	work->cursor.ignored |= groups;
	work->cursor.spared |= certain;
	connection->reported |= groups;
	connection->judged |= certain;
	if (fresh & AW_GROUP_HAND_OVER) {
		connection->hands_over = 1;
		connection->settled[0] = connection->settled[1] = 0;
	}
	fresh &= ~AW_GROUP_HAND_OVER;
	if (!fresh)
		return AW_ACTION_ALLOW;
	c = (void *)work->about;
	aw_open_case(work, connection, sandbox, c);
	AW_COUNT(c->id, matches);
	if (certain && c->cookie) {
		c->verdict = c->mode == AW_MODE_OBSERVE ? AW_VERDICT_ALLOW : AW_VERDICT_DENY;
		action = aw_settle(c);
		dead = c->cookie;
	} else if (certain && c->mode == AW_MODE_ENFORCE) {
		/* An alert, until egress has found the flow and refused it. */
		action = AW_ACTION_DENY;
		dead = aw_dead_process(c->id, work->key.process);
	}
	if (action == AW_ACTION_DENY) {
		connection->dead = 1;
		aw_mark_dead(c->id, dead);
	}
	aw_tell_plain(c, connection, work, table->generation);
	return action;
}

AW_GLOBAL int aw_hand_plain(__u32 index, __u64 text, __u32 size)
{
	struct aw_plain_work *work = aw_plain_work_at(index);
	struct aw_plain_connection *connection;
	struct aw_excerpt_event *event;
	struct aw_sandbox *sandbox;
	__u32 count = size, way;
	struct aw_case *c;

	if (!work || !count)
		return 0;
	connection = bpf_map_lookup_elem(&aw_plain_connections, &work->key);
	if (!connection)
		return 0;
	sandbox = aw_sandbox_of(connection->sandbox);
	way = work->way & 1;
	if (!sandbox || connection->handed[way] >= AW_HANDED_BYTES)
		return 0;
	if (count > AW_EXCERPT_BYTES)
		count = AW_EXCERPT_BYTES;
	c = (void *)work->about;
	aw_open_case(work, connection, sandbox, c);
	event = bpf_ringbuf_reserve(&aw_excerpts, sizeof(*event), 0);
	if (!event) {
		AW_COUNT(c->id, lost_excerpts);
		return 0;
	}
	aw_fill_plain(&event->event, c, work->generation);
	event->position = work->before;
	event->side = work->side;
	event->_pad = 0;
	__builtin_memset(event->text, 0, AW_EXCERPT_BYTES / 2);
	asm volatile("" ::: "memory"); /* as one it is more than clang unrolls */
	__builtin_memset(event->text + AW_EXCERPT_BYTES / 2, 0, AW_EXCERPT_BYTES / 2);
	asm volatile("" : "+r"(count));
	count = ((count - 1) & (AW_EXCERPT_BYTES - 1)) + 1;
	event->length =
		bpf_probe_read_user(event->text, count, (void *)(unsigned long)text) ? 0 : count;
	bpf_ringbuf_submit(event, 0);
	connection->handed[way] += count;
	return 0;
}

AW_GLOBAL int aw_tail_plain(__u32 index)
{
	struct aw_plain_work *work = aw_plain_work_at(index);
	struct aw_plain_connection *connection;
	__u32 count, have, way;

	if (!work || !work->read)
		return 0;
	connection = bpf_map_lookup_elem(&aw_plain_connections, &work->key);
	if (!connection)
		return 0;
	way = work->way & 1;
	count = work->read < AW_TAIL_BYTES ? work->read : AW_TAIL_BYTES - 1;
	have = connection->tail.have[way];
	if (!work->before || have + count >= AW_TAIL_BYTES)
		have = 0;
	have &= AW_TAIL_BYTES - 1;
	asm volatile("" : "+r"(count));
	count = ((count - 1) & (AW_TAIL_BYTES - 1)) + 1;
	if (!bpf_probe_read_user(&connection->tail.text[way][have], count,
				 (void *)(unsigned long)(work->text - count)))
		connection->tail.have[way] = have + count;
	return 0;
}
