// SPDX-License-Identifier: Apache-2.0
/* A library with the names of OpenSSL's calls; each does a little, so that it has a body of its own. */
static volatile int state;

#define CALL(name, number)             \
	int name(int given)            \
	{                              \
		state += number;       \
		return given + number; \
	}

CALL(SSL_write, 1)
CALL(SSL_write_ex, 2)
CALL(SSL_read, 3)
CALL(SSL_read_ex, 4)
CALL(SSL_do_handshake, 5)
CALL(SSL_free, 6)
