// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What answers of DNS servers say is learned before the application can read it. */
#include "learn.bpf.h"

#define AW_MAX_TTL_S 604800

/* Makes the entry of an address. Returns false if there is one, or no room. */
static __always_inline bool aw_bind_first(const struct aw_bound_key *key, struct aw_known *known,
					  struct aw_work *work, __u64 until, __u32 limit)
{
	struct aw_counters *counters = bpf_map_lookup_elem(&aw_counters, &key->sandbox);
	struct aw_bound *fresh = (void *)work->bound;

	if (!counters || counters->bound >= limit)
		return false;
	for (int i = 0; i < AW_NAMES_OF_ADDRESS; i++) {
		fresh->names[i].name = 0;
		fresh->names[i].until_ns = 0;
	}
	fresh->names[0].name = work->hash;
	fresh->names[0].until_ns = until;
	if (bpf_map_update_elem(&aw_bound, key, fresh, BPF_NOEXIST))
		return false;
	__sync_fetch_and_add(&known->addresses, 1);
	__sync_fetch_and_add(&counters->bound, 1);
	return true;
}

/*
 * Adds a name to an address that has an entry: where it stands already, in the place of one that is
 * over, or of the one that is over first.
 */
static __always_inline void aw_bind_more(__u64 sandbox, struct aw_bound *bound,
					 struct aw_known *known, __u64 name, __u64 until, __u64 now)
{
	__u64 least = ~0ULL, evicted = 0;
	struct aw_known *other;
	__u32 place = 0;
	bool there = false;

	bpf_spin_lock(&bound->lock);
	for (int i = 0; i < AW_NAMES_OF_ADDRESS; i++) {
		__u64 ends = bound->names[i].until_ns;

		if (bound->names[i].name == name) {
			there = true;
			place = i;
			break;
		}
		if (ends < now)
			ends = 0;
		if (ends < least) {
			least = ends;
			place = i;
		}
	}
	place &= AW_NAMES_OF_ADDRESS - 1;
	if (!there) {
		evicted = bound->names[place].name;
		bound->names[place].name = name;
		bound->names[place].until_ns = until;
	} else if (bound->names[place].until_ns < until) {
		bound->names[place].until_ns = until;
	}
	bpf_spin_unlock(&bound->lock);
	if (there)
		return;
	__sync_fetch_and_add(&known->addresses, 1);
	other = evicted ? aw_find_known(sandbox, evicted) : 0;
	if (other)
		__sync_fetch_and_add(&other->addresses, -1);
}

static __always_inline bool aw_has_name(const struct aw_bound *bound, __u64 name)
{
	for (int i = 0; i < AW_NAMES_OF_ADDRESS; i++)
		if (bound->names[i].name == name)
			return true;
	return false;
}

/*
 * Binds the address in work->about of aw_works[index] to the name there, for *ttl_s*. *permits*: some
 * rule allows the name. Returns whether there was room.
 */
AW_GLOBAL int aw_bind(__u64 sandbox_id, __u32 index, __u32 ttl_s, __u32 permits)
{
	struct aw_sandbox *sandbox = aw_sandbox_of(sandbox_id);
	__u32 limit = permits ? AW_BOUND_LIMIT : AW_BOUND_LIMIT / 2;
	struct aw_bound_key key = { .sandbox = sandbox_id };
	__u64 now = bpf_ktime_get_boot_ns(), until;
	struct aw_work *work = aw_work_at(index);
	struct aw_known *known;
	struct aw_bound *bound;
	struct aw_case *c;

	if (!sandbox || !work)
		return false;
	known = aw_find_known(sandbox_id, work->hash);
	if (!known)
		return false;
	if (ttl_s < sandbox->min_ttl_s)
		ttl_s = sandbox->min_ttl_s;
	if (ttl_s > AW_MAX_TTL_S)
		ttl_s = AW_MAX_TTL_S;
	until = now + ttl_s * 1000000000ULL;
	c = (void *)work->about;
	__builtin_memcpy(key.address, &c->remote, sizeof(key.address));
	bound = bpf_map_lookup_elem(&aw_bound, &key);
	if (known->addresses >= sandbox->max_addresses &&
	    (!bound || !aw_has_name(bound, work->hash)))
		return false;
	if (!bound) {
		if (aw_bind_first(&key, known, work, until, limit))
			return true;
		bound = bpf_map_lookup_elem(&aw_bound, &key);
	}
	if (!bound)
		return false;
	aw_bind_more(sandbox_id, bound, known, work->hash, until, now);
	return true;
}

/* Reports that a name leads to where only a rule on addresses may lead: work->about. Returns 0. */
AW_GLOBAL int aw_report_rebinding(struct __sk_buff *skb, __u64 sandbox_id, __u32 index)
{
	struct aw_sandbox *sandbox = aw_sandbox_of(sandbox_id);
	struct aw_work *work = aw_work_at(index);
	struct bpf_sock *sk = skb->sk;
	struct aw_socket *socket;
	struct aw_case *c;

	if (!sandbox || !work || !sk || !(sk = bpf_sk_fullsock(sk)))
		return 0;
	socket = bpf_sk_storage_get(&aw_sockets, sk, 0, 0);
	if (!socket)
		return 0;
	c = (void *)work->about;
	c->id = sandbox_id;
	aw_rule_out(c, AW_VERDICT_DENY, AW_REASON_REBINDING);
	aw_name_socket(skb, c);
	aw_settle(c);
	aw_report_name(c, sandbox->generation, socket, work);
	return 0;
}

enum aw_learning {
	AW_LEARNING_NOTHING,
	AW_LEARNING_ADDRESS,
	AW_LEARNING_PERMITTED, /* and some rule allows the name */
	AW_LEARNING_REFUSED,
};

/*
 * Says what is to be learned of address *i* of aw_works[index], which then is work->about.
 */
AW_GLOBAL int aw_weigh_answer(struct __sk_buff *skb, __u64 sandbox_id, __u32 index, __u32 i)
{
	struct aw_sandbox *sandbox = aw_sandbox_of(sandbox_id);
	struct aw_work *work = aw_work_at(index);
	struct aw_interval_set *set;
	struct aw_case *c;
	bool permits;
	__u64 rules;

	if (!sandbox || !work || i >= AW_ANSWERS)
		return AW_LEARNING_NOTHING;
	c = (void *)work->about;
	__builtin_memset(c, 0, sizeof(*c));
	c->hook = AW_HOOK_INGRESS;
	c->mode = aw_mode_of(sandbox->mode, sandbox->until_ns);
	c->size = skb->len;
	c->protocol = work->protocol;
	c->name = work->hash;
	__builtin_memcpy(&c->remote, work->answer[i].address, sizeof(c->remote));
	aw_destination(&c->remote);
	rules = aw_rules_of(sandbox_id, work->hash, sandbox->generation, sandbox->names);
	permits = rules != AW_NO_MEMORY && rules >> 32 & AW_SET_PERMITS;
	set = aw_find_set(sandbox->generation, AW_DIRECTION_OUT, &c->remote);
	if (c->mode != AW_MODE_OBSERVE && (!set || set->count & AW_SET_CLOSED))
		return permits ? AW_LEARNING_REFUSED : AW_LEARNING_NOTHING;
	return permits ? AW_LEARNING_PERMITTED : AW_LEARNING_ADDRESS;
}

static __always_inline bool aw_was_asked(struct bpf_sock *sk, const struct aw_work *work)
{
	struct aw_asked *asked = bpf_sk_storage_get(&aw_asked, sk, 0, 0);

	if (!asked)
		return false;
		/* Unrolled, it would keep 32 addresses on the stack. */
#pragma clang loop unroll(disable)
	for (int i = 0; i < AW_QUESTIONS; i++)
		if (asked->questions[i].name == work->hash && asked->questions[i].id == work->id &&
		    asked->questions[i].type == work->type)
			return true;
	return false;
}

AW_GLOBAL int aw_take_answer(struct __sk_buff *skb, __u64 sandbox, __u32 index)
{
	struct aw_work *work = aw_work_at(index);
	struct bpf_sock *sk = skb->sk;

	if (!work || !work->answers || !sk || !(sk = bpf_sk_fullsock(sk)) ||
	    !aw_was_asked(sk, work))
		return 0;
	if (!aw_know(sandbox, index)) {
		AW_COUNT(sandbox, lost_names);
		return 0;
	}
#pragma clang loop unroll(disable)
	for (int i = 0; i < AW_ANSWERS; i++) {
		int learning;

		if (i >= work->answers)
			break;
		learning = aw_weigh_answer(skb, sandbox, index, i);
		if (learning == AW_LEARNING_REFUSED)
			aw_report_rebinding(skb, sandbox, index);
		else if (learning != AW_LEARNING_NOTHING &&
			 !aw_bind(sandbox, index, work->answer[i].ttl_s,
				  learning == AW_LEARNING_PERMITTED))
			AW_COUNT(sandbox, lost_names);
	}
	return 0;
}

/*
 * Takes the next bytes of the stream, at *at*, up to the end of a message. Returns how many, and
 * leaves the message whole or not.
 */
static __always_inline __u32 aw_take_bytes(struct __sk_buff *skb, struct aw_stream *stream,
					   __u32 at)
{
	__u32 have = stream->have, left = skb->len - at, size, place;

	if (have < AW_PREFIX) {
		if (bpf_skb_load_bytes(skb, at, &stream->prefix[have & 1], 1))
			return left;
		stream->have = have + 1;
		return 1;
	}
	size = (stream->prefix[0] << 8 | stream->prefix[1]) + AW_PREFIX - have;
	if (size > left)
		size = left;
	stream->have = have + size;
	place = have - AW_PREFIX;
	left = size;
	if (place >= AW_STREAM_LEN)
		return size;
	if (left > AW_STREAM_LEN - place)
		left = AW_STREAM_LEN - place;
	if (!left)
		return size;
	left--;
	/* As in aw_load_message(). */
	asm volatile("" : "+r"(left), "+r"(place));
	left &= AW_STREAM_LEN - 1;
	place &= AW_STREAM_LEN - 1;
	bpf_skb_load_bytes(skb, at, stream->message + place, left + 1);
	return size;
}

static __always_inline bool aw_is_whole(const struct aw_stream *stream)
{
	return stream->have >= AW_PREFIX &&
	       stream->have == (__u32)(stream->prefix[0] << 8 | stream->prefix[1]) + AW_PREFIX;
}

static __always_inline void aw_copy_message(struct aw_work *work, const struct aw_stream *stream)
{
	const __u64 *from = (const __u64 *)stream->message;
	__u64 *to = (__u64 *)work->message;
	__u32 size = stream->have - AW_PREFIX;

	work->size = size < AW_STREAM_LEN ? size : AW_STREAM_LEN;
	for (int i = 0; i < AW_STREAM_LEN / 8; i++) {
		if (i * 8 >= work->size)
			break;
		to[i] = from[i];
	}
}

AW_GLOBAL int aw_gather(struct __sk_buff *skb, __u32 index, __u32 at)
{
	struct aw_work *work = aw_work_at(index);
	struct bpf_sock *sk = skb->sk;
	struct aw_stream *stream;
	__u32 taken;

	if (!work || !sk || !(sk = bpf_sk_fullsock(sk)))
		return 0;
	stream = bpf_sk_storage_get(&aw_streams, sk, 0, 0);
	if (!stream)
		return 0;
	work->size = 0;
	taken = aw_take_bytes(skb, stream, at);
	if (aw_is_whole(stream)) {
		aw_copy_message(work, stream);
		stream->have = 0;
	}
	return taken;
}
