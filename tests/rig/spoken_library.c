// SPDX-License-Identifier: Apache-2.0
/*
 * A library with OpenSSL's calls that writes records as TLS has them, and for encryption turns some bits of
 * each octet over: for connections that a real library cannot be brought to at will.
 */
#include <alloca.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEADER	  5
#define MOST	  16384 /* octets of text in a record */
#define HANDSHAKE 22
#define TEXT	  23
#define SECRET	  0xa5
#define HELD	  (1 << 16)
#define FORSAKEN  (-2) /* in place of a descriptor: a read of it never returns */
#define STACK	  (64 << 10)

struct ssl_st {
	int fd; /* below 0: records wait in held until they are taken */
	int shaken;
	size_t size;
	unsigned char held[HELD];
};

static unsigned char hello[4096];
static size_t hello_size;

void spoken_set_hello(const void *octets, size_t size)
{
	memcpy(hello, octets, size);
	hello_size = size;
}

struct ssl_st *spoken_new(int fd)
{
	struct ssl_st *ssl = calloc(1, sizeof(*ssl));

	ssl->fd = fd;
	return ssl;
}

/* As SSL_clear() and SSL_set_fd() are used to connect again. */
void spoken_renew(struct ssl_st *ssl, int fd)
{
	ssl->fd = fd;
	ssl->shaken = 0;
}

size_t spoken_take(struct ssl_st *ssl, void *room)
{
	size_t size = ssl->size;

	memcpy(room, ssl->held, size);
	ssl->size = 0;
	return size;
}

static void put(struct ssl_st *ssl, const unsigned char *octets, size_t size)
{
	if (ssl->fd < 0) {
		memcpy(ssl->held + ssl->size, octets, size);
		ssl->size += size;
		return;
	}
	while (size) {
		ssize_t sent = send(ssl->fd, octets, size, MSG_NOSIGNAL);

		if (sent < 0)
			return;
		octets += sent;
		size -= sent;
	}
}

static void put_record(struct ssl_st *ssl, int type, const unsigned char *text, size_t size,
		       int mask)
{
	unsigned char record[HEADER + MOST] = { type, 3, 3, size >> 8, size & 0xff };

	for (size_t i = 0; i < size; i++)
		record[HEADER + i] = text[i] ^ mask;
	put(ssl, record, HEADER + size);
}

static void shake(struct ssl_st *ssl)
{
	if (!ssl->shaken)
		put_record(ssl, HANDSHAKE, hello, hello_size, 0);
	ssl->shaken = 1;
}

static void say(struct ssl_st *ssl, const unsigned char *text, size_t size)
{
	shake(ssl); /* as SSL_write() does, without a call that is probed */
	for (size_t at = 0; at < size; at += MOST)
		put_record(ssl, TEXT, text + at, size - at < MOST ? size - at : MOST, SECRET);
}

static jmp_buf forsaken;

static int get(struct ssl_st *ssl, unsigned char *room, size_t size)
{
	if (ssl->fd == FORSAKEN)
		longjmp(forsaken, 1);
	return recv(ssl->fd, room, size, MSG_WAITALL) == (ssize_t)size;
}

int SSL_do_handshake(struct ssl_st *ssl)
{
	shake(ssl);
	return 1;
}

int SSL_write(struct ssl_st *ssl, const void *text, int size)
{
	say(ssl, text, size);
	return size;
}

int SSL_write_ex(struct ssl_st *ssl, const void *text, size_t size, size_t *written)
{
	say(ssl, text, size);
	*written = size;
	return 1;
}

int SSL_read(struct ssl_st *ssl, void *text, int room)
{
	unsigned char header[HEADER], *octets = text;
	int size;

	shake(ssl);
	if (!get(ssl, header, HEADER))
		return -1;
	size = header[3] << 8 | header[4];
	if (size > room || !get(ssl, octets, size))
		return -1;
	for (int i = 0; i < size; i++)
		octets[i] ^= SECRET;
	return size;
}

void SSL_free(struct ssl_st *ssl)
{
	/* The next one is to lie at the same place. */
	free(ssl);
}

/* Begins *count* reads, each at another place of the stack, and returns from none of them. */
void spoken_forsake(int count)
{
	struct ssl_st *ssl = spoken_new(FORSAKEN);

	ssl->shaken = 1;
	for (volatile int i = 0; i < count; i++) {
		if (!setjmp(forsaken)) {
			volatile char *deeper = alloca(16 * (i + 1));

			deeper[0] = 0;
			SSL_read(ssl, ssl->held, HELD);
		}
	}
	free(ssl);
}

static pthread_barrier_t gathered;

static void *shake_in_crowd(void *ssl)
{
	SSL_do_handshake(ssl);
	pthread_barrier_wait(&gathered);
	return 0;
}

/* Shakes hands for one connection, which goes nowhere, on *count* threads that are there all at once. */
int spoken_crowd(int count)
{
	struct ssl_st *ssl = spoken_new(-1);
	pthread_t threads[count];
	pthread_attr_t small;
	int failed = 0;

	ssl->shaken = 1;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, STACK);
	pthread_barrier_init(&gathered, 0, count);
	for (int i = 0; i < count && !failed; i++)
		failed = pthread_create(&threads[i], &small, shake_in_crowd, ssl);
	if (failed) /* those that are there wait for ever */
		return failed;
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], 0);
	pthread_barrier_destroy(&gathered);
	free(ssl);
	return 0;
}
