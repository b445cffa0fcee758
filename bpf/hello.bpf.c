// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Listens to a TCP flow, and reads TLS; see hello.bpf.h. agentwall/detect/tls.py says the same in
 * Python, and is the place to read the rules.
 *
 * All state lies in struct aw_work, where the verifier does not follow it, so one turn of a loop looks
 * to it like any other.
 */
#include "hello.bpf.h"

#define AW_TLS_HANDSHAKE    22
#define AW_TLS_MAJOR	    3
#define AW_TLS_RECORD	    16384
#define AW_TLS_RECORDS	    16 /* that one ClientHello may be split over */
#define AW_TLS_CLIENT_HELLO 1
#define AW_TLS_SERVER_NAME  0
#define AW_TLS_ECH	    0xfe0d /* RFC 9849 */
#define AW_TLS_ESNI	    0xffce /* its drafts of 2018 to 2020 */
#define AW_TLS_LEAST_SNI    6 /* lengths and type, and one octet of a name */

/* What comes next: a number of *need* octets, or what ends the hello. */
static __always_inline void aw_want(struct aw_hello *hello, __u8 phase, __u8 need)
{
	hello->phase = phase;
	hello->need = need;
	hello->value = 0;
}

/* Between two fields. */
static __always_inline int aw_next_tls(struct aw_hello *hello)
{
	if (hello->skip)
		return hello->skip > hello->message ? AW_SAID_BROKEN : 0;
	if (!hello->message &&
	    (hello->phase == AW_PHASE_EXTENSIONS || hello->phase == AW_PHASE_EXTENSION))
		return AW_TASK_TLS_END;
	return hello->need > hello->message ? AW_SAID_BROKEN : 0;
}

/* A whole extension header was read. */
static __always_inline int aw_read_extension(struct aw_hello *hello)
{
	__u32 type, length;

	type = hello->value >> 16;
	length = hello->value & 0xffff;
	if (length > hello->message)
		return AW_SAID_BROKEN;
	if (type == AW_TLS_SERVER_NAME) {
		if (hello->marks & AW_MARK_SNI || length < AW_TLS_LEAST_SNI)
			return AW_SAID_BROKEN;
		hello->marks |= AW_MARK_SNI;
		hello->words[0] = length;
		aw_want(hello, AW_PHASE_LIST, 2);
		return 0;
	}
	if (type == AW_TLS_ECH || type == AW_TLS_ESNI)
		hello->marks |= AW_MARK_ECH;
	hello->skip = length;
	aw_want(hello, AW_PHASE_EXTENSION, 4);
	return aw_next_tls(hello);
}

/* The fields of the server name extension: one name, which fills it. */
static __always_inline int aw_read_sni_field(struct aw_hello *hello)
{
	__u32 length;

	length = hello->words[0];
	if (hello->phase == AW_PHASE_LIST) {
		if (hello->value != length - 2)
			return AW_SAID_BROKEN;
		aw_want(hello, AW_PHASE_NAME_TYPE, 1);
		return 0;
	}
	if (hello->phase == AW_PHASE_NAME_TYPE) {
		if (hello->value)
			return AW_SAID_BROKEN;
		aw_want(hello, AW_PHASE_NAME_LENGTH, 2);
		return 0;
	}
	if (hello->value != length - 5 || hello->value > AW_NAME_LEN)
		return AW_SAID_BROKEN;
	aw_want(hello, AW_PHASE_NAME, length - 5);
	hello->length = 0;
	__builtin_memset(hello->text, 0, sizeof(hello->text));
	return 0;
}

/* A whole number was read. */
static __always_inline int aw_read_field(struct aw_hello *hello)
{
	__u32 value;

	value = hello->value;
	switch (hello->phase) {
	case AW_PHASE_TYPE:
		aw_want(hello, AW_PHASE_LENGTH, 3);
		return value == AW_TLS_CLIENT_HELLO ? 0 : AW_SAID_BROKEN;
	case AW_PHASE_LENGTH:
		if (hello->taken + value > AW_HELLO_LEN)
			return AW_SAID_BROKEN;
		hello->message = value;
		aw_want(hello, AW_PHASE_HELLO_VERSION, 2);
		break;
	case AW_PHASE_HELLO_VERSION:
		if (value >> 8 != AW_TLS_MAJOR)
			return AW_SAID_BROKEN;
		hello->skip = 32; /* random */
		aw_want(hello, AW_PHASE_SESSION, 1);
		break;
	case AW_PHASE_SESSION:
		if (value > 32)
			return AW_SAID_BROKEN;
		hello->skip = value;
		aw_want(hello, AW_PHASE_SUITES, 2);
		break;
	case AW_PHASE_SUITES:
		if (!value || value & 1)
			return AW_SAID_BROKEN;
		hello->skip = value;
		aw_want(hello, AW_PHASE_COMPRESSION, 1);
		break;
	case AW_PHASE_COMPRESSION:
		if (!value)
			return AW_SAID_BROKEN;
		hello->skip = value;
		aw_want(hello, AW_PHASE_EXTENSIONS, 2);
		break;
	case AW_PHASE_EXTENSIONS:
		if (value != hello->message)
			return AW_SAID_BROKEN;
		aw_want(hello, AW_PHASE_EXTENSION, 4);
		break;
	case AW_PHASE_EXTENSION:
		return aw_read_extension(hello);
	default:
		return aw_read_sni_field(hello);
	}
	return aw_next_tls(hello);
}

/* An octet of a record's header; hello->at counts them. */
static __always_inline int aw_read_record(struct aw_hello *hello, __u32 octet)
{
	switch (hello->at++) {
	case 0:
		hello->body = 0;
		if (octet != AW_TLS_HANDSHAKE || ++hello->records > AW_TLS_RECORDS)
			return AW_SAID_BROKEN;
		return 0;
	case 1:
		if (octet == AW_TLS_MAJOR)
			return 0;
		hello->kind = AW_KIND_OTHER;
		return hello->records == 1 ? AW_SAID_OTHER : AW_SAID_BROKEN;
	case 2:
		return 0;
	case 3:
		hello->body = octet << 8;
		return 0;
	}
	hello->at = 0;
	hello->record = hello->body | octet;
	return hello->record && hello->record <= AW_TLS_RECORD ? 0 : AW_SAID_BROKEN;
}

static __always_inline int aw_skip_tls(struct aw_work *work, struct aw_hello *hello)
{
	__u32 count = work->size - work->at;

	if (count > hello->skip)
		count = hello->skip;
	if (count > hello->record)
		count = hello->record;
	if (count > AW_HELLO_LEN - hello->taken)
		count = AW_HELLO_LEN - hello->taken;
	work->at += count;
	hello->taken += count;
	hello->record -= count;
	hello->message -= count;
	hello->skip -= count;
	return hello->skip ? 0 : aw_next_tls(hello);
}

AW_GLOBAL int aw_do_tls_task(__u32 index, __u32 task)
{
	struct aw_work *work = aw_work_at(index);
	struct aw_hello *hello;

	if (!work)
		return AW_SAID_BROKEN;
	hello = &work->hello;
	if (task == AW_TASK_SERVER_NAME) {
		hello->host = aw_read_host(index, 0);
		if (hello->host == AW_SAID_BROKEN)
			return AW_SAID_BROKEN;
		aw_want(hello, AW_PHASE_EXTENSION, 4);
		if (aw_next_tls(hello) != AW_TASK_TLS_END)
			return aw_next_tls(hello);
	}
	hello->kind = AW_KIND_TLS;
	if (hello->host != AW_SAID_NAME)
		hello->length = 0;
	else if (hello->tunnel && !aw_is_same_name(hello))
		return AW_SAID_BROKEN;
	aw_make_key(index);
	if (hello->marks & AW_MARK_ECH)
		return AW_SAID_ECH;
	return hello->length ? AW_SAID_NAME : AW_SAID_NO_NAME;
}

/* Reads at least one octet of a ClientHello. */
static __always_inline int aw_read_tls(struct aw_work *work, struct aw_hello *hello)
{
	__u32 octet;

	if (hello->taken >= AW_HELLO_LEN)
		return AW_SAID_BROKEN;
	if (hello->record && hello->skip)
		return aw_skip_tls(work, hello);
	octet = work->message[work->at++ & (AW_MESSAGE_LEN - 1)];
	hello->taken++;
	if (!hello->record)
		return aw_read_record(hello, octet);
	hello->record--;
	if (hello->phase > AW_PHASE_LENGTH)
		hello->message--;
	hello->need--;
	if (hello->phase == AW_PHASE_NAME) {
		hello->text[hello->length++ & 255] = octet;
		return hello->need ? 0 : AW_TASK_SERVER_NAME;
	}
	hello->value = hello->value << 8 | octet;
	return hello->need ? 0 : aw_read_field(hello);
}

/* The very first octet tells TLS from HTTP; an SSL 2 hello, which has no extensions, takes three. */
static __always_inline int aw_read_first(struct aw_hello *hello, __u32 octet)
{
	if (hello->phase == AW_PHASE_SSL2) {
		if (hello->taken < 3)
			return 0;
		hello->kind = AW_KIND_OTHER;
		return octet == AW_TLS_CLIENT_HELLO ? AW_TASK_TLS_END : AW_SAID_OTHER;
	}
	hello->marks = hello->host = hello->target = hello->form = 0;
	hello->length = hello->port = hello->at = hello->record = hello->records = 0;
	hello->words[0] = hello->words[1] = hello->words[2] = 0;
	hello->body = 0;
	__builtin_memset(hello->text, 0, sizeof(hello->text));
	if (octet == AW_TLS_HANDSHAKE) {
		aw_want(hello, AW_PHASE_TYPE, 1);
		return aw_read_record(hello, octet);
	}
	if (octet & 0x80) {
		hello->phase = AW_PHASE_SSL2;
		return 0;
	}
	return AW_SAID_ALL_READ; /* HTTP may tell */
}

/* Reads at least one octet of the block. */
static __always_inline int aw_read_some(struct aw_work *work, __u32 index)
{
	struct aw_hello *hello = &work->hello;
	__u32 octet, left;
	int said;

	if (hello->phase >= AW_PHASE_TYPE)
		return aw_read_tls(work, hello);
	left = work->size - work->at;
	if (hello->skip) {
		if (left > hello->skip)
			left = hello->skip;
		work->at += left;
		hello->skip -= left;
		return 0;
	}
	octet = work->message[work->at++ & (AW_MESSAGE_LEN - 1)];
	if (hello->phase < AW_PHASE_CHUNK_SIZE || hello->phase == AW_PHASE_SSL2) {
		if (hello->taken >= AW_HEAD_LEN)
			return AW_SAID_BROKEN;
		if (!hello->taken++ || hello->phase == AW_PHASE_SSL2) {
			said = aw_read_first(hello, octet);
			if (said != AW_SAID_ALL_READ)
				return said;
		}
	}
	return aw_read_http_octet(index, octet);
}

/* Reads on, and does what is due then. One call, so that the loop around it has one way out. */
AW_GLOBAL int aw_read_on(__u32 index)
{
	struct aw_work *work = aw_work_at(index);
	int said;

	if (!work)
		return AW_SAID_BROKEN;
	if (work->at >= work->size)
		return AW_SAID_ALL_READ;
	said = aw_read_some(work, index);
	if (said > AW_TASK_TLS_END)
		return aw_do_http_task(index, said);
	if (said > AW_SAID_ALL_READ)
		return aw_do_tls_task(index, said);
	return said;
}

/* Reads aw_works[index].message to its end, or until something is said. */
AW_GLOBAL int aw_read_block(__u32 index)
{
	for (int i = 0; i <= AW_MESSAGE_LEN; i++) {
		int said = aw_read_on(index);

		if (said)
			return said;
	}
	return AW_SAID_BROKEN;
}

/* Reads the payload at *offset*, of *length* bytes, on from aw_works[index].hello. */
AW_GLOBAL int aw_listen(struct __sk_buff *skb, __u32 index, __u32 offset, __u32 length)
{
	for (int i = 0; i < AW_LISTEN_PIECES; i++) {
		struct aw_work *work = aw_work_at(index);
		__u32 count = length;
		int said = 0;

		if (!length)
			return AW_SAID_NOTHING_YET;
		if (!work)
			return AW_SAID_BROKEN;
		if (work->hello.phase < AW_PHASE_TYPE && work->hello.skip) {
			if (count > work->hello.skip)
				count = work->hello.skip;
			work->hello.skip -= count;
		} else {
			if (count > AW_MESSAGE_LEN)
				count = AW_MESSAGE_LEN;
			asm volatile("" : "+r"(count));
			count = ((count - 1) & (AW_MESSAGE_LEN - 1)) + 1;
			if (bpf_skb_load_bytes(skb, offset, work->message, count))
				return AW_SAID_BROKEN;
			work->at = 0;
			work->size = count;
			said = aw_read_block(index);
			if (said == AW_SAID_ALL_READ)
				said = AW_SAID_NOTHING_YET;
			count = work->at;
		}
		work->hello.expected += count;
		offset += count;
		length = length > count ? length - count : 0;
		if (said)
			return said;
	}
	return AW_SAID_BROKEN;
}
