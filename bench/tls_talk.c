/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two ends of what is timed inside TLS.
 *
 *   tls_talk serve PORT CERTIFICATE KEY   one client after another: a line says what it wants,
 *                                         "D N" N octets, "U N" to send as many, "P N" each N octets
 *                                         back; of anything else, a line on stdout: how many octets
 *   tls_talk ping ADDRESS PORT COUNT SIZE ns of one message there and back
 *   tls_talk calls COUNT SIZE FILL        ns of SSL_write and of SSL_read, over memory; FILL is
 *                                         lines (of HTTP, which is read) or zeros (settled)
 *   tls_talk mine ADDRESS PORT COUNT      a miner's first line on COUNT connections, on a line each:
 *                                         CLOCK_BOOTTIME in ns before SSL_write, and at the error
 */
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define RECORD 16384
/* Writes of one connection under `calls`: fewer octets than the depth to which text is read. */
#define A_DEPTH 49152

static const char mining[] =
	"{\"id\": 1, \"method\": \"mining.subscribe\", \"params\": [\"cgminer/4.12\"]}\n";
/* Of a head that has no end: all of HTTP is read, and nothing of this is handed over. */
static const char line[] = "X-Trace: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
static const char request[] = "POST /v1/events HTTP/1.1\r\n";
static char room[RECORD];

static uint64_t now_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static void fill(const char *with)
{
	if (!strcmp(with, "zeros"))
		return;
	for (size_t i = 0; i < sizeof(room); i++)
		room[i] = line[i % (sizeof(line) - 1)];
}

static struct sockaddr_in address_of(const char *address, const char *port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };

	if (inet_pton(AF_INET, address, &to.sin_addr) != 1)
		errx(2, "%s: expected an IPv4 address", address);
	return to;
}

static SSL *dial(SSL_CTX *context, const struct sockaddr_in *to)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
	SSL *ssl = SSL_new(context);

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	if (connect(fd, (const struct sockaddr *)to, sizeof(*to)))
		err(1, "connect");
	SSL_set_fd(ssl, fd);
	if (SSL_connect(ssl) != 1)
		errx(1, "SSL_connect: no handshake");
	return ssl;
}

static void hang_up(SSL *ssl)
{
	close(SSL_get_fd(ssl));
	SSL_free(ssl);
}

static void write_all(SSL *ssl, uint64_t left)
{
	while (left) {
		int size = left < RECORD ? left : RECORD;

		if (SSL_write(ssl, room, size) != size)
			return;
		left -= size;
	}
}

static int read_all(SSL *ssl, char *to, uint64_t left)
{
	while (left) {
		int got = SSL_read(ssl, to, left < RECORD ? left : RECORD);

		if (got <= 0)
			return 0;
		left -= got;
	}
	return 1;
}

static void answer(SSL *ssl)
{
	static char text[RECORD], message[RECORD];
	uint64_t octets = 0, size, heard = 0;
	char what = 0, *end = 0;

	while (!end && heard < sizeof(text) - 1) {
		int got = SSL_read(ssl, text + heard, sizeof(text) - 1 - heard);

		if (got <= 0)
			break;
		heard += got;
		end = memchr(text, '\n', heard);
	}
	if (!end || sscanf(text, "%c %lu", &what, &octets) != 2 || !strchr("DUP", what)) {
		printf("%lu\n", heard);
		return;
	}
	size = heard - (end + 1 - text);
	if (what == 'D') {
		write_all(ssl, octets);
	} else if (what == 'U') {
		if (read_all(ssl, message, octets - size))
			SSL_write(ssl, "done\n", 5);
	} else {
		while (octets <= sizeof(message) && read_all(ssl, message, octets))
			SSL_write(ssl, message, octets);
	}
	SSL_shutdown(ssl);
}

static void serve(const char *port, const char *certificate, const char *key)
{
	SSL_CTX *context = SSL_CTX_new(TLS_server_method());
	struct sockaddr_in own = address_of("0.0.0.0", port);
	int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;

	fill("lines");
	if (SSL_CTX_use_certificate_chain_file(context, certificate) != 1 ||
	    SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1)
		errx(2, "%s: expected a certificate and its key", certificate);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(listener, (struct sockaddr *)&own, sizeof(own)) || listen(listener, 64))
		err(1, "listen");
	for (;;) {
		int fd = accept(listener, 0, 0);
		SSL *ssl = SSL_new(context);

		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
		SSL_set_fd(ssl, fd);
		if (SSL_accept(ssl) == 1)
			answer(ssl);
		SSL_free(ssl);
		close(fd);
		fflush(stdout);
	}
}

static void ping(const struct sockaddr_in *to, int count, int size)
{
	SSL *ssl = dial(SSL_CTX_new(TLS_client_method()), to);
	char what[32];
	uint64_t begun = 0;

	snprintf(what, sizeof(what), "P %d\n", size);
	SSL_write(ssl, what, strlen(what));
	fill("lines");
	for (int i = -count / 10; i < count; i++) {
		if (!i)
			begun = now_ns(CLOCK_MONOTONIC);
		if (SSL_write(ssl, room, size) != size || !read_all(ssl, room, size))
			errx(1, "ping: no answer");
	}
	printf("%.1f\n", (double)(now_ns(CLOCK_MONOTONIC) - begun) / count);
	hang_up(ssl);
}

/* Both ends of a connection over memory. */
static void couple(SSL_CTX *client, SSL_CTX *server, SSL *ends[2])
{
	BIO *one, *other;

	if (BIO_new_bio_pair(&one, 1 << 20, &other, 1 << 20) != 1)
		errx(1, "BIO_new_bio_pair: no memory");
	ends[0] = SSL_new(client);
	ends[1] = SSL_new(server);
	SSL_set_bio(ends[0], one, one);
	SSL_set_bio(ends[1], other, other);
	SSL_set_connect_state(ends[0]);
	SSL_set_accept_state(ends[1]);
	for (int i = 0; i < 8; i++)
		for (int end = 0; end < 2; end++)
			SSL_do_handshake(ends[end]);
	if (!SSL_is_init_finished(ends[0]) || !SSL_is_init_finished(ends[1]))
		errx(1, "calls: no handshake");
}

static unsigned int own_key(SSL *ssl, const char *hint, char *name, unsigned int name_size,
			    unsigned char *key, unsigned int size)
{
	(void)ssl, (void)hint;
	snprintf(name, name_size, "bench");
	memset(key, 7, size < 32 ? size : 32);
	return size < 32 ? size : 32;
}

static unsigned int their_key(SSL *ssl, const char *name, unsigned char *key, unsigned int size)
{
	(void)ssl, (void)name;
	memset(key, 7, size < 32 ? size : 32);
	return size < 32 ? size : 32;
}

/* Keys that both know: handshakes are not timed here. */
static SSL_CTX *acquainted(const SSL_METHOD *method)
{
	SSL_CTX *context = SSL_CTX_new(method);

	SSL_CTX_set_max_proto_version(context, TLS1_2_VERSION);
	if (SSL_CTX_set_cipher_list(context, "PSK-AES256-GCM-SHA384") != 1)
		errx(2, "calls: no cipher of keys that both know");
	SSL_CTX_set_psk_client_callback(context, own_key);
	SSL_CTX_set_psk_server_callback(context, their_key);
	return context;
}

/* One call a clock reading would time the clock; so many of them in a row. */
static void calls(int count, int size, const char *with)
{
	SSL_CTX *client = acquainted(TLS_client_method()),
		*server = acquainted(TLS_server_method());
	uint64_t written = 0, read = 0, begun;
	const char *first = strcmp(with, "zeros") ? request : "\1\1\1\1";
	int a_connection = A_DEPTH / size, done = 0;
	char got[RECORD];

	fill(with);
	while (done < count) {
		SSL *ends[2];

		couple(client, server, ends);
		SSL_write(ends[0], first, strlen(first));
		SSL_read(ends[1], got, sizeof(got));
		for (int left = a_connection; left > 0; left -= 16) {
			begun = now_ns(CLOCK_THREAD_CPUTIME_ID);
			for (int i = 0; i < 16; i++)
				if (SSL_write(ends[0], room, size) != size)
					errx(1, "SSL_write: no room");
			written += now_ns(CLOCK_THREAD_CPUTIME_ID) - begun;
			begun = now_ns(CLOCK_THREAD_CPUTIME_ID);
			for (int i = 0; i < 16; i++)
				if (SSL_read(ends[1], got, size) != size)
					errx(1, "SSL_read: nothing there");
			read += now_ns(CLOCK_THREAD_CPUTIME_ID) - begun;
			done += 16;
		}
		SSL_free(ends[0]);
		SSL_free(ends[1]);
	}
	printf("%.1f %.1f\n", (double)written / done, (double)read / done);
}

static void mine(const struct sockaddr_in *to, int count)
{
	SSL_CTX *context = SSL_CTX_new(TLS_client_method());

	for (int i = 0; i < count; i++) {
		SSL *ssl = dial(context, to);
		uint64_t begun = now_ns(CLOCK_BOOTTIME);
		char got[64];

		SSL_write(ssl, mining, sizeof(mining) - 1);
		while (SSL_read(ssl, got, sizeof(got)) > 0)
			;
		printf("%lu %lu\n", begun, now_ns(CLOCK_BOOTTIME));
		hang_up(ssl);
	}
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	struct sockaddr_in to;

	signal(SIGPIPE, SIG_IGN);
	if (!strcmp(what, "serve") && argc == 5) {
		serve(argv[2], argv[3], argv[4]);
		return 0;
	}
	if (!strcmp(what, "calls") && argc == 5) {
		calls(atoi(argv[2]), atoi(argv[3]), argv[4]);
		return 0;
	}
	if (argc < 5)
		errx(2, "expected serve, ping, calls or mine, and what they take");
	to = address_of(argv[2], argv[3]);
	if (!strcmp(what, "ping") && argc == 6)
		ping(&to, atoi(argv[4]), atoi(argv[5]));
	else if (!strcmp(what, "mine") && argc == 5)
		mine(&to, atoi(argv[4]));
	else
		errx(2, "%s: expected other arguments", what);
	return 0;
}
