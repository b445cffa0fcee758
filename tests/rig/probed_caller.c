// SPDX-License-Identifier: Apache-2.0
/*
 * caller LIBRARY: maps it, says "ready", and calls whatever function a line of stdin names; it says what
 * that returned. Ends with its input.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
	char name[64];

	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	puts("ready");
	fflush(stdout);
	while (fgets(name, sizeof(name), stdin)) {
		int (*call)(int);

		name[strcspn(name, "\n")] = 0;
		call = (int (*)(int))dlsym(library, name);
		printf("%d\n", call ? call(100) : -1);
		fflush(stdout);
	}
	return 0;
}
