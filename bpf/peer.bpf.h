/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* UDP peers: who was let in by an inbound rule and may be answered for AW_PEER_NS. */
#ifndef AGENTWALL_PEER_H
#define AGENTWALL_PEER_H

#include "case.bpf.h"

static __always_inline void aw_peer_key_of(const struct aw_case *c, struct aw_peer_key *key)
{
	key->cookie = c->cookie;
	key->remote[0] = c->remote.halves[0];
	key->remote[1] = c->remote.halves[1];
	key->port = c->remote_port;
}

static __always_inline void aw_hear_peer(void *ctx, struct aw_case *c)
{
	struct aw_peer_key key;
	__u64 now = aw_now(c);

	aw_name_socket(ctx, c);
	aw_peer_key_of(c, &key);
	bpf_map_update_elem(&aw_peers, &key, &now, BPF_ANY);
}

/* Says whether *c* answers a peer that was heard a moment ago. */
static __always_inline bool aw_answers_peer(void *ctx, struct aw_case *c)
{
	struct aw_peer_key key;
	__u64 *heard_ns;

	aw_name_socket(ctx, c);
	aw_peer_key_of(c, &key);
	heard_ns = bpf_map_lookup_elem(&aw_peers, &key);
	return heard_ns && aw_now(c) - *heard_ns < AW_PEER_NS;
}

#endif /* AGENTWALL_PEER_H */
