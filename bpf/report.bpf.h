/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reports to user space. Enforcement never depends on the outcome; what is lost is counted. */
#ifndef AGENTWALL_REPORT_H
#define AGENTWALL_REPORT_H

#include "case.bpf.h"

/* Notes who made the call, in *socket*: packets leave later, under whichever task runs then. */
static __always_inline void aw_note_task(struct aw_socket *socket)
{
	socket->pid = bpf_get_current_pid_tgid() >> 32;
	socket->uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(socket->comm, sizeof(socket->comm));
}

static __always_inline void aw_fill_event(struct aw_event *event, struct aw_case *c,
					  __u32 generation, const struct aw_socket *socket)
{
	__builtin_memset(event, 0, sizeof(*event));
	event->time_ns = aw_now(c);
	event->sandbox = c->id;
	event->cookie = c->cookie;
	event->name = c->name;
	__builtin_memcpy(event->remote, &c->remote, sizeof(event->remote));
	__builtin_memcpy(event->local, &c->local, sizeof(event->local));
	event->generation = generation;
	event->rule = c->rule;
	event->size = c->size;
	event->remote_port = c->remote_port;
	event->local_port = c->local_port;
	event->errno_ = c->errno_;
	event->protocol = c->protocol;
	event->hook = c->hook;
	event->verdict = c->verdict;
	event->reason = c->reason;
	event->direction = c->direction;
	event->socket_type = c->socket_type;
	if (socket) {
		event->pid = socket->pid;
		event->uid = socket->uid;
		__builtin_memcpy(event->comm, socket->comm, sizeof(event->comm));
		if (c->reason == AW_REASON_TRANSLATED) {
			__builtin_memcpy(event->claimed, socket->claimed, sizeof(event->claimed));
			event->claimed_port = socket->claimed_port;
		}
	}
}

/*
 * Sends one event: to aw_denials what was or would be refused, to aw_flows the first sight of what
 * passes. *socket*, if not NULL, says which task it is.
 */
static __attribute__((noinline, unused)) int aw_report(struct aw_case *c, __u32 generation,
						       const struct aw_socket *socket)
{
	bool denied = c->verdict != AW_VERDICT_ALLOW;
	struct aw_event *event;

	if (denied && !aw_may_report(c->id, aw_now(c), false))
		return 0;
	if (denied)
		event = bpf_ringbuf_reserve(&aw_denials, sizeof(*event), 0);
	else
		event = bpf_ringbuf_reserve(&aw_flows, sizeof(*event), 0);
	if (!event) {
		if (denied)
			AW_COUNT(c->id, lost_denials);
		else
			AW_COUNT(c->id, lost_flows);
		return 0;
	}
	aw_fill_event(event, c, generation, socket);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* Sends an event about the name in *work*, which was asked, answered or said. */
static __always_inline void aw_report_name(struct aw_case *c, __u32 generation,
					   const struct aw_socket *socket, struct aw_work *work)
{
	struct aw_name_event *event = (void *)work->event;

	if (!aw_may_report(c->id, aw_now(c), false))
		return;
	aw_fill_event(&event->event, c, generation, socket);
	event->type = work->type;
	event->length = work->length;
	aw_copy_text(event->text, work->key.text);
	if (bpf_ringbuf_output(&aw_denials, event, sizeof(*event), 0))
		AW_COUNT(c->id, lost_denials);
}

/*
 * Turns what the rules say into what happens in this mode, and counts it. Returns enum aw_action.
 */
static __always_inline int aw_settle(struct aw_case *c)
{
	if (c->verdict == AW_VERDICT_ALLOW)
		return AW_ACTION_ALLOW;
	if (c->mode == AW_MODE_AUDIT) {
		c->verdict = AW_VERDICT_WOULD_DENY;
		AW_COUNT(c->id, would_denied);
		return AW_ACTION_ALLOW;
	}
	AW_COUNT(c->id, denied);
	return AW_ACTION_DENY;
}

#endif /* AGENTWALL_REPORT_H */
