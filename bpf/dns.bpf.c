// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* DNS questions; see dns.bpf.h and message.bpf.h. */
#include "message.bpf.h"

#define AW_DNS_OPT	41
#define AW_DNS_OPT_SIZE 11 /* without options */

/* Returns an octet of a question's name in lower case; 0 for what is no letter, digit, '-' or '_'. */
AW_GLOBAL int aw_name_octet(__u32 octet)
{
	__u32 lower = aw_lower(octet);

	if (lower - 'a' < 26 || lower - '0' < 10 || lower == '-' || lower == '_')
		return lower;
	return 0;
}

/*
 * Puts octet *i* of the name of the question into key.text. They are those of the message from the
 * first label on, but for the lengths, which become dots.
 */
AW_GLOBAL int aw_step_in_question(__u32 index, __u32 i)
{
	struct aw_work *work = aw_work_of(index);
	__u32 octet, shown = '.';

	if (!work || i >= AW_NAME_LEN)
		return AW_MALFORMED;
	octet = aw_octet(work, AW_DNS_HEADER + 1 + i);
	if (work->left) {
		work->left--;
		shown = aw_name_octet(octet);
		if (!shown)
			return AW_MALFORMED;
	} else {
		if (octet > AW_DNS_LABEL)
			return AW_MALFORMED;
		work->left = octet;
	}
	work->key.text[i] = shown;
	work->hash = aw_hash_octet(work->hash, shown);
	if (shown != '.' || octet)
		return AW_MORE;
	work->length = i + 1;
	work->hash = aw_hash_end(work->hash);
	work->at = AW_DNS_HEADER + 1 + i + 1;
	return AW_READ;
}

/* Reads the name of the question, forwards, into key.text: "hub.example.com.". */
AW_GLOBAL int aw_read_question_name(__u32 index)
{
	struct aw_work *work = aw_work_of(index);

	if (!work)
		return AW_MALFORMED;
	__builtin_memset(work->key.text, 0, AW_NAME_LEN);
	work->hash = aw_hash_start();
	work->left = work->message[AW_DNS_HEADER];
	if (!work->left || work->left > AW_DNS_LABEL)
		return AW_MALFORMED;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < AW_NAME_LEN; i++) {
		int step = aw_step_in_question(index, i);

		if (step != AW_MORE)
			return step;
	}
	return AW_MALFORMED;
}

/* Turns key.text round, all but the last dot. */
AW_GLOBAL int aw_reverse_name(__u32 index)
{
	struct aw_work *work = aw_work_of(index);

	if (!work)
		return AW_MALFORMED;
	work->key.prefixlen = 16 + 8 * work->length;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < AW_NAME_LEN / 2; i++) {
		__u64 other = *(volatile __u16 *)&work->length - 2 - i;
		__u8 octet = work->key.text[i];

		if (i >= (__u32)other)
			return AW_READ;
		asm volatile("" : "+r"(other));
		other &= 0xff;
		work->key.text[i] = work->key.text[other];
		work->key.text[other] = octet;
	}
	return AW_READ;
}

/* Types that ask for more than the data of one name, or are no type of data (RFC 6895 section 3.1). */
static __always_inline bool aw_is_asked(__u32 type)
{
	return type && type != AW_DNS_OPT && (type < 249 || type > 255);
}

AW_GLOBAL int aw_read_asked(__u32 index)
{
	struct aw_work *work = aw_work_of(index);

	if (!work)
		return AW_MALFORMED;
	work->id = 0;
	work->type = 0;
	work->length = 0;
	work->hash = 0;
	work->answers = 0;
	if (work->size < AW_DNS_HEADER || work->size > AW_MESSAGE_LEN)
		return AW_MALFORMED;
	work->id = aw_short(work, 0);
	if (aw_short(work, 4) != 1 || aw_read_question_name(index))
		return AW_MALFORMED;
	if (work->at + 4 > work->size || aw_short(work, work->at + 2) != AW_DNS_IN)
		return AW_MALFORMED;
	work->type = aw_short(work, work->at);
	if (!aw_is_asked(work->type))
		return AW_MALFORMED;
	work->at += 4;
	return aw_reverse_name(index);
}

/* Whether the rest is one OPT record of EDNS version 0 (RFC 6891 section 6.1.2). */
static __always_inline bool aw_is_edns(const struct aw_work *work, __u32 at)
{
	return at + AW_DNS_OPT_SIZE <= work->size && !aw_octet(work, at) &&
	       aw_short(work, at + 1) == AW_DNS_OPT && !aw_octet(work, at + 6) &&
	       at + AW_DNS_OPT_SIZE + aw_short(work, at + 9) == work->size;
}

AW_GLOBAL int aw_read_question(__u32 index)
{
	struct aw_work *work = aw_work_of(index);
	__u32 additional;

	if (!work || aw_read_asked(index))
		return 1;
	/* Flags RD, AD and CD may be set, nothing else. */
	if (aw_octet(work, 2) & 0xfe || aw_octet(work, 3) & 0xcf)
		return 1;
	additional = aw_short(work, 10);
	if (aw_short(work, 6) || aw_short(work, 8) || additional > 1)
		return 1;
	if (additional)
		return !aw_is_edns(work, work->at);
	return work->at != work->size;
}
