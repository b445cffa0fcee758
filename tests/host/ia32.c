/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes sockets by system calls of the ia32 ABI, and prints what each gave, a line each. Built as a
 * 64-bit and as a 32-bit program, without a C library in both.
 */
#define AF_INET		  2
#define AF_ALG		  38
#define AF_VSOCK	  40
#define NR_EXIT		  1
#define NR_WRITE	  4
#define NR_SOCKETCALL	  102
#define NR_SOCKET	  359
#define NR_SOCKETPAIR	  360
#define NR_IO_URING_SETUP 425

static int call(int number, int b, int c, int d)
{
	int result;

#ifdef __x86_64__
	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(b), "c"(c), "d"(d)
			 : "memory", "r8", "r9", "r10", "r11");
#else
	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(b), "c"(c), "d"(d)
			 : "memory");
#endif
	return result;
}

/* Linked below 4 GiB (-no-pie), so that ia32 calls can take the address of it in 32 bits. */
static int memory[32];
#define ADDRESS ((int)(unsigned long)memory)

static void print(int value)
{
	char *end = (char *)(memory + 31), *at = end;
	unsigned int rest = value < 0 ? -(unsigned int)value : (unsigned int)value;

	*--at = '\n';
	do
		*--at = '0' + rest % 10;
	while (rest /= 10);
	if (value < 0)
		*--at = '-';
	call(NR_WRITE, 1, (int)(unsigned long)at, (int)(end - at));
}

static void set(int family)
{
	memory[0] = family;
	memory[1] = 1; /* SOCK_STREAM */
	memory[2] = 0;
	memory[3] = ADDRESS + 16;
}

void _start(void)
{
	set(AF_VSOCK);
	print(call(NR_SOCKETCALL, 1, ADDRESS, 0)); /* SYS_SOCKET */
	print(call(NR_SOCKETCALL, 8, ADDRESS, 0)); /* SYS_SOCKETPAIR */
	set(AF_INET);
	print(call(NR_SOCKETCALL, 1, ADDRESS, 0));
	print(call(NR_SOCKET, AF_VSOCK, 1, 0));
	print(call(NR_SOCKET, AF_ALG, 5, 0));
	print(call(NR_SOCKETPAIR, AF_VSOCK, 1, 0));
	print(call(NR_IO_URING_SETUP, 4, ADDRESS, 0));
	print(call(NR_SOCKET, AF_INET, 1, 0) < 0);
	call(NR_EXIT, 0, 0, 0);
}
