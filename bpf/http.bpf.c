// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Reads HTTP/1 requests, one octet after the other; see hello.bpf.h. agentwall/detect/http.py says the
 * same in Python, and is the place to read the rules.
 */
#include "request.bpf.h"

/* enum of aw_hello.header */
#define AW_HEADER_ANY	   0
#define AW_HEADER_HOST	   1
#define AW_HEADER_LENGTH   2
#define AW_HEADER_TRANSFER 3

#define AW_LENGTH_DIGITS   15
#define AW_CHUNK_DIGITS	   7

#define AW_WORD_HOST	   AW_WORD(0, 0, 0, 0, 'h', 'o', 's', 't')
#define AW_WORD_CHUNKED	   AW_WORD(0, 'c', 'h', 'u', 'n', 'k', 'e', 'd')

/* An octet of a header's name, or of the empty line. */
static __always_inline int aw_read_header(struct aw_hello *hello, __u32 octet)
{
	__u8 marks;

	marks = hello->marks;
	if (aw_is_token(octet)) {
		aw_push(hello, aw_lower_octet(octet));
		return 0;
	}
	if (octet == '\r' && !hello->at) {
		hello->phase = AW_PHASE_HEAD_END;
		return 0;
	}
	if (octet != ':' || !hello->at)
		return AW_SAID_BROKEN;
	hello->header = AW_HEADER_ANY;
	if (hello->at == 4 && hello->words[0] == AW_WORD_HOST) {
		if (hello->host)
			return AW_SAID_BROKEN;
		hello->header = AW_HEADER_HOST;
		hello->length = 0;
		__builtin_memset(hello->text, 0, sizeof(hello->text));
	} else if (hello->at == 14 &&
		   hello->words[0] == AW_WORD('c', 'o', 'n', 't', 'e', 'n', 't', '-') &&
		   hello->words[1] == AW_WORD(0, 0, 'l', 'e', 'n', 'g', 't', 'h')) {
		if (marks & (AW_MARK_LENGTH | AW_MARK_CHUNKED | AW_MARK_CONNECT))
			return AW_SAID_BROKEN;
		hello->header = AW_HEADER_LENGTH;
		hello->marks |= AW_MARK_LENGTH;
		hello->body = 0;
	} else if (hello->at == 17 &&
		   hello->words[0] == AW_WORD('t', 'r', 'a', 'n', 's', 'f', 'e', 'r') &&
		   hello->words[1] == AW_WORD('-', 'e', 'n', 'c', 'o', 'd', 'i', 'n') &&
		   hello->words[2] == 'g') {
		if (marks & (AW_MARK_LENGTH | AW_MARK_CHUNKED | AW_MARK_CONNECT) ||
		    !(marks & AW_MARK_HTTP11))
			return AW_SAID_BROKEN;
		hello->header = AW_HEADER_TRANSFER;
		hello->marks |= AW_MARK_CHUNKED;
	}
	hello->phase = AW_PHASE_VALUE;
	hello->marks &= ~AW_MARK_GAP;
	aw_clear_words(hello);
	return 0;
}

/* An octet of a header's value; those of three headers matter. */
static __always_inline int aw_read_value(struct aw_hello *hello, __u32 octet)
{
	if (octet == '\r') {
		hello->phase = AW_PHASE_VALUE_END;
		return 0;
	}
	if (octet == ' ' || octet == '\t') {
		if (hello->at)
			hello->marks |= AW_MARK_GAP;
		return 0;
	}
	if (aw_is_control(octet))
		return AW_SAID_BROKEN;
	if (hello->header == AW_HEADER_ANY)
		return 0;
	if (hello->marks & AW_MARK_GAP)
		return AW_SAID_BROKEN;
	if (hello->header == AW_HEADER_HOST) {
		if (hello->length >= 255)
			return AW_SAID_BROKEN;
		hello->at = 1;
		hello->text[hello->length++ & 255] = octet;
	} else if (hello->header == AW_HEADER_LENGTH) {
		if (octet - '0' >= 10 || ++hello->at > AW_LENGTH_DIGITS)
			return AW_SAID_BROKEN;
		hello->body = hello->body * 10 + octet - '0';
	} else {
		aw_push(hello, aw_lower_octet(octet));
	}
	return 0;
}

static __always_inline int aw_end_value(struct aw_hello *hello, __u32 octet)
{
	if (octet != '\n')
		return AW_SAID_BROKEN;
	if (hello->header == AW_HEADER_LENGTH && !hello->at)
		return AW_SAID_BROKEN;
	if (hello->header == AW_HEADER_TRANSFER &&
	    (hello->at != 7 || hello->words[0] != AW_WORD_CHUNKED))
		return AW_SAID_BROKEN;
	hello->phase = AW_PHASE_FIELD;
	aw_clear_words(hello);
	return hello->header == AW_HEADER_HOST ? AW_TASK_HOST : 0;
}

/* Where the next request begins. */
static __always_inline void aw_follow_body(struct aw_hello *hello)
{
	hello->taken = 0;
	hello->skip = 0;
	hello->value = 0;
	hello->at = 0;
	hello->phase = AW_PHASE_START;
	if (hello->marks & AW_MARK_CHUNKED)
		hello->phase = AW_PHASE_CHUNK_SIZE;
	else if (hello->marks & AW_MARK_LENGTH)
		hello->skip = hello->body;
}

/* RFC 9112 section 7.1, without extensions and trailers. */
static __always_inline int aw_read_chunk(struct aw_hello *hello, __u32 octet)
{
	__u32 digit, lower = aw_lower_octet(octet);

	switch (hello->phase) {
	case AW_PHASE_CHUNK_SIZE:
		if (octet == '\r' && hello->at) {
			hello->phase = AW_PHASE_CHUNK_LF;
			return 0;
		}
		digit = lower - '0' < 10 ? lower - '0' : lower - 'a' < 6 ? lower - 'a' + 10 : 16;
		if (digit >= 16 || ++hello->at > AW_CHUNK_DIGITS)
			return AW_SAID_BROKEN;
		hello->value = hello->value << 4 | digit;
		return 0;
	case AW_PHASE_CHUNK_LF:
		hello->skip = hello->value;
		hello->phase = hello->value ? AW_PHASE_CHUNK_CR : AW_PHASE_LAST_CR;
		return octet == '\n' ? 0 : AW_SAID_BROKEN;
	case AW_PHASE_CHUNK_CR:
	case AW_PHASE_LAST_CR:
		hello->phase++;
		return octet == '\r' ? 0 : AW_SAID_BROKEN;
	case AW_PHASE_CHUNK_CRLF:
		hello->phase = AW_PHASE_CHUNK_SIZE;
		hello->value = 0;
		hello->at = 0;
		return octet == '\n' ? 0 : AW_SAID_BROKEN;
	}
	hello->phase = AW_PHASE_START;
	return octet == '\n' ? 0 : AW_SAID_BROKEN;
}

/* The request line is whole: its target names a host. */
static __always_inline int aw_take_target(struct aw_hello *hello, int said)
{
	if (hello->value)
		hello->port = hello->value;
	if (!hello->port)
		return AW_SAID_BROKEN;
	hello->kind = hello->form == AW_FORM_CONNECT ? AW_KIND_CONNECT : AW_KIND_ABSOLUTE;
	hello->target = said;
	hello->tunnel = 0;
	hello->kept = said == AW_SAID_NAME ? hello->length : 0;
	__builtin_memcpy(hello->name, hello->text, sizeof(hello->name));
	return 0;
}

/* The empty line: the request is for the target's host and for Host's, which have to be one. */
static __always_inline int aw_take_head(struct aw_hello *hello)
{
	__u8 said = hello->target ? hello->target : hello->host;
	bool same = hello->kept && aw_is_same_name(hello);

	if (!hello->host && hello->marks & AW_MARK_HTTP11)
		return AW_SAID_BROKEN;
	if (hello->target && hello->host) {
		if (hello->host != said || (said == AW_SAID_NAME && !same))
			return AW_SAID_BROKEN;
	} else if (hello->target) {
		hello->length = hello->kept;
		__builtin_memcpy(hello->text, hello->name, sizeof(hello->text));
	}
	if (said != AW_SAID_NAME) {
		hello->length = 0;
		return AW_SAID_NO_NAME;
	}
	if (hello->kind == AW_KIND_ORIGIN && hello->tunnel && !same)
		return AW_SAID_BROKEN;
	return AW_SAID_NAME;
}

AW_GLOBAL int aw_do_http_task(__u32 index, __u32 task)
{
	struct aw_work *work = aw_work_at(index);
	struct aw_hello *hello;
	int said;

	if (!work)
		return AW_SAID_BROKEN;
	hello = &work->hello;
	if (task != AW_TASK_HEAD) {
		said = aw_read_host(index, 1);
		if (said == AW_SAID_BROKEN)
			return AW_SAID_BROKEN;
		if (task == AW_TASK_TARGET)
			return aw_take_target(hello, said);
		hello->host = said;
		return 0;
	}
	said = aw_take_head(hello);
	if (said != AW_SAID_BROKEN) {
		aw_make_key(index);
		aw_follow_body(hello);
	}
	return said;
}

AW_GLOBAL int aw_read_http_octet(__u32 index, __u32 octet)
{
	struct aw_work *work = aw_work_at(index);
	struct aw_hello *hello;

	if (!work)
		return AW_SAID_BROKEN;
	hello = &work->hello;
	switch (hello->phase) {
	case AW_PHASE_START:
	case AW_PHASE_METHOD:
		return aw_read_method(hello, octet);
	case AW_PHASE_TARGET:
		return aw_read_target(hello, octet);
	case AW_PHASE_VERSION:
		return aw_read_version(hello, octet);
	case AW_PHASE_LINE_END:
		return aw_end_line(hello, octet);
	case AW_PHASE_JUNK:
		return aw_read_junk(hello, octet);
	case AW_PHASE_FIELD:
		return aw_read_header(hello, octet);
	case AW_PHASE_VALUE:
		return aw_read_value(hello, octet);
	case AW_PHASE_VALUE_END:
		return aw_end_value(hello, octet);
	case AW_PHASE_HEAD_END:
		return octet == '\n' ? AW_TASK_HEAD : AW_SAID_BROKEN;
	}
	return aw_read_chunk(hello, octet);
}
