/* SPDX-License-Identifier: Apache-2.0 */
/* Says and hears a word by each way that OpenSSL has, over memory and with a key that both know. */
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <string.h>

static unsigned int own_key(SSL *ssl, const char *hint, char *name, unsigned int name_size,
			    unsigned char *key, unsigned int size)
{
	(void)ssl, (void)hint, (void)size;
	strncpy(name, "test", name_size);
	memset(key, 7, 16);
	return 16;
}

static unsigned int their_key(SSL *ssl, const char *name, unsigned char *key, unsigned int size)
{
	(void)ssl, (void)name, (void)size;
	memset(key, 7, 16);
	return 16;
}

static SSL *end_of(const SSL_METHOD *method, BIO *memory)
{
	SSL_CTX *context = SSL_CTX_new(method);
	SSL *ssl;

	SSL_CTX_set_max_proto_version(context, TLS1_2_VERSION);
	SSL_CTX_set_cipher_list(context, "PSK-AES128-CBC-SHA@SECLEVEL=0");
	SSL_CTX_set_psk_client_callback(context, own_key);
	SSL_CTX_set_psk_server_callback(context, their_key);
	ssl = SSL_new(context);
	SSL_set_bio(ssl, memory, memory);
	return ssl;
}

int main(void)
{
	BIO *one, *other, *through = BIO_new(BIO_f_ssl()), *from = BIO_new(BIO_f_ssl());
	SSL *client, *server;
	size_t size = 0;
	char got[64];

	BIO_new_bio_pair(&one, 1 << 16, &other, 1 << 16);
	client = end_of(TLS_client_method(), one);
	server = end_of(TLS_server_method(), other);
	SSL_set_connect_state(client);
	SSL_set_accept_state(server);
	for (int i = 0; i < 8; i++) {
		SSL_do_handshake(client);
		SSL_do_handshake(server);
	}
	ERR_clear_error();
	BIO_set_ssl(through, client, BIO_NOCLOSE);
	BIO_set_ssl(from, server, BIO_NOCLOSE);
	if (SSL_write(client, "plain", 5) != 5 || SSL_read(server, got, sizeof(got)) != 5)
		return 1;
	if (SSL_write_ex(client, "extended", 8, &size) != 1 || size != 8 ||
	    SSL_read_ex(server, got, sizeof(got), &size) != 1 || size != 8)
		return 2;
	if (BIO_write(through, "through", 7) != 7 || BIO_read(from, got, sizeof(got)) != 7)
		return 3;
	/* There is nothing more: neither a text nor a size. */
	return SSL_read(server, got, sizeof(got)) > 0 ? 4 : 0;
}
