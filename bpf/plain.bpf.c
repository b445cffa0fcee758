// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What a process hands to its TLS library, or gets from it, goes through the automaton of the signatures
 * as what is in clear does. This runs in the calling thread, before the library encrypts: where a match
 * is to be cut off the connection is dead from then on, and aw_join() lets none of its records out.
 *
 * The probes of bpf/probes/ come here by aw_plain_next. Only UAPI helpers of tracing programs; those may
 * use no map with a spin lock in it, hence the maps of spoken.bpf.h.
 */
#include "nested.bpf.h"
#include "repeat.bpf.h"
#include "step.bpf.h"
#include "turn.bpf.h"

#define AW_PLAIN_TRIES	8
#define AW_PLAIN_MOST	2048 /* connections of one sandbox that are known at a time */
#define AW_PLAIN_STOPS	24 /* matches of one call; what is behind them is not read */
#define AW_PLAIN_PIECES 17 /* of AW_MESSAGE_LEN octets, and the end of what a match has broken */

/* Returns the index of a struct aw_plain_work that is ours until aw_release_plain(), or of none. */
static __always_inline __u32 aw_claim_plain(void)
{
	__u32 first = bpf_get_smp_processor_id() * AW_PLAIN_TRIES / 2, one = 1;

	for (int i = 0; i < AW_PLAIN_TRIES; i++) {
		__u32 index = (first + i) & (AW_PLAIN_WORKS - 1);

		if (!bpf_map_update_elem(&aw_plain_taken, &index, &one, BPF_NOEXIST))
			return index;
	}
	return AW_PLAIN_WORKS;
}

static __always_inline void aw_release_plain(__u32 index)
{
	bpf_map_delete_elem(&aw_plain_taken, &index);
}

/* Reads aw_plain_works[index].message on, as aw_step() does. */
AW_GLOBAL int aw_plain_step(__u32 index)
{
	struct aw_plain_work *work = aw_plain_work_at(index);

	return work ? aw_step_on(&work->cursor, work->message) : AW_FOUND_ERROR;
}

/* Reads aw_plain_works[index].message to its end, or until something is found. */
AW_GLOBAL int aw_plain_steps(__u32 index)
{
	for (int i = 0; i < AW_MESSAGE_LEN / AW_SCAN_PIECE; i++) {
		int found = aw_plain_step(index);

		if (found)
			return found;
	}
	return AW_FOUND_NOTHING;
}

/* Reads a part of the text: at most what work->message holds. Returns MORE after that. */
AW_GLOBAL int aw_plain_piece(__u32 index)
{
	struct aw_plain_work *work = aw_plain_work_at(index);
	__u32 count, read;
	int found;

	if (!work)
		return AW_FOUND_ERROR;
	count = work->left;
	if (!count)
		return AW_FOUND_NOTHING;
	if (count > AW_MESSAGE_LEN)
		count = AW_MESSAGE_LEN;
	asm volatile("" : "+r"(count));
	count = ((count - 1) & (AW_MESSAGE_LEN - 1)) + 1;
	if (bpf_probe_read_user(work->message, count, (void *)(unsigned long)work->text)) {
		AW_PLAIN_COUNT(unreadable, 1);
		return AW_FOUND_ERROR;
	}
	work->cursor.at = 0;
	work->cursor.size = count;
	found = aw_plain_steps(index);
	read = work->cursor.at < count ? work->cursor.at : count;
	work->text += read;
	work->read += read;
	work->left -= read;
	return found ? found : AW_FOUND_MORE;
}

/* Reads to the end of the text, or until something is found. */
AW_GLOBAL int aw_plain_pieces(__u32 index)
{
	for (int i = 0; i < AW_PLAIN_PIECES; i++) {
		int found = aw_plain_piece(index);

		if (found != AW_FOUND_MORE)
			return found;
	}
	return AW_FOUND_ERROR;
}

/* Reads to the next match and takes it. Returns enum aw_action, or AW_FOUND_MORE. */
AW_GLOBAL int aw_plain_stop(__u32 index)
{
	int found = aw_plain_pieces(index);

	if (found != AW_FOUND_MATCH)
		return AW_ACTION_ALLOW;
	return aw_take_plain(index) == AW_ACTION_DENY ? AW_ACTION_DENY : AW_FOUND_MORE;
}

/* Prepares the reading of what the call hands over. Returns how many octets are to be read. */
static __always_inline __u32 aw_open_plain(struct aw_plain_work *work,
					   struct aw_plain_connection *connection,
					   const struct aw_sandbox *sandbox,
					   const struct aw_plain_call *call)
{
	__u32 slot = (sandbox->signatures - 1) & 0xff, start, room = sandbox->depth, way;
	struct aw_signatures *table = bpf_map_lookup_elem(&aw_signatures, &slot);
	__u64 ignored = connection->excepted;

	if (!table || !table->generation)
		return 0;
	way = call->act == AW_PLAIN_SAY ? AW_WAY_OUT : AW_WAY_IN;
	work->way = way;
	work->side = connection->direction == AW_DIRECTION_OUT ? way : !way;
	start = table->starts[AW_TRANSPORT_TCP << 1 | (work->side & 1)];
	if (connection->table != table->generation) {
		connection->table = table->generation;
		connection->state[0] = table->starts[connection->direction == AW_DIRECTION_IN];
		connection->state[1] = table->starts[connection->direction == AW_DIRECTION_OUT];
		connection->reported = connection->judged = 0;
	}
	work->before = connection->position[way];
	work->generation = sandbox->generation;
	work->cursor.table = slot;
	work->cursor.state = work->before ? connection->state[way] : start;
	work->cursor.ignored = connection->reported | ignored |
			       ~(sandbox->blocks | sandbox->alerts | AW_GROUP_HAND_OVER);
	work->cursor.spared = connection->judged | ignored | ~sandbox->blocks;
	work->text = call->text;
	work->read = 0;
	room -= work->before < room ? work->before : room;
	if (room > AW_PLAIN_BURST)
		room = AW_PLAIN_BURST;
	work->left = call->size < room ? call->size : room;
	return work->left;
}

/*
 * Keeps how far was read; of a call that was too long to be read whole the rest is passed over. Looked
 * up again: another thread may have freed the connection meanwhile, and its memory be another's.
 */
static __always_inline void aw_close_plain(struct aw_plain_work *work,
					   const struct aw_sandbox *sandbox, __u64 size)
{
	struct aw_plain_connection *connection =
		bpf_map_lookup_elem(&aw_plain_connections, &work->key);
	__u32 way = work->way & 1;

	if (!connection)
		return;
	connection->state[way] = work->cursor.state;
	connection->position[way] += size > AW_PLAIN_BURST ? AW_PLAIN_BURST : size;
	if ((!work->cursor.state || connection->position[way] >= sandbox->depth) &&
	    (!connection->hands_over || connection->handed[way] >= AW_HANDED_BYTES))
		connection->settled[way] = 1;
}

/* Reads what the thread's call hands over. */
static __always_inline void aw_read_plain(struct aw_plain_connection *connection,
					  const struct aw_plain_key *key,
					  const struct aw_plain_call *call)
{
	struct aw_sandbox *sandbox = aw_sandbox_of(call->sandbox);
	__u64 text = call->text, size = call->size;
	struct aw_plain_work *work;
	int next = AW_FOUND_MORE;
	__u32 index;

	if (!sandbox || !sandbox->plain || !sandbox->signatures || !size)
		return;
	if (sandbox->plain == AW_PLAIN_JOINED && !connection->cookie)
		return;
	index = aw_claim_plain();
	work = aw_plain_work_at(index);
	if (!work) {
		AW_PLAIN_COUNT(lost, 1);
		return;
	}
	work->key = *key;
	if (call->act == AW_PLAIN_SAY && aw_says_again(index, text, size)) {
		aw_release_plain(index);
		return;
	}
	if (aw_open_plain(work, connection, sandbox, call)) {
		for (int i = 0; i < AW_PLAIN_STOPS && next == AW_FOUND_MORE; i++)
			next = aw_plain_stop(index);
		/* Of what is cut off decoders are not asked. */
		if (connection->hands_over && next != AW_ACTION_DENY)
			aw_hand_plain(index, text, size > AW_HANDED_BYTES ? AW_HANDED_BYTES : size);
		aw_tail_plain(index);
		AW_PLAIN_COUNT(octets, work->read);
	}
	aw_close_plain(work, sandbox, size);
	aw_release_plain(index);
}

/* The library frees it. */
static __always_inline void aw_end_connection(const struct aw_plain_key *key)
{
	__u64 sandbox = key->sandbox;
	__s64 *held;

	if (bpf_map_delete_elem(&aw_plain_connections, key))
		return;
	held = bpf_map_lookup_elem(&aw_plain_held, &sandbox);
	if (held)
		__sync_fetch_and_add(held, -1);
}

/* Finds what is known of the connection, or begins to know it. */
static __always_inline struct aw_plain_connection *
aw_connection_of(const struct aw_plain_key *key, const struct aw_plain_call *call)
{
	struct aw_plain_connection *connection, *blank;
	__u32 zero = 0;
	__s64 *held;

	connection = bpf_map_lookup_elem(&aw_plain_connections, key);
	if (connection)
		return connection;
	held = aw_counted_by(&aw_plain_held, call->sandbox);
	if (!held || *held >= AW_PLAIN_MOST)
		return 0;
	blank = bpf_map_lookup_elem(&aw_plain_blank, &zero);
	if (!blank)
		return 0;
	/* Another thread of the process may be first. */
	if (!bpf_map_update_elem(&aw_plain_connections, key, blank, BPF_NOEXIST)) {
		__sync_fetch_and_add(held, 1);
		AW_PLAIN_COUNT(connections, 1);
	}
	connection = bpf_map_lookup_elem(&aw_plain_connections, key);
	if (!connection)
		return 0;
	connection->sandbox = call->sandbox;
	connection->library = call->library;
	return connection;
}

SEC("kprobe")
int aw_plain(void *ctx)
{
	__u64 task = bpf_get_current_task();
	struct aw_plain_call *found = bpf_map_lookup_elem(&aw_plain_calls, &task), copy,
			     *call = &copy;
	struct aw_plain_connection *connection;
	struct aw_plain_key key = {};
	__u32 way;

	/* Others of its sandbox may have had its place since: AW_PLAIN_THREADS, within a microsecond. */
	if (!found) {
		AW_PLAIN_COUNT(lost, 1);
		return 0;
	}
	copy = *found;
	if (call->process != bpf_get_current_pid_tgid() >> 32 || !aw_take_turn(task, found)) {
		AW_PLAIN_COUNT(lost, 1);
		return 0;
	}
	key.sandbox = call->sandbox;
	key.connection = call->connection;
	key.process = call->process;
	if (call->act == AW_PLAIN_END) {
		aw_end_connection(&key);
		return 0;
	}
	connection = aw_connection_of(&key, call);
	if (!connection) {
		AW_PLAIN_COUNT(lost, 1);
		return 0;
	}
	if (call->act == AW_PLAIN_SHAKE)
		return 0;
	way = call->act == AW_PLAIN_SAY ? AW_WAY_OUT : AW_WAY_IN;
	if (way == AW_WAY_OUT)
		aw_carry_inner(connection, &key, call);
	if (!(connection->dead | connection->unread | connection->settled[way]))
		aw_read_plain(connection, &key, call);
	return 0;
}
