// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Which questions may leave for a declared DNS server. policy/names.py says the same. */
#include "ask.bpf.h"

#include <bpf/bpf_core_read.h>

#define AW_SUFFIXES 8 /* suffixes of one name that dns.search lists: tried longest first */

enum aw_asking {
	AW_ASKING_REFUSED,
	AW_ASKING_PERMITTED,
	AW_ASKING_DENIED, /* by a rule on this name: nothing else helps */
};

/* Weighs the name in work->rest, *names* being a part of aw_names, as enum aw_asking. */
AW_GLOBAL int aw_weigh(__u32 index, __u32 names, __u32 as_asked)
{
	struct aw_work *work = aw_work_at(index);
	struct aw_name_rules *rules;
	__u32 depth, count;

	if (!work)
		return AW_ASKING_REFUSED;
	work->rest.table = names << 1;
	rules = bpf_map_lookup_elem(&aw_names, &work->rest);
	if (!rules)
		return AW_ASKING_REFUSED;
	depth = aw_depth_of(work->rest.text, (work->rest.prefixlen - 16) / 8, rules->length);
	count = rules->sets[depth].count;
	if (count & AW_SET_PERMITS)
		return AW_ASKING_PERMITTED;
	if (count & AW_SET_COUNT)
		return AW_ASKING_DENIED;
	return as_asked && rules->asks & 1 << depth ? AW_ASKING_PERMITTED : AW_ASKING_REFUSED;
}

/* Copies what follows the first *length* bytes of the text to work->rest. Returns 0. */
AW_GLOBAL int aw_take_rest(__u32 index, __u32 length)
{
	struct aw_work *work = aw_work_at(index);

	if (!work || length >= work->length)
		return 0;
	work->left = work->length - length;
	work->at = length;
	__builtin_memset(work->rest.text, 0, AW_NAME_LEN);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < AW_NAME_LEN; i++) {
		__u32 at = work->at + i;

		/* Else clang adds the two to the pointer one by one, past what was checked. */
		asm volatile("" : "+r"(at));
		if (at >= AW_NAME_LEN)
			break;
		work->rest.text[i] = work->key.text[at];
	}
	work->rest.prefixlen = 16 + work->left * 8;
	return 0;
}

/* A permitted name and one of the suffixes that a resolver appends to it. */
static __always_inline bool aw_is_search(const struct aw_sandbox *sandbox, __u32 index)
{
	struct aw_work *work = aw_work_at(index);
	struct aw_name_rules *suffix;

	if (!work)
		return false;
	work->key.table = sandbox->names << 1 | 1;
	suffix = bpf_map_lookup_elem(&aw_names, &work->key);
	for (int i = 0; i < AW_SUFFIXES; i++) {
		if (!suffix)
			return false;
		if (suffix->length < work->length) {
			aw_take_rest(index, suffix->length);
			if (aw_weigh(index, sandbox->names, false) == AW_ASKING_PERMITTED)
				return true;
		}
		if (!suffix->wider)
			return false;
		work->key.prefixlen = 16 + suffix->wider * 8;
		suffix = bpf_map_lookup_elem(&aw_names, &work->key);
	}
	return false;
}

AW_GLOBAL int aw_may_ask(__u64 sandbox_id, __u32 index)
{
	struct aw_sandbox *sandbox = aw_sandbox_of(sandbox_id);
	int asking;

	if (!sandbox)
		return false;
	aw_take_rest(index, 0);
	asking = aw_weigh(index, sandbox->names, true);
	if (asking != AW_ASKING_REFUSED)
		return asking == AW_ASKING_PERMITTED;
	if (sandbox->dns & AW_DNS_ASK_ANY ||
	    aw_mode_of(sandbox->mode, sandbox->until_ns) == AW_MODE_OBSERVE)
		return true;
	return sandbox->dns & AW_DNS_SEARCH && aw_is_search(sandbox, index);
}

/* Keeps the question, so that its answer is taken. Returns false if there is no memory. */
static __always_inline bool aw_note_question(struct bpf_sock *sk, const struct aw_work *work)
{
	struct aw_asked *asked = bpf_sk_storage_get(&aw_asked, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	struct aw_question *question;

	if (!asked)
		return false;
	bpf_spin_lock(&asked->lock);
	question = &asked->questions[asked->next++ & (AW_QUESTIONS - 1)];
	question->name = work->hash;
	question->id = work->id;
	question->type = work->type;
	bpf_spin_unlock(&asked->lock);
	return true;
}

/* Kernel types, as far as they are needed here: offsets are those of the running kernel. */
struct sk_buff___aw {
	unsigned char *head;
	__u32 end;
} __attribute__((preserve_access_index));

struct skb_shared_info___aw {
	__u8 flags;
} __attribute__((preserve_access_index));

/*
 * Flags say that pages are shared: sendfile(), splice() and MSG_ZEROCOPY lend them, and what was read
 * there can be another thing when it leaves. The context of a cgroup_skb program is the packet itself.
 */
AW_GLOBAL int aw_is_lent(struct __sk_buff *ctx)
{
	struct sk_buff___aw *skb = (void *)ctx;
	struct skb_shared_info___aw *shared = 0;
	__u8 flags;

	if (!bpf_core_field_exists(shared->flags)) /* before 5.14 */
		return true;
	shared = (void *)(BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, end));
	return bpf_core_read(&flags, sizeof(flags), &shared->flags) || flags;
}

AW_GLOBAL int aw_judge_question(struct __sk_buff *skb, __u64 sandbox_id, __u32 index, __u32 start,
				__u32 size)
{
	struct aw_sandbox *sandbox = aw_sandbox_of(sandbox_id);
	struct aw_work *work = aw_work_at(index);
	struct bpf_sock *sk = skb->sk;
	bool permitted;

	if (!sandbox || !work)
		return AW_REASON_NO_STORAGE;
	work->length = 0;
	work->hash = 0;
	if (!aw_load_message(skb, index, start, size) || aw_read_question(index))
		return AW_REASON_NOT_A_QUESTION;
	permitted = aw_may_ask(sandbox_id, index);
	if (!permitted && aw_mode_of(sandbox->mode, sandbox->until_ns) == AW_MODE_ENFORCE)
		return AW_REASON_QUESTION;
	if (!sk || !(sk = bpf_sk_fullsock(sk)) || !aw_note_question(sk, work))
		return AW_REASON_NO_STORAGE;
	return permitted ? 0 : AW_REASON_QUESTION;
}
