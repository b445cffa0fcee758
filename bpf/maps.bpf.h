/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every map, declared once. maps.bpf.c defines AW_DEFINE_MAPS; all others link to it. */
#ifndef AGENTWALL_MAPS_H
#define AGENTWALL_MAPS_H

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

#ifdef AW_DEFINE_MAPS
#define AW_MAP
#else
#define AW_MAP extern
#endif

/*
 * Set by user space before the object is loaded. aw_test_sandbox stands in for aw_sandbox_id in
 * objects that tests load for prog_test_run, which hands programs a zeroed copy of cgroup storage;
 * the loader refuses a shipped object where it is not 0.
 */
AW_MAP const volatile __u64 aw_test_sandbox;
AW_MAP const volatile __u8 aw_have_set_retval; /* bpf_set_retval: Linux 5.18 and later */

/*
 * The sandbox a link was attached for. The kernel makes the entry, zeroed, at attach: 0 means deny.
 * The layout is frozen for ever: a link can only be updated to a program with the same storage map.
 */
AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_STORAGE);
	__type(key, __u64);
	__type(value, __u64);
} aw_sandbox_id SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct aw_sandbox);
} aw_sandboxes SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct aw_rule_key);
	__type(value, struct aw_interval_set);
} aw_rules SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct aw_interval);
} aw_intervals SEC(".maps");

#define AW_SOCKET_LISTENER  0x1 /* seen listening; set in a clone: that socket was accepted */
#define AW_SOCKET_PERMITTED 0x2 /* a packet of the flow was once permitted: its RST may pass */
#define AW_SOCKET_RELEASED  0x4 /* the application closed it; the kernel may still send */
#define AW_SOCKET_USER	    0x8 /* made by socket() or accept(): sock_release will tell of its end */

/*
 * What is known of one socket: the last verdict, which counts only for exactly the protocol, remote
 * and generation it was made for, and the traffic it let through. Cloned to accepted sockets.
 */
struct aw_socket {
	struct bpf_spin_lock lock; /* see aw_is_serial() */
	__u32 generation; /* 0: no verdict */
	__u64 sandbox; /* 0: not made in a sandbox of this wall */
	__u64 since_ns; /* start of the span that the next flush adds to duration_ns */
	__u64 flushed_jiffies;
	__u64 bytes_out; /* since the last flush */
	__u64 bytes_in;
	__u64 remote[2];
	__u64 claimed[2]; /* what the application asked for in connect or sendmsg */
	__u32 rule;
	__u32 pid;
	__u32 uid;
	__u16 remote_port;
	__u16 claimed_port;
	__u16 local_port;
	__u8 protocol;
	__u8 verdict; /* ALLOW or DENY: what the rules say, whatever the mode */
	__u8 reason;
	__u8 direction;
	__u8 mode; /* under which the verdict was reported */
	__u8 flags; /* AW_SOCKET_* */
	char comm[AW_COMM_LEN];
};

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct aw_socket);
} aw_sockets SEC(".maps");

/* A remote that sent a datagram which an inbound rule permits; it may be answered for a while. */
struct aw_peer_key {
	__u64 cookie; /* of the receiving socket */
	__u64 remote[2];
	__u64 port;
};

#define AW_PEER_NS (30LL * 1000 * 1000 * 1000)

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct aw_peer_key);
	__type(value, __u64); /* when it was last heard */
} aw_peers SEC(".maps");

/* Two rings of struct aw_event: a flood of permitted flows must not hide a denial. */
AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} aw_denials SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} aw_flows SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct aw_flow_key);
	__type(value, struct aw_flow);
} aw_flow_table SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4097);
	__type(key, __u64);
	__type(value, struct aw_counters);
} aw_counters SEC(".maps");

#endif /* AGENTWALL_MAPS_H */
