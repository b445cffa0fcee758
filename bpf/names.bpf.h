/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Look-ups that several programs share. The functions are global: the verifier looks at each once, on
 * its own, whoever calls it, so they take numbers only.
 */
#ifndef AGENTWALL_NAMES_H
#define AGENTWALL_NAMES_H

#include "work.bpf.h"

/*
 * Returns what the set says of *selector*: rule << 32 | struct aw_interval.verdict; 0 if nothing.
 * *count* may carry its AW_SET_* bits.
 */
__u64 aw_search(__u32 start, __u32 count, __u32 selector);

/* What aw_rules_of() returns where it could not look; as a set it would be an impossible one. */
#define AW_NO_MEMORY (~0ULL)

/*
 * Returns what the rules of *generation*, which has the part *names* of aw_names, say of a name that
 * *sandbox* knows: the start of a set, and its count << 32. Other names have an empty set.
 */
__u64 aw_rules_of(__u64 sandbox, __u64 name, __u32 generation, __u32 names);

/* Bits of what aw_names_say() returns. */
#define AW_NAMED	     0x80000000U /* the address has a name */
#define AW_NAMED_PLACE(said) (((said) >> 16) & (AW_NAMES_OF_ADDRESS - 1)) /* in struct aw_bound */
#define AW_NAMED_SAYING	     0xffff

/*
 * Asks the rules for all live names of an address of *sandbox*, given as the halves of its 16 bytes.
 * Of what they say the rule that comes first counts, and so a deny.
 *
 * generation_selector: generation << 32 | selector. names_dns: aw_sandbox.names << 8 | aw_sandbox.dns.
 *
 * Returns rule << 32 | AW_NAMED | place << 16 | struct aw_interval.verdict, where the verdict is 0 if
 * no rule speaks of these names; 0 if there is no name; AW_NO_MEMORY.
 */
__u64 aw_names_say(__u64 sandbox, __u64 high, __u64 low, __u64 generation_selector,
		   __u32 names_dns);

/* As aw_search(), for the name in aw_works[index] and the part *names* of aw_names. */
__u64 aw_saying_of(__u32 index, __u32 names, __u32 selector);

/*
 * Makes the name in aw_works[index] known to *sandbox*. Returns whether it is: there may be no room, or
 * another name with its hash.
 */
int aw_know(__u64 sandbox, __u32 index);

static __always_inline struct aw_known *aw_find_known(__u64 sandbox, __u64 name)
{
	struct aw_known_key key = { .sandbox = sandbox, .name = name };

	return bpf_map_lookup_elem(&aw_known, &key);
}

static __always_inline struct aw_bound *aw_find_bound(const struct aw_case *c)
{
	struct aw_bound_key key = { .sandbox = c->id };

	__builtin_memcpy(key.address, &c->remote, sizeof(key.address));
	return bpf_map_lookup_elem(&aw_bound, &key);
}

#endif /* AGENTWALL_NAMES_H */
