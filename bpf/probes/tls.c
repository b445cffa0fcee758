// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Calls of TLS libraries, in bcc's dialect: what a process of a sandbox hands to its library goes to
 * aw_plain, in the wall's object, before it is encrypted; what the library hands out, before the
 * process has it. agentwall/probes/libraries.py says which program belongs to which function.
 * Compiled on the host with AW_COOKIES, whether the kernel has bpf_get_attach_cookie() (since Linux
 * 5.15); loaded by agentwall/probes/loading.py.
 */
#include <uapi/linux/ptrace.h>
#include "plain.h"
#include "pending.h"

#define AW_LEVELS 16 /* of nested cgroups that are looked at; level 0, the root, is no sandbox */
#define AW_NESTED 512 /* octets of stack between a function and the one it calls at once */
#define AW_AGO_NS 1000000000ULL /* an equal call that is older is another */

/* Stand-ins: whoever loads the programs puts the wall's maps of these names in their places. */
BPF_TABLE("hash", u64, u64, aw_plain_cgroups, 1);
BPF_TABLE("hash", u64, struct aw_plain_call, aw_plain_calls, 1);
BPF_TABLE("percpu_array", int, struct aw_plain_counters, aw_plain_counters, 1);
/* Its values are the wall's own. */
BPF_TABLE("hash", struct aw_plain_key, u64, aw_plain_connections, 1);
BPF_TABLE("prog", int, int, aw_plain_next, 1);
BPF_TASK_STORAGE(aw_plain_reads, struct aw_plain_reads); /* since Linux 5.12 for probes */

#if AW_COOKIES
/* By number: bcc knows the name only since 0.23. */
static u64 (*aw_attach_cookie)(void *ctx) = (void *)174;
#else
#define aw_attach_cookie(ctx) 0
#endif

/* By number as well: with the type that the kernel's headers would have. */
static void *(*aw_current_task)(void) = (void *)158; /* bpf_get_current_task_btf() */

#define AW_COUNT(what) aw_count(__builtin_offsetof(struct aw_plain_counters, what))

static __always_inline void aw_count(u64 at)
{
	int zero = 0;
	struct aw_plain_counters *counters = aw_plain_counters.lookup(&zero);

	/* Atomic: another thread may come in between, on the same processor. */
	if (counters)
		__sync_fetch_and_add((u64 *)((void *)counters + at), 1);
}

/* The sandbox that the process is in, by its innermost admitted cgroup; 0: it is in none. */
static __always_inline u64 aw_own_sandbox(void)
{
	u64 sandbox = 0;

	for (int level = 1; level <= AW_LEVELS; level++) {
		u64 cgroup = bpf_get_current_ancestor_cgroup_id(level);
		u64 *found;

		if (!cgroup)
			break;
		found = aw_plain_cgroups.lookup(&cgroup);
		if (found)
			sandbox = *found;
	}
	if (!sandbox)
		AW_COUNT(foreign);
	return sandbox;
}

/*
 * Whether *call* is the call *last* once more: the library is probed twice, or a function has called
 * another that is probed, which GnuTLS does to send and OpenSSL to shake hands. The same cookie is
 * the same probe, so another call, of a loop that reuses its buffer.
 */
static __always_inline bool aw_is_same(const struct aw_plain_call *last,
				       const struct aw_plain_call *call)
{
	u64 deeper = last->stack - call->stack;

	if (last->connection != call->connection || last->text != call->text ||
	    last->size != call->size || last->process != call->process || last->act != call->act ||
	    last->library != call->library || last->cookie == call->cookie ||
	    call->since_ns - last->since_ns > AW_AGO_NS)
		return false;
	if (last->place == call->place)
		return !deeper;
	return deeper <= AW_NESTED &&
	       (call->library == AW_PLAIN_GNUTLS || call->act == AW_PLAIN_SHAKE);
}

/*
 * Tells aw_plain of the call, which comes after *last*, if that is known. Whatever follows in a program
 * runs only where aw_plain does not.
 */
static __always_inline void aw_pass(struct pt_regs *ctx, struct aw_plain_call *call,
				    const struct aw_plain_call *last)
{
	u64 task = bpf_get_current_task();

	AW_COUNT(calls);
	if (last && last->process == call->process)
		call->before = last->connection == call->connection ? last->before :
								      last->connection;
	if (last && last->sandbox == call->sandbox)
		call->turn = last->turn;
	if (aw_plain_calls.update(&task, call)) {
		AW_COUNT(lost);
		return;
	}
	aw_plain_next.call(ctx, 0);
	AW_COUNT(lost);
	aw_plain_calls.delete(&task);
}

/* A call of a process in a sandbox, at its first instruction: what has no text and no size to come. */
static __always_inline void aw_enter(struct pt_regs *ctx, u64 connection, u64 text, u64 size,
				     u8 act, u8 library)
{
	struct aw_plain_call call = {};
	struct aw_plain_call *last;
	u64 task = bpf_get_current_task();

	if (!connection) /* SSL_free(NULL) does nothing */
		return;
	call.sandbox = aw_own_sandbox();
	if (!call.sandbox)
		return;
	call.connection = connection;
	call.text = text;
	call.size = size;
	call.stack = PT_REGS_SP(ctx);
	call.since_ns = bpf_ktime_get_boot_ns();
	call.cookie = aw_attach_cookie(ctx);
	call.process = bpf_get_current_pid_tgid() >> 32;
	call.place = PT_REGS_IP(ctx);
	call.act = act;
	call.library = library;
	last = aw_plain_calls.lookup(&task);
	if (last && aw_is_same(last, &call)) {
		AW_COUNT(doubled);
		return;
	}
	aw_pass(ctx, &call, last);
}

static __always_inline void aw_say_text(struct pt_regs *ctx, u64 size, u8 library)
{
	u64 connection = PT_REGS_PARM1(ctx), text = PT_REGS_PARM2(ctx);

	/* GnuTLS goes on with what it has kept where it gets no text; openssl s_client shakes hands so. */
	if (text && size)
		aw_enter(ctx, connection, text, size, AW_PLAIN_SAY, library);
	else
		aw_enter(ctx, connection, 0, 0, AW_PLAIN_SHAKE, library);
}

/* Text and size are known when the function returns. */
static __always_inline void aw_begin_read(struct pt_regs *ctx, u64 size_at, u8 library)
{
	u64 connection = PT_REGS_PARM1(ctx), text = PT_REGS_PARM2(ctx),
	    cookie = aw_attach_cookie(ctx);
	u64 stack = PT_REGS_SP(ctx) + AW_RETURN_ADDRESS, sandbox = aw_own_sandbox();
	u64 task = bpf_get_current_task();
	u16 place = (u16)PT_REGS_IP(ctx);
	struct aw_plain_call *last;
	struct aw_plain_read *read;
	struct aw_plain_reads *reads;

	if (!sandbox)
		return;
	reads = aw_plain_reads.task_storage_get(aw_current_task(), 0,
						BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (reads) {
		read = aw_place_for(reads, stack);
		if (read->stack && read->stack != stack)
			AW_COUNT(lost);
		if (read->stack == stack && read->connection == connection && read->text == text &&
		    read->place == place && read->cookie != cookie)
			AW_COUNT(doubled);
		read->stack = stack;
		read->sandbox = sandbox;
		read->connection = connection;
		read->text = text;
		read->size_at = size_at;
		read->cookie = cookie;
		read->place = place;
	} else {
		AW_COUNT(lost);
	}
	/* A read may begin the handshake, as in Node.js: egress is to know whose records leave. */
	last = aw_plain_calls.lookup(&task);
	if (!last || last->connection != connection ||
	    last->process != (u32)(bpf_get_current_pid_tgid() >> 32))
		aw_enter(ctx, connection, 0, 0, AW_PLAIN_SHAKE, library);
}

/* Finds and forgets the read that returns: where a library is probed twice, the second finds none. */
static __always_inline bool aw_take_pending(struct pt_regs *ctx, struct aw_plain_read *ret)
{
	struct aw_plain_reads *reads = aw_plain_reads.task_storage_get(aw_current_task(), 0, 0);
	u64 stack = PT_REGS_SP(ctx);

	if (!reads)
		return false;
#pragma unroll
	for (int i = 0; i < AW_PLAIN_READS; i++) {
		if (reads->reads[i].stack == stack) {
			*ret = reads->reads[i];
			reads->reads[i].stack = 0;
			return true;
		}
	}
	return false;
}

static __always_inline void aw_end_read(struct pt_regs *ctx, struct aw_plain_read *read, u64 size,
					u8 library)
{
	struct aw_plain_call call = {};
	u64 task = bpf_get_current_task();

	call.sandbox = read->sandbox;
	call.connection = read->connection;
	call.text = read->text;
	call.size = size;
	call.stack = PT_REGS_SP(ctx);
	call.since_ns = bpf_ktime_get_boot_ns();
	call.cookie = read->cookie;
	call.process = bpf_get_current_pid_tgid() >> 32;
	call.place = read->place;
	call.act = AW_PLAIN_HEAR;
	call.library = library;
	aw_pass(ctx, &call, aw_plain_calls.lookup(&task));
}

/* SSL_write(SSL *, const void *, int): what is above the int in its register means nothing. */
int aw_say(struct pt_regs *ctx)
{
	s32 size = PT_REGS_PARM3(ctx);

	if (size >= 0)
		aw_say_text(ctx, size, AW_PLAIN_OPENSSL);
	return 0;
}

/* SSL_write_ex(SSL *, const void *, size_t, ...) and its siblings. */
int aw_say_ex(struct pt_regs *ctx)
{
	aw_say_text(ctx, PT_REGS_PARM3(ctx), AW_PLAIN_OPENSSL);
	return 0;
}

/* SSL_read(SSL *, void *, int) returns the size, or what is not above 0. */
int aw_hear(struct pt_regs *ctx)
{
	aw_begin_read(ctx, 0, AW_PLAIN_OPENSSL);
	return 0;
}

int aw_hear_back(struct pt_regs *ctx)
{
	struct aw_plain_read read = {};
	s32 size = PT_REGS_RC(ctx);

	if (aw_take_pending(ctx, &read) && size > 0)
		aw_end_read(ctx, &read, size, AW_PLAIN_OPENSSL);
	return 0;
}

/* SSL_read_ex(SSL *, void *, size_t, size_t *readbytes) returns 1 where it has read anything. */
int aw_hear_ex(struct pt_regs *ctx)
{
	aw_begin_read(ctx, PT_REGS_PARM4(ctx), AW_PLAIN_OPENSSL);
	return 0;
}

int aw_hear_ex_back(struct pt_regs *ctx)
{
	struct aw_plain_read read = {};
	s32 done = PT_REGS_RC(ctx);
	u64 size = 0;

	if (!aw_take_pending(ctx, &read) || done != 1)
		return 0;
	if (bpf_probe_read_user(&size, sizeof(size), (void *)read.size_at)) {
		AW_COUNT(unreadable);
		return 0;
	}
	if (size)
		aw_end_read(ctx, &read, size, AW_PLAIN_OPENSSL);
	return 0;
}

int aw_shake(struct pt_regs *ctx)
{
	aw_enter(ctx, PT_REGS_PARM1(ctx), 0, 0, AW_PLAIN_SHAKE, AW_PLAIN_OPENSSL);
	return 0;
}

int aw_end(struct pt_regs *ctx)
{
	aw_enter(ctx, PT_REGS_PARM1(ctx), 0, 0, AW_PLAIN_END, AW_PLAIN_OPENSSL);
	return 0;
}

/* gnutls_record_send(gnutls_session_t, const void *, size_t) and its siblings. */
int aw_gnutls_say(struct pt_regs *ctx)
{
	aw_say_text(ctx, PT_REGS_PARM3(ctx), AW_PLAIN_GNUTLS);
	return 0;
}

/* gnutls_record_recv(gnutls_session_t, void *, size_t) returns the size, or what is not above 0. */
int aw_gnutls_hear(struct pt_regs *ctx)
{
	aw_begin_read(ctx, 0, AW_PLAIN_GNUTLS);
	return 0;
}

int aw_gnutls_hear_back(struct pt_regs *ctx)
{
	struct aw_plain_read read = {};
	s64 size = PT_REGS_RC(ctx);

	if (aw_take_pending(ctx, &read) && size > 0)
		aw_end_read(ctx, &read, size, AW_PLAIN_GNUTLS);
	return 0;
}

int aw_gnutls_shake(struct pt_regs *ctx)
{
	aw_enter(ctx, PT_REGS_PARM1(ctx), 0, 0, AW_PLAIN_SHAKE, AW_PLAIN_GNUTLS);
	return 0;
}

int aw_gnutls_end(struct pt_regs *ctx)
{
	aw_enter(ctx, PT_REGS_PARM1(ctx), 0, 0, AW_PLAIN_END, AW_PLAIN_GNUTLS);
	return 0;
}

/* Descriptors of NSPR are files and sockets too: those that are TLS are connections that are known. */
static __always_inline bool aw_is_imported(u64 connection)
{
	struct aw_plain_key key = {};

	key.sandbox = aw_own_sandbox();
	if (!key.sandbox)
		return false;
	key.connection = connection;
	key.process = bpf_get_current_pid_tgid() >> 32;
	return aw_plain_connections.lookup(&key);
}

/* SSL_ImportFD() returns the descriptor; its handshake comes with the first text, or with a read. */
int aw_nss_begin_back(struct pt_regs *ctx)
{
	aw_enter(ctx, PT_REGS_RC(ctx), 0, 0, AW_PLAIN_SHAKE, AW_PLAIN_NSS);
	return 0;
}

/* PR_Write(PRFileDesc *, const void *, PRInt32), PR_Send(PRFileDesc *, const void *, PRInt32, ...). */
int aw_nss_say(struct pt_regs *ctx)
{
	s32 size = PT_REGS_PARM3(ctx);

	if (size > 0 && aw_is_imported(PT_REGS_PARM1(ctx)))
		aw_say_text(ctx, size, AW_PLAIN_NSS);
	return 0;
}

int aw_nss_hear(struct pt_regs *ctx)
{
	if (aw_is_imported(PT_REGS_PARM1(ctx)))
		aw_begin_read(ctx, 0, AW_PLAIN_NSS);
	return 0;
}

int aw_nss_hear_back(struct pt_regs *ctx)
{
	struct aw_plain_read read = {};
	s32 size = PT_REGS_RC(ctx);

	if (aw_take_pending(ctx, &read) && size > 0)
		aw_end_read(ctx, &read, size, AW_PLAIN_NSS);
	return 0;
}

int aw_nss_end(struct pt_regs *ctx)
{
	if (aw_is_imported(PT_REGS_PARM1(ctx)))
		aw_enter(ctx, PT_REGS_PARM1(ctx), 0, 0, AW_PLAIN_END, AW_PLAIN_NSS);
	return 0;
}
