// SPDX-License-Identifier: Apache-2.0
// curl over GnuTLS, as programs that link Debian's libcurl-gnutls have it: curl_gnutls URL NAME TEXT
// POSTs TEXT as JSON to URL, whose host is called NAME unless that is empty, and prints the answer; exits
// with 1 unless it came, with a code below 400. Declares what it uses itself: the library comes with git,
// its headers exclude those of curl's other builds.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void CURL;
extern CURL *curl_easy_init(void);
extern int curl_easy_setopt(CURL *, int, ...);
extern int curl_easy_perform(CURL *);
extern const char *curl_easy_strerror(int);
extern void *curl_slist_append(void *, const char *);
extern char *curl_version(void);

// Values of curl/curl.h.
enum {
	FAILONERROR = 45,
	POST_FIELD_SIZE = 60,
	SSL_VERIFYPEER = 64,
	SSL_VERIFYHOST = 81,
	URL = 10002,
	POST_FIELDS = 10015,
	HTTPHEADER = 10023,
	CONNECT_TO = 10243,
};

int main(int argc, char **argv)
{
	CURL *curl = curl_easy_init();
	int code;

	if (argc != 4)
		return 2;
	if (!strstr(curl_version(), "GnuTLS")) {
		fprintf(stderr, "curl_gnutls: expected GnuTLS, got %s\n", curl_version());
		return 2;
	}
	if (*argv[2]) {
		// https://ADDRESS:PORT/ is asked for as https://NAME:PORT/, at ADDRESS.
		char *host = strstr(argv[1], "//") + 2, *end = strrchr(argv[1], ':');
		char *url = malloc(strlen(argv[1]) + strlen(argv[2]) + 1);
		char *to = malloc(strlen(argv[1]) + 3);
		sprintf(url, "https://%s%s", argv[2], end);
		sprintf(to, "::%.*s:", (int)(end - host), host);
		curl_easy_setopt(curl, URL, url);
		curl_easy_setopt(curl, CONNECT_TO, curl_slist_append(NULL, to));
	} else {
		curl_easy_setopt(curl, URL, argv[1]);
	}
	curl_easy_setopt(curl, HTTPHEADER,
			 curl_slist_append(NULL, "Content-Type: application/json"));
	curl_easy_setopt(curl, POST_FIELD_SIZE, (long)strlen(argv[3]));
	curl_easy_setopt(curl, POST_FIELDS, argv[3]);
	curl_easy_setopt(curl, SSL_VERIFYPEER, 0L);
	curl_easy_setopt(curl, SSL_VERIFYHOST, 0L);
	curl_easy_setopt(curl, FAILONERROR, 1L);
	code = curl_easy_perform(curl);
	if (code)
		fprintf(stderr, "curl_gnutls: %s\n", curl_easy_strerror(code));
	return code != 0;
}
