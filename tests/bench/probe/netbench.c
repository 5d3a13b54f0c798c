/* The network's figures, from where they count: the same program runs in a sandbox, through the relay, and on the
 * host, straight to the fixture (net.c). Static, since a template may have no C library. Prints one number.
 *
 *   setup ADDR PORT N       p50 of connect, request, first byte of the answer; us
 *   pull ADDR PORT MIB      one stream of so many MiB; us
 *   hold ADDR PORT N        N connections at the same time; how many were not served
 *   dns SERVER NAME N       p50 of an answer; us
 *   deny ADDR PORT N        p50 of a connect(2) that fails; us */

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES_MAX 2000

static double samples[SAMPLES_MAX];

static double now_us(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int print_median(size_t n)
{
	qsort(samples, n, sizeof(samples[0]), compare);
	printf("%.1f\n", samples[n / 2]);
	return 0;
}

static int fail(const char *what)
{
	fprintf(stderr, "netbench: %s: %s\n", what, strerror(errno));
	return 1;
}

static struct sockaddr_in address(const char *ip, const char *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)strtoul(port, NULL, 10)) };

	(void)inet_pton(AF_INET, ip, &a.sin_addr);
	return a;
}

static size_t request(char *buf, size_t cap, unsigned long long bytes)
{
	return (size_t)snprintf(buf, cap, "GET /%llu HTTP/1.1\r\nHost: deb.debian.org\r\n\r\n", bytes);
}

static int setup(const struct sockaddr_in *a, size_t n)
{
	char q[128], byte;
	size_t len = request(q, sizeof(q), 1);

	for (size_t i = 0; i < n; i++) {
		double start = now_us();
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		if (connect(fd, (const void *)a, sizeof(*a)) < 0 || write(fd, q, len) != (ssize_t)len ||
		    read(fd, &byte, 1) != 1)
			return fail("setup");
		samples[i] = now_us() - start;
		(void)close(fd);
	}
	return print_median(n);
}

static int pull(const struct sockaddr_in *a, unsigned long long mib)
{
	static char buf[1 << 20];
	unsigned long long left = mib << 20;
	char q[128];
	size_t len = request(q, sizeof(q), left);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	double start = now_us();
	ssize_t n;

	if (connect(fd, (const void *)a, sizeof(*a)) < 0 || write(fd, q, len) != (ssize_t)len)
		return fail("pull");
	while (left > 0 && (n = read(fd, buf, sizeof(buf))) > 0)
		left -= (unsigned long long)n;
	if (left > 0)
		return fail("pull");
	printf("%.1f\n", now_us() - start);
	return 0;
}

static int hold(const struct sockaddr_in *a, size_t n)
{
	static struct pollfd p[SAMPLES_MAX];
	const struct rlimit files = { 4096, 4096 };
	char q[128], byte;
	size_t len = request(q, sizeof(q), 1), served = 0, open = 0;

	(void)setrlimit(RLIMIT_NOFILE, &files);
	for (size_t i = 0; i < n; i++) {
		p[i].fd = socket(AF_INET, SOCK_STREAM, 0);
		p[i].events = POLLIN;
		if (p[i].fd >= 0 && connect(p[i].fd, (const void *)a, sizeof(*a)) == 0 &&
		    write(p[i].fd, q, len) == (ssize_t)len)
			open++;
	}
	/* All are open by now; none is closed before the last one was served. */
	for (size_t i = 0; i < n; i++)
		if (p[i].fd >= 0 && poll(&p[i], 1, 10000) == 1 && read(p[i].fd, &byte, 1) == 1)
			served++;
	for (size_t i = 0; i < n; i++)
		served -= p[i].fd >= 0 && poll(&p[i], 1, 0) == 1; /* closed meanwhile */
	printf("%zu\n", n - (served < open ? served : open));
	return 0;
}

static size_t question(const char *name, uint16_t id, uint8_t *out)
{
	size_t at = 12;

	memset(out, 0, 12);
	out[0] = (uint8_t)(id >> 8);
	out[1] = (uint8_t)id;
	out[2] = out[5] = 1;
	while (*name) {
		size_t n = strcspn(name, ".");

		out[at++] = (uint8_t)n;
		memcpy(out + at, name, n);
		at += n;
		name += n + (name[n] == '.');
	}
	memcpy(out + at, "\0\0\1\0\1", 5);
	return at + 5;
}

static int dns(const struct sockaddr_in *a, const char *name, size_t n)
{
	uint8_t q[300], in[1500];

	for (size_t i = 0; i <= n; i++) { /* the first one fills the cache */
		double start = now_us();
		int fd = socket(AF_INET, SOCK_DGRAM, 0);
		size_t len = question(name, (uint16_t)i, q);
		struct pollfd p = { .fd = fd, .events = POLLIN };

		if (connect(fd, (const void *)a, sizeof(*a)) < 0 || send(fd, q, len, 0) < 0 || poll(&p, 1, 5000) != 1 ||
		    recv(fd, in, sizeof(in), 0) < 12 || (in[3] & 15) != 0 || in[7] == 0)
			return fail("dns");
		samples[i > 0 ? i - 1 : 0] = now_us() - start;
		(void)close(fd);
		(void)nanosleep(&(struct timespec){ .tv_nsec = 1500000 }, NULL); /* a sandbox may ask 1,000 a second */
	}
	return print_median(n);
}

static int deny(const struct sockaddr_in *a, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		double start = now_us();
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		if (connect(fd, (const void *)a, sizeof(*a)) == 0)
			return fail("it was let through");
		samples[i] = now_us() - start;
		(void)close(fd);
	}
	return print_median(n);
}

int main(int argc, char **argv)
{
	struct sockaddr_in a;
	size_t n;

	if (argc != 5)
		return 2;
	n = strtoul(argv[4], NULL, 10);
	if (n == 0 || n >= SAMPLES_MAX)
		return 2;
	a = address(argv[2], strcmp(argv[1], "dns") == 0 ? "53" : argv[3]);
	if (strcmp(argv[1], "setup") == 0)
		return setup(&a, n);
	if (strcmp(argv[1], "pull") == 0)
		return pull(&a, n);
	if (strcmp(argv[1], "hold") == 0)
		return hold(&a, n);
	if (strcmp(argv[1], "dns") == 0)
		return dns(&a, argv[3], n);
	return strcmp(argv[1], "deny") == 0 ? deny(&a, n) : 2;
}
