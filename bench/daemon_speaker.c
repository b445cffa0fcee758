/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Enters a sandbox, maps libssl and begins a TLS session, and stays.
 *
 *   daemon_speaker CGROUP PORT before|after   maps libssl before SIGUSR1 or after it, then says a
 *                                             ClientHello to 127.0.0.1 PORT, and sleeps
 *
 * Not linked with libssl, so that it can be in its cgroup before.
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <err.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void *need(void *library, const char *name)
{
	void *found = dlsym(library, name);

	if (!found)
		errx(1, "%s: expected it in libssl", name);
	return found;
}

static void *map(void)
{
	void *library = dlopen("libssl.so.3", RTLD_NOW);

	if (!library)
		errx(1, "%s", dlerror());
	return library;
}

static void join(const char *cgroup)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "0", 1) != 1)
		err(1, "%s", path);
	close(fd);
}

static void greet(void *library, const char *port)
{
	void *(*method)(void) = need(library, "TLS_client_method");
	void *(*context_of)(void *) = need(library, "SSL_CTX_new");
	void *(*session_of)(void *) = need(library, "SSL_new");
	int (*set_fd)(void *, int) = need(library, "SSL_set_fd");
	int (*shake)(void *) = need(library, "SSL_connect");
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(port)) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	void *session = session_of(context_of(method()));

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (!session || connect(fd, (struct sockaddr *)&to, sizeof(to)))
		err(1, "connect");
	/* What answers is no server of TLS: the ClientHello is what it is about. */
	set_fd(session, fd);
	shake(session);
	close(fd);
}

int main(int argc, char **argv)
{
	void *library = NULL;
	sigset_t awaited;
	int number;

	if (argc != 4)
		errx(2, "expected CGROUP PORT before|after");
	sigemptyset(&awaited);
	sigaddset(&awaited, SIGUSR1);
	sigprocmask(SIG_BLOCK, &awaited, NULL);
	if (!strcmp(argv[3], "before"))
		library = map();
	/* Being in the sandbox says that it is ready. */
	join(argv[1]);
	sigwait(&awaited, &number);
	if (!library)
		library = map();
	greet(library, argv[2]);
	for (;;)
		pause();
}
