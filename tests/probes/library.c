// SPDX-License-Identifier: Apache-2.0
/*
 * A library with the functions of OpenSSL, GnuTLS and NSS that are probed, which encrypt nothing: for
 * calls that a real library cannot be brought to at will. Where a real one calls another function that
 * is probed, so does this one.
 */
#include <stddef.h>
#include <string.h>
#include <sys/types.h>

#define OUTER	(void *)0x2000 /* a connection whose octets come through INNER */
#define INNER	(void *)0x3000
#define COMING	"what the peer said"
#define WRAPPED "what came for the inner connection"

/* What the function got, so that no call of it is optimised away. */
volatile size_t got;

int SSL_write(void *ssl, const void *text, int size)
{
	got += size + (size_t)text + (size_t)ssl;
	return size;
}

int SSL_write_ex(void *ssl, const void *text, size_t size, size_t *written)
{
	got -= size + (size_t)text + (size_t)ssl;
	*written = size;
	return 1;
}

int SSL_read(void *ssl, void *text, int room)
{
	const char *coming = ssl == INNER ? WRAPPED : COMING;
	char wrapped[64];

	if (room < (int)strlen(coming))
		return -1;
	if (ssl == OUTER && SSL_read(INNER, wrapped, sizeof(wrapped)) < 0)
		return -1;
	memcpy(text, coming, strlen(coming));
	return strlen(coming);
}

int SSL_read_ex(void *ssl, void *text, size_t room, size_t *size)
{
	got += (size_t)ssl;
	if (room < strlen(COMING))
		return 0; /* and *size is as it was */
	memcpy(text, COMING, strlen(COMING));
	*size = strlen(COMING);
	return 1;
}

int SSL_do_handshake(void *ssl)
{
	got ^= (size_t)ssl;
	return 1;
}

int SSL_connect(void *ssl)
{
	return SSL_do_handshake(ssl);
}

void SSL_free(void *ssl)
{
	got |= (size_t)ssl;
}

ssize_t gnutls_record_send2(void *session, const void *text, size_t size, size_t pad,
			    unsigned flags)
{
	got += size + (size_t)text + (size_t)session + pad + flags;
	return size;
}

ssize_t gnutls_record_send(void *session, const void *text, size_t size)
{
	return gnutls_record_send2(session, text, size, 0, 0);
}

ssize_t gnutls_record_recv(void *session, void *text, size_t room)
{
	got -= (size_t)session;
	if (room < strlen(COMING))
		return -28; /* GNUTLS_E_AGAIN */
	memcpy(text, COMING, strlen(COMING));
	return strlen(COMING);
}

int gnutls_handshake(void *session)
{
	got *= (size_t)session;
	return 0;
}

void gnutls_deinit(void *session)
{
	got &= (size_t)session;
}

void *SSL_ImportFD(void *model, void *descriptor)
{
	got += (size_t)model;
	return descriptor;
}

int PR_Write(void *descriptor, const void *text, int size)
{
	got += size + (size_t)text + (size_t)descriptor;
	return size;
}

int PR_Read(void *descriptor, void *text, int room)
{
	got += (size_t)descriptor;
	if (room < (int)strlen(COMING))
		return 0;
	memcpy(text, COMING, strlen(COMING));
	return strlen(COMING);
}

int PR_Close(void *descriptor)
{
	got -= (size_t)descriptor;
	return 0;
}
