// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Host names as TLS and HTTP write them; see hello.bpf.h. agentwall/detect/said.py reads the same. */
#include "hello.bpf.h"
#include "message.bpf.h"

/* enum of aw_hello.mode */
#define AW_PART_NAME	  0
#define AW_PART_HOST	  1 /* of an authority */
#define AW_PART_BRACKET	  2 /* an IPv6 address */
#define AW_PART_BRACKETED 3 /* just behind it */
#define AW_PART_PORT	  4

/* enum of aw_hello.signs */
#define AW_SIGN_COLON	0x01
#define AW_SIGN_NOT_HEX 0x02
#define AW_SIGN_LETTER	0x04 /* the label is not all digits */
#define AW_SIGN_PORT	0x08 /* a digit of the port was seen */

static __always_inline bool aw_is_digit(__u32 octet)
{
	return octet - '0' < 10;
}

static __always_inline bool aw_is_hex(__u32 octet)
{
	return aw_is_digit(octet) || (octet | 0x20) - 'a' < 6;
}

/* The octet at *at* as part of a name. */
static __always_inline int aw_read_name_octet(struct aw_hello *hello, __u32 at)
{
	__u32 octet = hello->text[at & 255];

	if (octet == '.') {
		if (!hello->label)
			return AW_SAID_BROKEN;
		hello->label = 0;
		return 0;
	}
	if (!hello->label)
		hello->signs &= ~AW_SIGN_LETTER;
	if (++hello->label > AW_MAX_LABEL)
		return AW_SAID_BROKEN;
	if (octet == ':') {
		hello->signs |= AW_SIGN_COLON | AW_SIGN_LETTER;
		return 0;
	}
	if (aw_is_digit(octet))
		return 0;
	if (octet - 'A' < 26)
		octet |= 0x20;
	if (octet - 'a' >= 26 && octet != '-' && octet != '_')
		return AW_SAID_BROKEN;
	hello->text[at & 255] = octet;
	hello->signs |= AW_SIGN_LETTER;
	if (!aw_is_hex(octet))
		hello->signs |= AW_SIGN_NOT_HEX;
	return 0;
}

/* The octet at *at* as part of an authority: a host, and a port or none. */
AW_GLOBAL int aw_read_host_octet(__u32 index, __u32 at)
{
	struct aw_work *work = aw_work_at(index);
	struct aw_hello *hello;
	__u32 octet;

	if (!work)
		return AW_SAID_BROKEN;
	hello = &work->hello;
	octet = hello->text[at & 255];
	switch (hello->mode) {
	case AW_PART_PORT:
		hello->text[at & 255] = 0;
		if (!aw_is_digit(octet))
			return AW_SAID_BROKEN;
		hello->signs |= AW_SIGN_PORT;
		hello->value = hello->value * 10 + octet - '0';
		return hello->value > 65535 ? AW_SAID_BROKEN : 0;
	case AW_PART_BRACKET:
		if (octet == ']' && hello->label) {
			hello->mode = AW_PART_BRACKETED;
			return 0;
		}
		hello->label = 1;
		return aw_is_hex(octet) || octet == ':' || octet == '.' ? 0 : AW_SAID_BROKEN;
	case AW_PART_BRACKETED:
		hello->mode = AW_PART_PORT;
		return octet == ':' ? 0 : AW_SAID_BROKEN;
	case AW_PART_HOST:
		if (octet == '[' && !at) {
			hello->mode = AW_PART_BRACKET;
			hello->signs |= AW_SIGN_COLON;
			return 0;
		}
		if (octet == ':') {
			if (!at)
				return AW_SAID_BROKEN;
			hello->mode = AW_PART_PORT;
			hello->length = at;
			hello->text[at & 255] = 0;
			return 0;
		}
	}
	return aw_read_name_octet(hello, at);
}

static __always_inline int aw_finish_host(struct aw_hello *hello)
{
	if (hello->mode == AW_PART_BRACKET)
		return AW_SAID_BROKEN;
	if (hello->mode == AW_PART_PORT && (!(hello->signs & AW_SIGN_PORT) || !hello->value))
		return AW_SAID_BROKEN;
	if (hello->signs & AW_SIGN_COLON)
		return hello->signs & AW_SIGN_NOT_HEX ? AW_SAID_BROKEN : AW_SAID_NO_NAME;
	if (!hello->label) {
		/* The dot that ends a full name. */
		hello->length--;
		hello->text[hello->length & 255] = 0;
	}
	if (hello->length >= AW_NAME_LEN)
		return AW_SAID_BROKEN;
	return hello->signs & AW_SIGN_LETTER ? AW_SAID_NAME : AW_SAID_NO_NAME;
}

AW_GLOBAL int aw_read_host(__u32 index, __u32 is_authority)
{
	struct aw_work *work = aw_work_at(index);
	struct aw_hello *hello;
	__u32 length;

	if (!work)
		return AW_SAID_BROKEN;
	hello = &work->hello;
	hello->mode = is_authority ? AW_PART_HOST : AW_PART_NAME;
	hello->value = hello->signs = hello->label = 0;
	length = hello->length;
	if (!length)
		return AW_SAID_NO_NAME;
	for (__u32 i = 0; i < 256; i++) {
		if (i >= length)
			break;
		if (aw_read_host_octet(index, i))
			return AW_SAID_BROKEN;
	}
	return aw_finish_host(hello);
}

/* The hash is that of message.bpf.h: over the name as it is read, with its last dot. */
AW_GLOBAL int aw_make_key(__u32 index)
{
	struct aw_work *work = aw_work_at(index);
	__u64 hash = aw_hash_start();
	__u32 length;

	if (!work)
		return 0;
	length = work->hello.length;
	__builtin_memset(work->key.text, 0, AW_NAME_LEN);
	work->length = 0;
	if (!length || length >= AW_NAME_LEN)
		return 0;
	for (__u32 i = 0; i < AW_NAME_LEN; i++) {
		__u32 octet, place = length - 1 - i;

		if (i >= length)
			break;
		octet = work->hello.text[i];
		hash = aw_hash_octet(hash, octet);
		asm volatile("" : "+r"(place));
		work->key.text[place & 255] = octet; /* below length, whatever the verifier knows */
	}
	hash = aw_hash_octet(hash, '.');
	work->hash = aw_hash_end(hash);
	work->key.text[length & 255] = '.';
	work->length = length + 1;
	work->key.prefixlen = 16 + 8 * (length + 1);
	return 0;
}
