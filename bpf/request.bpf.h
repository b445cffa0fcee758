/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The request line of HTTP/1 (RFC 9112 section 3); see hello.bpf.h. Included by http.bpf.c alone. */
#ifndef AGENTWALL_REQUEST_H
#define AGENTWALL_REQUEST_H

#include "hello.bpf.h"

/* enum of aw_hello.form */
#define AW_FORM_NONE	  0
#define AW_FORM_ORIGIN	  1
#define AW_FORM_STAR	  2
#define AW_FORM_SCHEME	  3
#define AW_FORM_SLASH	  4 /* the first of the two behind the scheme comes next */
#define AW_FORM_SLASHES	  5
#define AW_FORM_AUTHORITY 6
#define AW_FORM_PATH	  7 /* behind an authority */
#define AW_FORM_CONNECT	  8
#define AW_FORM_BAD	  9

/* Eight characters as aw_hello.words holds them. */
#define AW_WORD(a, b, c, d, e, f, g, h)                                              \
	((__u64)(a) << 56 | (__u64)(b) << 48 | (__u64)(c) << 40 | (__u64)(d) << 32 | \
	 (__u64)(e) << 24 | (__u64)(f) << 16 | (__u64)(g) << 8 | (__u64)(h))

#define AW_WORD_GET	AW_WORD(0, 0, 0, 0, 0, 'G', 'E', 'T')
#define AW_WORD_PRI	AW_WORD(0, 0, 0, 0, 0, 'P', 'R', 'I')
#define AW_WORD_PUT	AW_WORD(0, 0, 0, 0, 0, 'P', 'U', 'T')
#define AW_WORD_HEAD	AW_WORD(0, 0, 0, 0, 'H', 'E', 'A', 'D')
#define AW_WORD_POST	AW_WORD(0, 0, 0, 0, 'P', 'O', 'S', 'T')
#define AW_WORD_PATCH	AW_WORD(0, 0, 0, 'P', 'A', 'T', 'C', 'H')
#define AW_WORD_TRACE	AW_WORD(0, 0, 0, 'T', 'R', 'A', 'C', 'E')
#define AW_WORD_DELETE	AW_WORD(0, 0, 'D', 'E', 'L', 'E', 'T', 'E')
#define AW_WORD_OPTIONS AW_WORD(0, 'O', 'P', 'T', 'I', 'O', 'N', 'S')
#define AW_WORD_CONNECT AW_WORD(0, 'C', 'O', 'N', 'N', 'E', 'C', 'T')
#define AW_WORD_HTTP	AW_WORD(0, 0, 0, 0, 'h', 't', 't', 'p')
#define AW_WORD_HTTPS	AW_WORD(0, 0, 0, 'h', 't', 't', 'p', 's')

static __always_inline __u32 aw_lower_octet(__u32 octet)
{
	return octet - 'A' < 26 ? octet | 0x20 : octet;
}

static __always_inline bool aw_is_alphanumeric(__u32 octet)
{
	return octet - '0' < 10 || (octet | 0x20) - 'a' < 26;
}

/* RFC 9110 section 5.6.2, as one bit each of 32 characters. */
static __always_inline bool aw_is_token(__u32 octet)
{
	__u32 bits = octet < 0x40 ? 0x03ff6cfa : octet < 0x60 ? 0xc7fffffe : 0x57ffffff;

	return octet > 0x20 && octet < 0x7f && bits >> (octet & 31) & 1;
}

static __always_inline bool aw_is_control(__u32 octet)
{
	return octet < 0x20 || octet == 0x7f;
}

static __always_inline void aw_clear_words(struct aw_hello *hello)
{
	hello->words[0] = hello->words[1] = hello->words[2] = 0;
	hello->at = 0;
}

static __always_inline void aw_push(struct aw_hello *hello, __u32 octet)
{
	__u32 word = hello->at >> 3;

	if (word == 0)
		hello->words[0] = hello->words[0] << 8 | octet;
	else if (word == 1)
		hello->words[1] = hello->words[1] << 8 | octet;
	else if (word == 2)
		hello->words[2] = hello->words[2] << 8 | octet;
	hello->at++;
}

/* What a line that is no request line makes of the flow. */
static __always_inline int aw_no_request(struct aw_hello *hello)
{
	hello->kind = AW_KIND_OTHER;
	return hello->marks & AW_MARK_KNOWN ? AW_SAID_BROKEN : AW_SAID_OTHER;
}

/* Behind a method that no server need know; " HTTP/" tells that it is a request all the same. */
static __always_inline int aw_read_junk(struct aw_hello *hello, __u32 octet)
{
	__u32 next;

	hello->phase = AW_PHASE_JUNK;
	if (hello->marks & AW_MARK_KNOWN)
		return AW_SAID_BROKEN;
	if (octet == ' ' || octet == '\t') {
		hello->at = 1;
		return 0;
	}
	if (aw_is_control(octet))
		return aw_no_request(hello);
	next = hello->at == 1			? 'H' :
	       hello->at == 2 || hello->at == 3 ? 'T' :
	       hello->at == 4			? 'P' :
	       hello->at == 5			? '/' :
						  0;
	if (!next || octet != next) {
		hello->at = 0;
		return 0;
	}
	return ++hello->at == 6 ? AW_SAID_BROKEN : 0;
}

static __always_inline int aw_read_method(struct aw_hello *hello, __u32 octet)
{
	__u64 word;

	if (aw_is_token(octet)) {
		hello->phase = AW_PHASE_METHOD;
		aw_push(hello, octet);
		return 0;
	}
	if (hello->phase == AW_PHASE_START) {
		if (octet == '\r' || octet == '\n')
			return 0;
		return aw_no_request(hello);
	}
	word = hello->at < 8 ? hello->words[0] : 0;
	if (word == AW_WORD_CONNECT)
		hello->marks |= AW_MARK_CONNECT;
	if (word == AW_WORD_GET || word == AW_WORD_POST || word == AW_WORD_HEAD ||
	    word == AW_WORD_PUT || word == AW_WORD_PATCH || word == AW_WORD_DELETE ||
	    word == AW_WORD_OPTIONS || word == AW_WORD_TRACE || word == AW_WORD_PRI ||
	    word == AW_WORD_CONNECT)
		hello->marks |= AW_MARK_KNOWN;
	aw_clear_words(hello);
	hello->form = word == AW_WORD_CONNECT ? AW_FORM_CONNECT : AW_FORM_NONE;
	if (octet == ' ') {
		hello->phase = AW_PHASE_TARGET;
		return 0;
	}
	if (octet == '\t')
		return aw_read_junk(hello, octet);
	return aw_no_request(hello);
}

/* An octet of the target; in a target of one form another is not looked for. */
static __always_inline int aw_read_form(struct aw_hello *hello, __u32 octet)
{
	switch (hello->form) {
	case AW_FORM_NONE:
		hello->form = octet == '/'		? AW_FORM_ORIGIN :
			      octet == '*'		? AW_FORM_STAR :
			      aw_is_alphanumeric(octet) ? AW_FORM_SCHEME :
							  AW_FORM_BAD;
		if (hello->form == AW_FORM_SCHEME)
			aw_push(hello, aw_lower_octet(octet));
		return 0;
	case AW_FORM_STAR:
		hello->form = AW_FORM_BAD;
		return 0;
	case AW_FORM_SCHEME:
		if (octet != ':') {
			aw_push(hello, aw_lower_octet(octet));
			return 0;
		}
		hello->form = AW_FORM_SLASH;
		hello->port = hello->at > 8		       ? 0 :
			      hello->words[0] == AW_WORD_HTTP  ? 80 :
			      hello->words[0] == AW_WORD_HTTPS ? 443 :
								 0;
		if (!hello->port)
			hello->form = AW_FORM_BAD;
		return 0;
	case AW_FORM_SLASH:
	case AW_FORM_SLASHES:
		hello->form = octet == '/' ? hello->form + 1 : AW_FORM_BAD;
		return 0;
	case AW_FORM_AUTHORITY:
		if (octet == '/' || octet == '?' || octet == '#') {
			hello->form = AW_FORM_PATH;
			return 0;
		}
		/* fall through */
	case AW_FORM_CONNECT:
		if (hello->length >= 255)
			hello->form = AW_FORM_BAD;
		else
			hello->text[hello->length++ & 255] = octet;
	}
	return 0;
}

static __always_inline int aw_read_target(struct aw_hello *hello, __u32 octet)
{
	if (octet == ' ') {
		hello->at = 0;
		if (hello->form == AW_FORM_NONE ||
		    (hello->form == AW_FORM_CONNECT && !hello->length))
			return aw_read_junk(hello, octet);
		hello->phase = AW_PHASE_VERSION;
		return 0;
	}
	if (octet == '\t')
		return aw_read_junk(hello, octet);
	if (aw_is_control(octet))
		return aw_no_request(hello);
	return aw_read_form(hello, octet);
}

/* "HTTP/1.0" or "HTTP/1.1" and the end of the line. */
static __always_inline int aw_read_version(struct aw_hello *hello, __u32 octet)
{
	__u64 expected = AW_WORD('H', 'T', 'T', 'P', '/', '1', '.', 0);
	__u32 at;

	at = hello->at;
	if (at < 7 && octet == (expected >> (56 - 8 * (at & 7)) & 0xff)) {
		hello->at = at + 1;
		return 0;
	}
	if (at == 7 && (octet == '0' || octet == '1')) {
		if (octet == '1')
			hello->marks |= AW_MARK_HTTP11;
		hello->at = at + 1;
		return 0;
	}
	if (at == 8 && octet == '\r') {
		hello->phase = AW_PHASE_LINE_END;
		return 0;
	}
	if (at >= 5)
		return AW_SAID_BROKEN;
	hello->at = 0;
	return aw_read_junk(hello, octet);
}

/* The request line is whole: whom does its target name? */
static __always_inline int aw_end_line(struct aw_hello *hello, __u32 octet)
{
	if (octet != '\n')
		return AW_SAID_BROKEN;
	hello->phase = AW_PHASE_FIELD;
	aw_clear_words(hello);
	if (hello->form == AW_FORM_ORIGIN || hello->form == AW_FORM_STAR) {
		hello->kind = AW_KIND_ORIGIN;
		return 0;
	}
	if (hello->form < AW_FORM_AUTHORITY || hello->form == AW_FORM_BAD || !hello->length)
		return AW_SAID_BROKEN;
	return AW_TASK_TARGET;
}

#endif /* AGENTWALL_REQUEST_H */
