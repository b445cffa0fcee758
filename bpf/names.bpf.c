// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What the rules say of selectors and names. An address keeps the names it was learned under, not
 * their verdict: so it outlives a switch of the policy, and is judged under the one in force.
 */
#include "names.bpf.h"

#define AW_SEARCH_STEPS 18 /* binary search over at most 2^17 intervals */

AW_GLOBAL __u64 aw_search(__u32 start, __u32 count, __u32 selector)
{
	__u32 low = start;
	__u32 left = count & AW_SET_COUNT;

	for (int i = 0; i < AW_SEARCH_STEPS && left; i++) {
		__u32 middle = low + left / 2;
		struct aw_interval *interval = bpf_map_lookup_elem(&aw_intervals, &middle);

		if (!interval)
			return 0;
		if (selector < interval->first) {
			left = left / 2;
		} else if (selector > interval->last) {
			left -= left / 2 + 1;
			low = middle + 1;
		} else {
			return (__u64)interval->rule << 32 | interval->verdict;
		}
	}
	return 0;
}

/* Looks the text of *known* up in the part *names*. */
static __always_inline __u64 aw_look_up(const struct aw_known *known, __u32 names,
					struct aw_work *work)
{
	struct aw_name_rules *rules;
	struct aw_interval_set *set;
	__u32 depth;

	aw_copy_text(work->key.text, known->text);
	work->key.prefixlen = 16 + known->length * 8;
	work->key.table = names << 1;
	rules = bpf_map_lookup_elem(&aw_names, &work->key);
	if (!rules)
		return 0;
	depth = aw_depth_of(work->key.text, known->length, rules->length);
	set = &rules->sets[depth];
	return (__u64)set->count << 32 | set->start;
}

AW_GLOBAL __u64 aw_rules_of(__u64 sandbox, __u64 name, __u32 generation, __u32 names)
{
	struct aw_known *known = aw_find_known(sandbox, name);
	struct aw_work *work;
	__u32 index;
	__u64 rules;

	if (!known)
		return 0;
	bpf_spin_lock(&known->lock);
	rules = known->generation == generation ? (__u64)known->set.count << 32 | known->set.start :
						  AW_NO_MEMORY;
	bpf_spin_unlock(&known->lock);
	if (rules != AW_NO_MEMORY)
		return rules;
	index = aw_claim_work();
	work = aw_work_at(index);
	if (!work)
		return AW_NO_MEMORY;
	rules = aw_look_up(known, names, work);
	aw_release_work(index);
	bpf_spin_lock(&known->lock);
	known->generation = generation;
	known->set.start = rules;
	known->set.count = rules >> 32;
	bpf_spin_unlock(&known->lock);
	return rules;
}

AW_GLOBAL __u64 aw_names_say(__u64 sandbox, __u64 high, __u64 low, __u64 generation_selector,
			     __u32 names_dns)
{
	struct aw_bound_key key = { .sandbox = sandbox };
	__u64 now = bpf_ktime_get_boot_ns(), result = 0;
	struct aw_bound *bound;

	__builtin_memcpy(key.address, &high, sizeof(high));
	__builtin_memcpy(key.address + sizeof(high), &low, sizeof(low));
	bound = bpf_map_lookup_elem(&aw_bound, &key);
	if (!bound)
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < AW_NAMES_OF_ADDRESS; i++) {
		__u64 name = bound->names[i].name, rules, saying;

		if (!name || bound->names[i].until_ns <= now)
			continue;
		if (!result)
			result = (__u64)AW_NO_RULE << 32 | AW_NAMED | i << 16;
		if (!(names_dns & AW_DNS_NAMES))
			continue;
		rules = aw_rules_of(sandbox, name, generation_selector >> 32, names_dns >> 8);
		if (rules == AW_NO_MEMORY)
			return AW_NO_MEMORY;
		saying = aw_search(rules, rules >> 32, generation_selector);
		if (saying && saying >> 32 < result >> 32)
			result = saying >> 32 << 32 | AW_NAMED | i << 16 |
				 (saying & AW_NAMED_SAYING);
	}
	return result;
}

AW_GLOBAL __u64 aw_saying_of(__u32 index, __u32 names, __u32 selector)
{
	struct aw_work *work = aw_work_at(index);
	struct aw_name_rules *rules;
	struct aw_interval_set *set;

	if (!work)
		return 0;
	work->key.table = names << 1;
	work->key.prefixlen = 16 + work->length * 8;
	rules = bpf_map_lookup_elem(&aw_names, &work->key);
	if (!rules)
		return 0;
	set = &rules->sets[aw_depth_of(work->key.text, work->length, rules->length)];
	return aw_search(set->start, set->count, selector);
}

AW_GLOBAL int aw_know(__u64 sandbox, __u32 index)
{
	struct aw_known_key key = { .sandbox = sandbox };
	struct aw_work *work = aw_work_at(index);
	struct aw_known *known, *fresh;

	if (!work)
		return false;
	key.name = work->hash;
	known = bpf_map_lookup_elem(&aw_known, &key);
	if (!known) {
		fresh = (void *)work->known;
		fresh->generation = 0;
		fresh->addresses = 0;
		fresh->length = work->length;
		aw_copy_text(fresh->text, work->key.text);
		bpf_map_update_elem(&aw_known, &key, fresh, BPF_NOEXIST);
		known = bpf_map_lookup_elem(&aw_known, &key);
	}
	if (!known || !aw_is_same_text(known->text, work->key.text))
		return false;
	known->seen_ns = bpf_ktime_get_boot_ns();
	return true;
}
