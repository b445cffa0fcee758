/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* UDP peers: whom an inbound rule let in; while it stands they may be answered for AW_PEER_NS. */
#ifndef AGENTWALL_PEER_H
#define AGENTWALL_PEER_H

#include "decide.bpf.h"

#define AW_PEER_HEARD 0ULL /* an inbound rule let it in: it may be answered */
/* In audit mode: the sandbox spoke first, though the rules deny it. Answers are no intruders. */
#define AW_PEER_CONTACTED (1ULL << 16)

static __always_inline void aw_peer_key_of(void *ctx, struct aw_case *c, struct aw_peer_key *key)
{
	aw_name_socket(ctx, c);
	key->cookie = c->cookie;
	key->remote[0] = c->remote.halves[0];
	key->remote[1] = c->remote.halves[1];
	key->port = c->remote_port;
}

static __always_inline void aw_note_peer(void *ctx, struct aw_case *c, __u64 how)
{
	struct aw_peer_key key;
	__u64 now = aw_now(c);

	aw_peer_key_of(ctx, c, &key);
	key.port |= how;
	bpf_map_update_elem(&aw_peers, &key, &now, BPF_ANY);
}

/* Notes the remote of a datagram that audit mode lets through. */
static __always_inline void aw_note_contact(void *ctx, struct aw_case *c)
{
	if (c->mode == AW_MODE_AUDIT && c->verdict == AW_VERDICT_DENY && c->protocol != IPPROTO_TCP)
		aw_note_peer(ctx, c, AW_PEER_CONTACTED);
}

/* Says whether *c* goes to or comes from a peer that was noted a moment ago. */
static __always_inline bool aw_knows_peer(void *ctx, struct aw_case *c, __u64 how)
{
	struct aw_peer_key key;
	__u64 *noted_ns;

	aw_peer_key_of(ctx, c, &key);
	key.port |= how;
	noted_ns = bpf_map_lookup_elem(&aw_peers, &key);
	/* Signed: it may have been heard again since the clock was read. */
	return noted_ns && (__s64)(aw_now(c) - *noted_ns) < AW_PEER_NS;
}

/*
 * Notes the remote of a datagram that was let in, but not on loopback: see aw_has_called(). There a
 * sandbox could also fill the map, which is everyone's, by talking to itself.
 */
static __always_inline void aw_note_caller(void *ctx, struct aw_case *c)
{
	if (!aw_is_loopback(&c->remote))
		aw_note_peer(ctx, c, AW_PEER_HEARD);
}

/*
 * Says whether the remote of *c* called this UDP socket. On loopback a sandbox can send itself
 * datagrams in any other's name, every address and so every port there being its own: only who
 * has connected to this socket has surely called it.
 */
static __always_inline bool aw_has_called(void *ctx, struct aw_case *c)
{
	if (aw_is_loopback(&c->remote))
		return aw_receiver_of(ctx, c) == AW_RECEIVER_CALLER;
	return aw_knows_peer(ctx, c, AW_PEER_HEARD);
}

#endif /* AGENTWALL_PEER_H */
