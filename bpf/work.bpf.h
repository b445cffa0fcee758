/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Memory for what does not fit on the stack, and look-ups of the name in it. */
#ifndef AGENTWALL_WORK_H
#define AGENTWALL_WORK_H

#include "case.bpf.h"

#define AW_WORK_TRIES 8
#define AW_NO_WORK    0xffffffffU
#define AW_MAX_LABEL  63

/* Returns the index of a struct aw_work that is ours until aw_release_work(), or AW_NO_WORK. */
static __attribute__((noinline, unused)) __u32 aw_claim_work(void)
{
	__u32 first = bpf_get_smp_processor_id() * AW_WORK_TRIES / 2;

	for (int i = 0; i < AW_WORK_TRIES; i++) {
		__u32 index = (first + i) & (AW_WORKS - 1);
		struct aw_work *work = bpf_map_lookup_elem(&aw_works, &index);
		__u32 taken;

		if (!work)
			break;
		bpf_spin_lock(&work->lock);
		taken = work->taken;
		work->taken = 1;
		bpf_spin_unlock(&work->lock);
		if (!taken)
			return index;
	}
	return AW_NO_WORK;
}

static __always_inline struct aw_work *aw_work_at(__u32 index)
{
	return bpf_map_lookup_elem(&aw_works, &index);
}

static __always_inline void aw_release_work(__u32 index)
{
	struct aw_work *work = aw_work_at(index);

	if (!work)
		return;
	bpf_spin_lock(&work->lock);
	work->taken = 0;
	bpf_spin_unlock(&work->lock);
}

/*
 * A text in pieces: 2 + 31 * 8 + 4 bytes. Each is an instruction that the verifier follows, so they are
 * as wide as can be; where they lie is even, and x86 and arm64 ask for no more.
 */
#define AW_TEXT_WORDS	      31
#define AW_TEXT_HEAD(text)    (*(__u16 *)(text))
#define AW_TEXT_WORD(text, i) (((__u64 *)((text) + 2))[i])
#define AW_TEXT_TAIL(text)    (*(__u32 *)((text) + 2 + 8 * AW_TEXT_WORDS))
_Static_assert(2 + 8 * AW_TEXT_WORDS + 4 == AW_NAME_LEN, "the pieces make a text");

static __always_inline void aw_copy_text(__u8 *to, const __u8 *from)
{
	AW_TEXT_HEAD(to) = AW_TEXT_HEAD(from);
#pragma clang loop unroll(full)
	for (int i = 0; i < AW_TEXT_WORDS; i++)
		AW_TEXT_WORD(to, i) = AW_TEXT_WORD(from, i);
	AW_TEXT_TAIL(to) = AW_TEXT_TAIL(from);
}

static __always_inline bool aw_is_same_text(const __u8 *a, const __u8 *b)
{
	__u64 differ = AW_TEXT_HEAD(a) ^ AW_TEXT_HEAD(b);

	/* Unrolled, clang would load all of it first, and keep it on the stack. */
#pragma clang loop unroll(disable)
	for (int i = 0; i < AW_TEXT_WORDS; i++)
		differ |= AW_TEXT_WORD(a, i) ^ AW_TEXT_WORD(b, i);
	return !(differ | (AW_TEXT_TAIL(a) ^ AW_TEXT_TAIL(b)));
}

/* Says how far below an entry of *length* bytes the name in *text*, of *whole* bytes, lies. */
static __always_inline int aw_depth_of(const __u8 *text, __u32 whole, __u32 length)
{
	if (length >= whole)
		return AW_NAME_EXACT;
	for (__u32 i = 0; i <= AW_MAX_LABEL; i++) {
		__u32 at = length + i;

		/* Else clang adds the two to the pointer one by one, past what was checked. */
		asm volatile("" : "+r"(at));
		if (at >= AW_NAME_LEN)
			break;
		if (text[at] == '.')
			return at + 1 == whole ? AW_NAME_LABEL : AW_NAME_BELOW;
	}
	return AW_NAME_BELOW;
}

#endif /* AGENTWALL_WORK_H */
