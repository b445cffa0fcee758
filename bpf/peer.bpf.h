/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* UDP peers: who was let in by an inbound rule and may be answered for AW_PEER_NS. */
#ifndef AGENTWALL_PEER_H
#define AGENTWALL_PEER_H

#include "case.bpf.h"

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
static __always_inline void aw_note_contact(void *ctx, const struct aw_sandbox *sandbox,
					    struct aw_case *c)
{
	if (sandbox->mode == AW_MODE_AUDIT && c->verdict == AW_VERDICT_DENY &&
	    c->protocol != IPPROTO_TCP)
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
	return noted_ns && aw_now(c) - *noted_ns < AW_PEER_NS;
}

#endif /* AGENTWALL_PEER_H */
