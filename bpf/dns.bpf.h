/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * DNS messages (RFC 1035 section 4) in struct aw_work. The functions are global: the verifier looks at
 * each once, on its own, whoever calls it. agentwall/detect/dns.py reads the same, and tests/agree
 * holds the two together.
 */
#ifndef AGENTWALL_DNS_H
#define AGENTWALL_DNS_H

#include "maps.bpf.h"

/*
 * Reads the one question in aw_works[index].message, of aw_works[index].size bytes: fills in id, type,
 * key, length and hash. Returns 0, or 1 if it is not one plain question and nothing else.
 */
int aw_read_question(__u32 index);

/*
 * Reads an answer there: id, type, key, length and hash of the question it repeats, and in answer[] the
 * addresses (A and AAAA, class IN) of that name and of the names its CNAMEs lead to, in the order they
 * stand. Returns 0, or 1 if it is no answer that can be read to its end; answer[] is empty then.
 * Addresses are in the one form of the maps, IPv4 as ::ffff:a.b.c.d.
 */
int aw_read_answer(__u32 index);

#endif /* AGENTWALL_DNS_H */
