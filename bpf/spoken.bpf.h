/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is read inside TLS: a connection of a library, and the flow that carries it. */
#ifndef AGENTWALL_SPOKEN_H
#define AGENTWALL_SPOKEN_H

#include "scanned.bpf.h"

/* In struct aw_socket: the connection whose records the flow carries. */
struct aw_spoken {
	__u64 connection; /* as in struct aw_plain_key, the last that was known; 0: none was */
	__u32 process;
	__u8 tries; /* segments that were looked at to find it */
	__u8 told; /* 1: user space has got the ClientHello */
	__u8 _pad[2];
};

/*
 * Value of aw_plain_connections. What aw_plain keeps of the text is in the process's own order, and
 * arrays are by AW_WAY_*. What is known of the flow aw_join has from its socket.
 */
struct aw_plain_connection {
	__u64 sandbox;
	__u64 cookie; /* of the socket; 0: which flow it is, is not known */
	__u64 name; /* of the flow, as in struct aw_event; and so on */
	__u64 reported; /* as in struct aw_scan; and so on */
	__u64 judged;
	__u64 excepted; /* groups that do not count behind the rule of the flow */
	__u8 remote[16];
	__u8 local[16];
	__u32 generation; /* that rule is of; 0: not known */
	__u32 rule;
	__u32 table;
	__u32 position[2];
	__u16 remote_port;
	__u16 local_port;
	__u16 state[2];
	__u16 handed[2];
	__u8 settled[2];
	__u8 direction;
	__u8 hands_over;
	__u8 dead; /* 1: nothing of the flow passes any more */
	__u8 unread; /* 1: a rule says that it is not to be read, or it stays on this host */
	__u8 library; /* enum aw_plain_library */
	__u8 has_sent; /* 1: a record of text has left, or may have */
	struct aw_tail tail;
};

/* Memory to read one call in, for the time of one program run: see aw_claim_plain(). */
struct aw_plain_work {
	struct aw_cursor cursor;
	struct aw_plain_key key; /* of the connection */
	__u64 text; /* address, in the process, of the next octet */
	__u32 left; /* octets to read */
	__u32 read; /* octets of this call that were read */
	__u32 before; /* octets of the connection that were said in earlier calls */
	__u32 generation; /* of the sandbox, by which it is read */
	__u8 way; /* AW_WAY_* */
	__u8 side; /* enum aw_side */
	__u8 _pad[2];
	__u64 about[24]; /* a struct aw_case */
	__u8 message[AW_MESSAGE_LEN];
};

#define AW_PLAIN_WORKS 64 /* a power of two */

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u64);
} aw_plain_cgroups SEC(".maps");

#define AW_PLAIN_THREADS 512 /* of a sandbox whose last call is known; a power of two */
#define AW_PLAIN_CALLS	 131072 /* of 256 sandboxes that have so many */

/* No sandbox has more than its AW_PLAIN_THREADS in here: see aw_take_turn(). */
AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, AW_PLAIN_CALLS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct aw_plain_call);
} aw_plain_calls SEC(".maps");

/* User space leaves it out where there is no aw_plain (before Linux 5.12). */
AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct aw_plain_reads);
} aw_plain_reads SEC(".maps");

/* How many turns a sandbox has given to its threads: u64 sandbox -> u32. */
AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32);
} aw_plain_turns SEC(".maps");

/* Key of aw_plain_order: a turn, modulo AW_PLAIN_THREADS. Value: u64, the task that had it last. */
struct aw_plain_seat {
	__u64 sandbox;
	__u32 seat;
	__u32 _pad;
};

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, AW_PLAIN_CALLS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct aw_plain_seat);
	__type(value, __u64);
} aw_plain_order SEC(".maps");

/* Entry 0: aw_plain, where the probes of bpf/probes/ go on. User space puts it there. */
AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} aw_plain_next SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct aw_plain_counters);
} aw_plain_counters SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct aw_plain_key);
	__type(value, struct aw_plain_connection);
} aw_plain_connections SEC(".maps");

/*
 * How many of aw_plain_connections are a sandbox's: u64 sandbox -> s64. A process can make up as many as it
 * likes, and has to leave room for those of others. User space counts anew now and then, and what
 * happens meanwhile is not in its count, so it may be a few off, or below 0.
 */
AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __s64);
} aw_plain_held SEC(".maps");

/*
 * Cookies of sockets whose connection is dead: the library may free it while records are to leave yet. And
 * processes, marked by AW_DEAD_PROCESS, with a dead connection whose flow is not known. Of a sandbox that
 * has AW_PLAIN_MARKS of both, process 0 stands for whatever more there is: see aw_mark_dead().
 */
#define AW_DEAD_PROCESS (1ULL << 63)
#define AW_PLAIN_MARKS	1024

static __always_inline __u64 aw_dead_process(__u64 sandbox, __u32 process)
{
	return AW_DEAD_PROCESS | sandbox << 32 | process;
}

struct aw_plain_mark {
	__u64 sandbox;
	__u64 since_ns; /* CLOCK_BOOTTIME */
};

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct aw_plain_mark);
} aw_plain_dead SEC(".maps");

/* How many of them are a sandbox's, as aw_plain_held. */
AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __s64);
} aw_plain_marks SEC(".maps");

/* All zero, for ever: a new connection is a copy of it, for the stack has no room for one. */
AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct aw_plain_connection);
} aw_plain_blank SEC(".maps");

/*
 * Which of aw_plain_works are taken. Tracing programs may use no map with a spin lock in it, and compare
 * and exchange is of Linux 5.12.
 */
AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, AW_PLAIN_WORKS);
	__type(key, __u32);
	__type(value, __u32);
} aw_plain_taken SEC(".maps");

AW_MAP struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, AW_PLAIN_WORKS);
	__type(key, __u32);
	__type(value, struct aw_plain_work);
} aw_plain_works SEC(".maps");

#endif /* AGENTWALL_SPOKEN_H */
