// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Never loaded. One variable per ABI type keeps that type in this object's BTF. */
#include <linux/types.h>
#include "abi.h"

enum aw_verdict _aw_verdict;
enum aw_mode _aw_mode;
enum aw_loopback _aw_loopback;
enum aw_plain _aw_plain;
enum aw_direction _aw_direction;
enum aw_hook _aw_hook;
enum aw_reason _aw_reason;
enum aw_name_depth _aw_name_depth;
struct aw_sandbox _aw_sandbox;
struct aw_rule_key _aw_rule_key;
struct aw_interval_set _aw_interval_set;
struct aw_interval _aw_interval;
struct aw_name_key _aw_name_key;
struct aw_name_rules _aw_name_rules;
struct aw_known_key _aw_known_key;
struct aw_known _aw_known;
struct aw_bound_key _aw_bound_key;
struct aw_binding _aw_binding;
struct aw_bound _aw_bound;
struct aw_event _aw_event;
struct aw_name_event _aw_name_event;
struct aw_flow_key _aw_flow_key;
struct aw_flow _aw_flow;
struct aw_counters _aw_counters;
struct aw_belt_key _aw_belt_key;
enum aw_transport _aw_transport;
enum aw_side _aw_side;
struct aw_accept _aw_accept;
struct aw_signatures _aw_signatures;
struct aw_except_key _aw_except_key;
struct aw_match_event _aw_match_event;
struct aw_excerpt_event _aw_excerpt_event;
struct aw_hello_event _aw_hello_event;
enum aw_plain_act _aw_plain_act;
enum aw_plain_library _aw_plain_library;
struct aw_plain_call _aw_plain_call;
struct aw_plain_key _aw_plain_key;
struct aw_plain_counters _aw_plain_counters;
