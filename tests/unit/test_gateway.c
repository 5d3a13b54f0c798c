/* The gateway for real: network namespaces, veth, nftables with tproxy, NFLOG. Each test runs inside a user
 * namespace of the emulator's, so that nothing of it can touch the host. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/idmap.h"
#include "netpolicy/gateway.h"
#include "tests/unit/check.h"
#include "tests/unit/slow.h"

/* A process in a network namespace of its own that runs one step after another for the test. */
struct box {
	pid_t pid;
	int to, from;
};

typedef int (*step_fn)(void);

static int inherited_queue = -1;

static void box_main(int in, int out)
{
	step_fn fn;
	int r;

	while (fd_read_all(in, &fn, sizeof(fn)) == sizeof(fn)) {
		r = fn();
		if (fd_write_all(out, &r, sizeof(r)) < 0)
			break;
	}
	_exit(0);
}

static void box_start(struct box *b)
{
	int down[2], up[2];
	char ready;

	CHECK(pipe2(down, O_CLOEXEC) == 0 && pipe2(up, O_CLOEXEC) == 0, "pipe");
	b->pid = fork();
	if (b->pid == 0) {
		close(down[1]);
		close(up[0]);
		/* A queue that anybody holds open is listened to. */
		if (inherited_queue >= 0)
			close(inherited_queue);
		if (unshare(CLONE_NEWNET) < 0 || fd_write_all(up[1], "r", 1) < 0)
			_exit(1);
		box_main(down[0], up[1]);
	}
	close(down[0]);
	close(up[1]);
	b->to = down[1];
	b->from = up[0];
	CHECK(fd_read_all(b->from, &ready, 1) == 1, "no box");
}

static int box_run(struct box *b, step_fn fn)
{
	int r;

	CHECK(fd_write_all(b->to, &fn, sizeof(fn)) == 0, "step");
	CHECK(fd_read_all(b->from, &r, sizeof(r)) == sizeof(r), "step");
	return r;
}

static void box_end(struct box *b)
{
	close(b->to);
	close(b->from);
	while (waitpid(b->pid, NULL, 0) < 0 && errno == EINTR)
		;
}

/* --- what a sandbox tries; each returns 0 or an errno --- */

static int try_connect(int type, const char *to, uint16_t port, const char *send_this)
{
	int s = socket(AF_INET, type | SOCK_CLOEXEC, 0), err = 0;
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct timeval tv = { .tv_sec = (time_t)slow_ms(3000) / 1000 };
	char c;

	(void)inet_pton(AF_INET, to, &a.sin_addr);
	(void)setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	(void)setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	if (connect(s, (struct sockaddr *)&a, sizeof(a)) < 0)
		err = errno;
	else if (send_this && (send(s, send_this, strlen(send_this), 0) < 0 || recv(s, &c, 1, 0) < 0))
		err = errno;
	close(s);
	return err;
}

static int tcp_out(void)
{
	return try_connect(SOCK_STREAM, "93.184.216.34", 443, NULL);
}

static int tcp_own_gateway(void)
{
	return try_connect(SOCK_STREAM, "100.64.0.21", 15001, NULL);
}

static int udp_out(void)
{
	return try_connect(SOCK_DGRAM, "93.184.216.34", 4242, "x");
}

static int udp_loopback_of_gateway(void)
{
	return try_connect(SOCK_STREAM, "240.0.0.1", 80, NULL);
}

/* A DNS question for a.Example.org, as a resolver sends it. */
static int dns_out(void)
{
	static const char q[] = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01"
				"a\x07"
				"Example\x03"
				"org\x00\x00\x01\x00\x01";
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), err = 0;
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(53) };

	(void)inet_pton(AF_INET, GATEWAY_RESOLVER, &a.sin_addr);
	if (connect(s, (struct sockaddr *)&a, sizeof(a)) < 0 || send(s, q, sizeof(q) - 1, 0) < 0)
		err = errno;
	close(s);
	return err;
}

/* A source address that is not its own: sent, never answered, must not arrive. */
static int spoofed(void)
{
	unsigned char p[28] = { 0x45, 0,   0,  28,  0,	 0,  0,	   0,	 64,   17,   0, 0, 100, 64,
				0,    250, 93, 184, 216, 34, 0x10, 0x92, 0x10, 0x92, 0, 8, 0,	0 };
	int s = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW), err = 0;
	struct sockaddr_in a = { .sin_family = AF_INET };

	(void)inet_pton(AF_INET, "93.184.216.34", &a.sin_addr);
	if (s < 0 || sendto(s, p, sizeof(p), 0, (struct sockaddr *)&a, sizeof(a)) < 0)
		err = errno;
	close(s);
	return err;
}

static int own_loopback(void)
{
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
	    err = 0;
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof(a);

	if (bind(s, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(s, 1) < 0 ||
	    getsockname(s, (struct sockaddr *)&a, &n) < 0 || connect(c, (struct sockaddr *)&a, sizeof(a)) < 0)
		err = errno;
	close(c);
	close(s);
	return err;
}

/* --- the gateway's side --- */

struct seen {
	int n;
	struct gateway_refused last;
};

static void note(void *arg, const struct gateway_refused *r)
{
	struct seen *s = arg;

	s->n++;
	s->last = *r;
}

static void wait_refused(int fd, struct seen *s)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	s->n = 0;
	CHECK(poll(&p, 1, (int)slow_ms(2000)) == 1, "nothing was logged");
	CHECK(gateway_read_refused(fd, note, s) > 0, "no packet");
}

static bool readable(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, ms) == 1;
}

static void check_tcp_arrives(struct gateway *g, struct box *b)
{
	struct sockaddr_in6 mapped = { 0 };
	struct sockaddr_in peer, local;
	socklen_t n = sizeof(peer);
	int c;

	CHECK(box_run(b, tcp_out) == 0, "no connection");
	c = accept(gateway_sockets(g)->tcp[0], (struct sockaddr *)&peer, &n);
	CHECK(c >= 0, "accept: %s", strerror(errno));
	n = sizeof(local);
	CHECK(getsockname(c, (struct sockaddr *)&local, &n) == 0, "getsockname");
	CHECK(strcmp(inet_ntoa(local.sin_addr), "93.184.216.34") == 0 && ntohs(local.sin_port) == 443, "%s:%u",
	      inet_ntoa(local.sin_addr), ntohs(local.sin_port));
	mapped.sin6_addr.s6_addr[10] = mapped.sin6_addr.s6_addr[11] = 0xff;
	memcpy(mapped.sin6_addr.s6_addr + 12, &peer.sin_addr, 4);
	CHECK(gateway_index_of(&mapped.sin6_addr) == 5, "from %s", inet_ntoa(peer.sin_addr));
	close(c);
}

static void on_asked(void *arg, uint32_t id, const struct gateway_refused *r)
{
	const struct gateway *g = arg;
	bool refuse = r->proto != IPPROTO_TCP || r->port == 9999;

	CHECK(gateway_answer(gateway_sockets(g)->queue, id, refuse ? GATEWAY_REFUSE : GATEWAY_PASS) == 0, "no answer");
}

/* The egress process's part: what it refuses fails in connect(2), nothing of it arrives and nothing is logged. */
static pid_t answer_what_is_asked(struct gateway *g)
{
	pid_t pid = fork();

	if (pid == 0)
		for (;;) {
			(void)readable(gateway_sockets(g)->queue, -1);
			if (gateway_read_asked(gateway_sockets(g)->queue, on_asked, g) < 0)
				_exit(1);
		}
	return pid;
}

static int tcp_refused(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(9999) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), r;

	(void)inet_pton(AF_INET, "93.184.216.34", &a.sin_addr);
	r = connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? errno : 0;
	(void)close(fd);
	return r;
}

static void check_asking(struct gateway *g, struct box *b)
{
	pid_t pid;

	if (gateway_sockets(g)->queue < 0) {
		fprintf(stderr, "this kernel can't ask about packets\n");
		return;
	}
	pid = answer_what_is_asked(g);
	CHECK(box_run(b, tcp_refused) == ECONNREFUSED, "errno %d", box_run(b, tcp_refused));
	CHECK(box_run(b, udp_out) == EHOSTUNREACH, "errno %d", box_run(b, udp_out));
	CHECK(!readable(gateway_sockets(g)->nflog, 50), "logged as well");
	check_tcp_arrives(g, b);
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
	/* With nobody to ask, the rules decide alone, as below. */
	close(gateway_sockets(g)->queue);
}

static int gateway_test(void *arg)
{
	const struct gateway_sockets *s;
	struct err e = ERR_INIT;
	struct gateway *g;
	struct seen seen = { 0 };
	struct box b;
	char buf[64];
	(void)arg;

	CHECK(gateway_new(&g, &e) == 0, "%s", e.msg);
	s = gateway_sockets(g);
	inherited_queue = gateway_sockets(g)->queue;
	box_start(&b);
	CHECK(gateway_attach(g, 5, b.pid, NET_RESTRICTED, &e) == 0, "%s", e.msg);
	check_asking(g, &b);
	check_tcp_arrives(g, &b);
	/* The resolver's socket hears port 53 whatever address was asked. */
	CHECK(box_run(&b, dns_out) == 0 && readable(s->dns_udp[0], 2000), "no question");
	CHECK(recv(s->dns_udp[0], buf, sizeof(buf), 0) > 12, "no question");
	/* Restricted: UDP is refused at once, and that is logged. */
	CHECK(box_run(&b, udp_out) == EHOSTUNREACH || box_run(&b, udp_out) == ECONNREFUSED, "errno %d",
	      box_run(&b, udp_out));
	wait_refused(s->nflog, &seen);
	CHECK(strcmp(seen.last.rule, "udp-not-allowed") == 0 && seen.last.port == 4242, "%s %u", seen.last.rule,
	      seen.last.port);
	CHECK(!readable(s->udp[0], 50), "refused UDP arrived");
	/* Never-addresses: reset. */
	CHECK(box_run(&b, udp_loopback_of_gateway) != 0, "240/4 went out");
	wait_refused(s->nflog, &seen);
	/* Open: the same UDP arrives with its destination. */
	CHECK(gateway_set_mode(g, 5, NET_OPEN, &e) == 0, "%s", e.msg);
	CHECK(box_run(&b, spoofed) == 0, "raw socket");
	CHECK(!readable(s->udp[0], 200), "a spoofed packet arrived");
	(void)box_run(&b, udp_out);
	CHECK(readable(s->udp[0], 2000), "open UDP did not arrive");
	/* Off: nothing. */
	CHECK(gateway_set_mode(g, 5, NET_OFF, &e) == 0, "%s", e.msg);
	CHECK(box_run(&b, tcp_out) == ECONNREFUSED, "off lets TCP out");
	/* The gateway's own ports are not for sandboxes: they only ever get what tproxy hands over. */
	CHECK(box_run(&b, tcp_own_gateway) != 0, "the gateway's port answered");
	box_end(&b);
	gateway_free(g);
	return 0;
}

static int notice_test(void *arg)
{
	struct err e = ERR_INIT;
	struct gateway *g;
	struct seen seen = { 0 };
	int log = -1, r;
	struct box b;
	int64_t t;
	(void)arg;

	CHECK(gateway_new(&g, &e) == 0, "%s", e.msg);
	inherited_queue = gateway_sockets(g)->queue;
	box_start(&b);
	CHECK(gateway_notice(g, b.pid, &log, &e) == 0, "%s", e.msg);
	t = clock_mono_us();
	r = box_run(&b, tcp_out);
	CHECK(r == ENETUNREACH || r == ECONNREFUSED || r == EHOSTUNREACH, "errno %d", r);
	CHECK(clock_mono_us() - t < 500000, "the refusal took %lld us", (long long)(clock_mono_us() - t));
	wait_refused(log, &seen);
	CHECK(seen.last.proto == IPPROTO_TCP && seen.last.port == 443 && strcmp(seen.last.rule, "network-off") == 0,
	      "%u %s", seen.last.port, seen.last.rule);
	(void)box_run(&b, dns_out);
	wait_refused(log, &seen);
	CHECK(strcmp(seen.last.name, "a.example.org") == 0, "%s", seen.last.name);
	CHECK(box_run(&b, own_loopback) == 0, "loopback is refused");
	/* The same sandbox gets a network: what refused is gone. */
	if (gateway_sockets(g)->queue >= 0)
		close(gateway_sockets(g)->queue);
	CHECK(gateway_attach(g, 5, b.pid, NET_OPEN, &e) == 0, "%s", e.msg);
	check_tcp_arrives(g, &b);
	close(log);
	box_end(&b);
	gateway_free(g);
	return 0;
}

static void run_in_e(int (*fn)(void *))
{
	struct idmap m;
	struct err e = ERR_INIT;
	int status;
	pid_t pid;

	idmap_choose(&m);
	cr_assert_eq(idmap_spawn(&m, fn, NULL, &pid, NULL, &e), 0, "%s", e.msg);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", status);
}

Test(gateway, decides_what_leaves_a_sandbox, .timeout = 30)
{
	run_in_e(gateway_test);
}

Test(gateway, notices_what_an_off_sandbox_tries, .timeout = 30)
{
	run_in_e(notice_test);
}

Test(gateway, numbers_and_addresses)
{
	static const struct {
		const char *address;
		int index;
	} cases[] = {
		{ "::ffff:100.64.0.22", 5 },	 { "::ffff:100.64.0.21", -1 },
		{ "::ffff:100.63.255.254", -1 }, { "fd6f:726b::16", 5 },
		{ "fd6f:726b::15", -1 },	 { "fd6f:726c::16", -1 },
		{ "::ffff:8.8.8.8", -1 },	 { "::", -1 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct in6_addr a;

		cr_assert(inet_pton(AF_INET6, cases[i].address, &a) == 1);
		cr_expect_eq(gateway_index_of(&a), cases[i].index, "%s: %d", cases[i].address, gateway_index_of(&a));
	}
}
