// SPDX-License-Identifier: Apache-2.0
// A client of OpenSSL, in the ways that programs use it:
//   tls_speak MODE HOST PORT UNTIL PIECES NAME TEXT
//   plain        SSL_write and SSL_read on a blocking socket
//   ex           SSL_write_ex and SSL_read_ex
//   nonblocking  as plain, the socket never blocks
//   threads      one thread writes while another reads; neither made the connection
//   handoff      a thread encrypts into memory, another one sends what came out
//   nested       a TLS session inside another, to a server of both
//   chained      the same, but OpenSSL itself hands what the inner one says to the outer one
// HOST is an address, NAME what to ask for in the handshake (may be empty). TEXT is sent in PIECES
// writes. What comes back goes to stdout; exit 0 once UNTIL was in it, 1 if the connection ends before.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

static const char *mode, *text, *until;
static long pieces;
static int fd;
static SSL *lower; // nested: the outer session
static SSL *top; // what TEXT goes through
static int pumped; // top reads and writes memory, which pump_in and pump_out connect
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int is(const char *name)
{
	return strcmp(mode, name) == 0;
}

static void die(const char *what)
{
	fprintf(stderr, "tls_speak: %s\n", what);
	ERR_print_errors_fp(stderr);
	exit(1);
}

static void pump_out(void)
{
	char bytes[20000];
	int size;

	while ((size = BIO_read(SSL_get_wbio(top), bytes, sizeof(bytes))) > 0) {
		long sent = lower ? SSL_write(lower, bytes, size) :
				    send(fd, bytes, size, MSG_NOSIGNAL);
		if (sent != size)
			die("could not send");
	}
}

static void pump_in(void)
{
	char bytes[20000];
	long size = lower ? SSL_read(lower, bytes, sizeof(bytes)) :
			    recv(fd, bytes, sizeof(bytes), 0);

	if (size <= 0)
		die("the connection ended");
	BIO_write(SSL_get_rbio(top), bytes, size);
}

// After a call that returned result: 1 if it is done, 0 if it is to be made again.
static int settle(SSL *ssl, int result)
{
	int error = SSL_get_error(ssl, result);
	struct pollfd ready = { .fd = fd,
				.events = error == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN };

	if (pumped && ssl == top)
		pump_out();
	if (result > 0)
		return 1;
	if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE)
		die("the connection ended");
	if (pumped && ssl == top) {
		pump_in();
		return 0;
	}
	if (is("threads"))
		pthread_mutex_unlock(&lock);
	poll(&ready, 1, -1);
	if (is("threads"))
		pthread_mutex_lock(&lock);
	return 0;
}

struct chunk {
	const char *at;
	int size;
	int result;
};

static void *encrypt(void *argument)
{
	struct chunk *chunk = argument;
	size_t written = 0;

	if (is("ex"))
		chunk->result = SSL_write_ex(top, chunk->at, chunk->size, &written);
	else
		chunk->result = SSL_write(top, chunk->at, chunk->size);
	return NULL;
}

static void write_chunk(struct chunk *chunk)
{
	pthread_t thread;

	if (is("threads"))
		pthread_mutex_lock(&lock);
	do {
		if (is("handoff")) {
			pthread_create(&thread, NULL, encrypt, chunk);
			pthread_join(thread, NULL);
		} else {
			encrypt(chunk);
		}
	} while (!settle(top, chunk->result));
	if (is("threads"))
		pthread_mutex_unlock(&lock);
}

static void *write_text(void *unused)
{
	long size = strlen(text), done = 0;

	for (long i = 1; i <= pieces; i++) {
		struct chunk chunk = { .at = text + done, .size = size * i / pieces - done };
		if (chunk.size > 0)
			write_chunk(&chunk);
		done = size * i / pieces;
	}
	return unused;
}

static int read_some(char *to, int room)
{
	size_t size = 0;
	int result;

	if (is("threads"))
		pthread_mutex_lock(&lock);
	do {
		result = is("ex") ? SSL_read_ex(top, to, room, &size) : SSL_read(top, to, room);
	} while (!settle(top, result));
	if (is("threads"))
		pthread_mutex_unlock(&lock);
	return is("ex") ? (int)size : result;
}

static void *read_answers(void *unused)
{
	static char answers[1 << 20];
	size_t size = 0;

	while (!memmem(answers, size, until, strlen(until))) {
		int got = read_some(answers + size, sizeof(answers) - size);
		fwrite(answers + size, 1, got, stdout);
		fflush(stdout);
		size += got;
	}
	return unused;
}

static void connect_to(const char *host, const char *port)
{
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons(atoi(port)) };
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
	int is_six = inet_pton(AF_INET6, host, &six.sin6_addr) == 1;

	inet_pton(AF_INET, host, &four.sin_addr);
	fd = socket(is_six ? AF_INET6 : AF_INET, SOCK_STREAM, 0);
	if (connect(fd, is_six ? (void *)&six : (void *)&four,
		    is_six ? sizeof(six) : sizeof(four)) != 0)
		die("could not connect");
}

static SSL *session(SSL_CTX *context, const char *name)
{
	SSL *ssl = SSL_new(context);

	SSL_set_connect_state(ssl);
	if (*name)
		SSL_set_tlsext_host_name(ssl, name);
	return ssl;
}

static void shake(SSL *ssl)
{
	int result;

	if (is("threads"))
		pthread_mutex_lock(&lock);
	do {
		result = SSL_do_handshake(ssl);
	} while (!settle(ssl, result));
	if (is("threads"))
		pthread_mutex_unlock(&lock);
}

static BIO *through(SSL *outer)
{
	BIO *bio = BIO_new(BIO_f_ssl());

	BIO_set_ssl(bio, outer, BIO_NOCLOSE);
	return bio;
}

static void open_sessions(const char *name)
{
	SSL_CTX *context = SSL_CTX_new(TLS_client_method());
	BIO *bio;

	if (is("nonblocking") || is("threads"))
		fcntl(fd, F_SETFL, O_NONBLOCK);
	pumped = is("handoff") || is("nested");
	if (is("nested") || is("chained")) {
		lower = session(context, name);
		SSL_set_fd(lower, fd);
		shake(lower);
	}
	top = session(context, name);
	if (pumped) {
		SSL_set_bio(top, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
	} else if (lower) {
		bio = through(lower);
		SSL_set_bio(top, bio, bio);
	} else {
		SSL_set_fd(top, fd);
	}
	shake(top);
}

int main(int argc, char **argv)
{
	pthread_t reader, writer;

	if (argc != 8)
		return 2;
	mode = argv[1];
	until = argv[4];
	pieces = atol(argv[5]);
	text = argv[7];
	connect_to(argv[2], argv[3]);
	open_sessions(argv[6]);
	if (is("threads")) {
		pthread_create(&reader, NULL, read_answers, NULL);
		pthread_create(&writer, NULL, write_text, NULL);
		pthread_join(writer, NULL);
		pthread_join(reader, NULL);
	} else {
		write_text(NULL);
		read_answers(NULL);
	}
	return 0;
}
