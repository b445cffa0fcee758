/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is kept while it is read what a flow says of itself: see hello.bpf.h. */
#ifndef AGENTWALL_HEARD_H
#define AGENTWALL_HEARD_H

#include <linux/types.h>

/* Longer ones are refused. */
#define AW_HELLO_LEN 4096 /* of a TLS ClientHello with its record headers */
#define AW_HEAD_LEN  8192 /* of an HTTP request up to its empty line */

/*
 * How far the bytes that one TCP socket sends were read: see hello.bpf.h. Nothing is kept of them but
 * the names they say.
 */
struct aw_hello {
	__u64 skip; /* bytes that say nothing, before the next one that does */
	__u64 words[3]; /* a method or the name of a header: its first 24 bytes, 8 in each */
	__u64 body; /* Content-Length */
	__u32 expected; /* TCP sequence number of the next byte to read */
	__u32 taken; /* bytes read of the ClientHello or the request */
	__u32 value; /* the number that is being read */
	__u32 record; /* bytes left of the TLS record */
	__u32 message; /* bytes left of the ClientHello */
	__u16 port; /* that CONNECT or an absolute target names; 0: none */
	__u16 length; /* of text */
	__u16 kept; /* length of name; 0: the target names none */
	__u16 at; /* where in a word, a field or a line the next byte stands */
	__u8 begun; /* 1: expected is known */
	__u8 phase; /* enum aw_phase */
	__u8 need; /* bytes missing of the number or name */
	__u8 records; /* TLS records begun */
	__u8 kind; /* enum aw_kind */
	__u8 marks; /* AW_MARK_* */
	__u8 form; /* of the request's target */
	__u8 target; /* enum aw_said of the target's host */
	__u8 host; /* ... of the Host header or the server name */
	__u8 header; /* which header the value belongs to */
	__u8 tunnel; /* 1: behind a CONNECT to what name holds */
	__u8 refused; /* 1: nothing may follow */
	__u8 label; /* bytes of the label that is being read */
	__u8 signs; /* what a name holds */
	__u8 mode; /* what part of an authority is read */
	__u8 _pad;
	__u8 text[256]; /* the name being read; zeros follow it */
	__u8 name[256]; /* of the target; zeros follow it */
};

#endif /* AGENTWALL_HEARD_H */
