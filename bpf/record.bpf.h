/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The header of a TLS record: RFC 8446 section 5.1. */
#ifndef AGENTWALL_RECORD_H
#define AGENTWALL_RECORD_H

#define AW_RECORD_HEADER 5 /* octets: type, version, length */
#define AW_RECORD_FIRST	 20 /* change_cipher_spec(20) to application_data(23) */
#define AW_RECORD_LAST	 23
#define AW_RECORD_HELLO	 22
#define AW_RECORD_TEXT	 23
#define AW_TLS_MAJOR	 3
#define AW_TLS_MINOR	 4

static __always_inline bool aw_is_record(const __u8 *head)
{
	return head[0] >= AW_RECORD_FIRST && head[0] <= AW_RECORD_LAST && head[1] == AW_TLS_MAJOR &&
	       head[2] <= AW_TLS_MINOR;
}

#endif /* AGENTWALL_RECORD_H */
