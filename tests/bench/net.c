#include "tests/bench/net.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "tests/bench/bench.h"

#define ROUNDS 7
#define PROBE "/tmp/netbench"
#define RESOLVER "100.100.100.53"
#define MAPPED "198.18.0.1" /* the first mapped name's address (netpolicy/egress_map.c) */

/* What the program printed: on the host ... */
static int probe_host(const struct bench *b, const char *verb, const char *n, double *ret, struct err *e)
{
	char port[8], text[64] = "";
	int out[2], status;
	ssize_t k;
	pid_t pid;

	(void)snprintf(port, sizeof(port), "%u", b->world.port);
	if (pipe2(out, O_CLOEXEC) < 0)
		return err_errno(e, errno, "pipe");
	pid = fork();
	if (pid == 0) {
		(void)dup2(out[1], STDOUT_FILENO);
		(void)execl(b->netbench, b->netbench, verb, "127.0.0.1", port, n, (char *)NULL);
		_exit(127);
	}
	(void)close(out[1]);
	k = fd_read_all(out[0], text, sizeof(text) - 1);
	(void)close(out[0]);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0 || k <= 0)
		return err_set(e, ERR_IO, EIO, NULL, "netbench %s failed on the host", verb);
	*ret = strtod(text, NULL);
	return 0;
}

/* ... and in the sandbox. A command that was refused something and fails is 403; one that does not is 200. */
static int probe_inside(struct bench *b, const char *verb, const char *addr, const char *what, const char *n,
			double *ret, struct err *e)
{
	char path[128], body[512];
	const char *text;
	int r;

	(void)snprintf(path, sizeof(path), "/v1/sandboxes/%s/exec", b->net_id);
	(void)snprintf(body, sizeof(body), "{\"command\":[\"" PROBE "\",\"%s\",\"%s\",\"%s\",\"%s\"]}", verb, addr,
		       what, n);
	r = bench_call(&b->api, "POST", path, body, 200, e);
	if (r < 0)
		return r;
	text = strstr(b->api.body, "\"stdout\":");
	if (!text || !strstr(b->api.body, "\"exit_code\":0"))
		return err_set(e, ERR_IO, EIO, NULL, "netbench %s failed in the sandbox: %.200s", verb, b->api.body);
	*ret = strtod(text + 9 + strspn(text + 9, " \""), NULL);
	return 0;
}

static int upload(struct bench *b, struct err *e)
{
	_cleanup_close_ int fd = open(b->netbench, O_RDONLY | O_CLOEXEC);
	char path[160];
	struct stat st;
	void *p;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, errno, "%s", b->netbench);
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (p == MAP_FAILED)
		return err_errno(e, errno, "%s", b->netbench);
	(void)snprintf(path, sizeof(path), "/v1/sandboxes/%s/files?path=" PROBE "&mode=0755", b->net_id);
	r = client_head(&b->api, "PUT", path, "Content-Type: application/octet-stream\r\n", (uint64_t)st.st_size, e);
	if (r >= 0 && (r = fd_write_all(b->api.fd, p, (size_t)st.st_size)) < 0)
		r = err_errno(e, -r, "can't send netbench");
	(void)munmap(p, (size_t)st.st_size);
	if (r >= 0)
		r = client_answer(&b->api, e);
	if (r >= 0 && b->api.status / 100 != 2)
		r = err_set(e, ERR_IO, EPROTO, NULL, "the upload answered %d: %.200s", b->api.status, b->api.body);
	return r;
}

/* Direct and relayed turn by turn. */
static int pairs(struct bench *b, const char *verb, const char *n, enum series direct, enum series relayed,
		 struct err *e)
{
	double us;
	int r = 0;

	for (int i = 0; i <= ROUNDS && r >= 0; i++) {
		r = probe_host(b, verb, n, &us, e);
		if (r >= 0 && i > 0)
			samples_add(&b->s[direct], us);
		if (r >= 0)
			r = probe_inside(b, verb, MAPPED, "80", n, &us, e);
		if (r >= 0 && i > 0)
			samples_add(&b->s[relayed], us);
	}
	return r;
}

static int alone(struct bench *b, const char *verb, const char *addr, const char *what, enum series s, struct err *e)
{
	double us;
	int r = 0;

	for (int i = 0; i < ROUNDS && r >= 0; i++) {
		r = probe_inside(b, verb, addr, what, "60", &us, e);
		if (r >= 0)
			samples_add(&b->s[s], us);
	}
	return r;
}

static int measure(struct bench *b, struct err *e)
{
	double failed;
	int r = upload(b, e);

	/* Only an address that was given for a name may be used. */
	if (r >= 0)
		r = probe_inside(b, "dns", RESOLVER, "deb.debian.org", "1", &failed, e);
	if (r >= 0)
		r = pairs(b, "setup", "50", S_NET_SETUP_DIRECT, S_NET_SETUP, e);
	if (r >= 0)
		r = pairs(b, "pull", "256", S_NET_PULL_DIRECT, S_NET_PULL, e);
	if (r >= 0)
		r = alone(b, "deny", "203.0.113.9", "443", S_NET_DENY, e);
	if (r >= 0 && b->world.own_names)
		r = alone(b, "dns", RESOLVER, "pypi.org", S_NET_DNS, e);
	else
		(void)snprintf(b->absent[S_NET_DNS], sizeof(b->absent[0]), "%s", b->world.no_names.msg);
	if (r >= 0)
		r = probe_inside(b, "hold", MAPPED, "80", "1000", &failed, e);
	b->net_failed = r >= 0 ? failed : -1;
	return r;
}

static void add_figures(struct bench *b)
{
	bool setup = b->s[S_NET_SETUP].n > 0 && b->s[S_NET_SETUP_DIRECT].n > 0;

	bench_figure(b, "create restricted / create off", "x", bench_ratio(b, S_CREATE_NET, S_CREATE), 1.5, false);
	bench_figure(b, "connection set-up, relayed - direct", "ms",
		     setup ? MAX(bench_p50(b, S_NET_SETUP) - bench_p50(b, S_NET_SETUP_DIRECT), 0.0) / 1e3 : -1, 1,
		     false);
	bench_figure(b, "one stream, relayed / direct", "x", bench_ratio(b, S_NET_PULL_DIRECT, S_NET_PULL), 0.7, true);
	bench_figure(b, "DNS answer from the cache", "ms", b->s[S_NET_DNS].n > 0 ? bench_p50(b, S_NET_DNS) / 1e3 : -1,
		     0.3, false);
	bench_figure(b, "denial", "ms", b->s[S_NET_DENY].n > 0 ? bench_p50(b, S_NET_DENY) / 1e3 : -1, 2, false);
	bench_figure(b, "served of 1,000 connections at the same time", "",
		     b->net_failed < 0 ? -1 : 1000 - b->net_failed, 1000, true);
}

int bench_network(struct bench *b, struct err *e)
{
	int r;

	if (b->absent[S_CREATE_NET][0]) {
		for (size_t s = S_CREATE_NET + 1; s <= S_NET_DNS; s++)
			(void)snprintf(b->absent[s], sizeof(b->absent[0]), "no sandbox with a network");
		add_figures(b);
		return 0;
	}
	r = bench_create_in(&b->api, b->template_name, "restricted", b->net_id, e);
	if (r < 0)
		return r;
	r = measure(b, e);
	if (r < 0)
		return r;
	add_figures(b);
	return bench_terminate(&b->api, b->net_id, e);
}
