/* What a sandbox costs, measured in one run against what else one could do.
 *
 * Two phases: everything as it is started by default, then `serve --warm 0`, so that what a half-made
 * sandbox saves is seen apart. Rounds: in each, every subject runs once, and each round begins with another subject, so noise and
 * left-over work of one (a tree removed in the background) hit all alike. Subjects that can't run here
 * are named with the reason, never left out silently. Figures are p50 and p95; ratios are of p50s. */

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <json-c/json.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "emulator/base/text.h"
#include "tests/bench/bench.h"

static char *const true_argv[] = { (char *)(uintptr_t) "/bin/true", NULL };
static char *const bwrap_argv[] = {
	(char *)(uintptr_t) "bwrap",
	(char *)(uintptr_t) "--unshare-all",
	(char *)(uintptr_t) "--ro-bind",
	(char *)(uintptr_t) "/",
	(char *)(uintptr_t) "/",
	(char *)(uintptr_t) "--proc",
	(char *)(uintptr_t) "/proc",
	(char *)(uintptr_t) "--dev",
	(char *)(uintptr_t) "/dev",
	(char *)(uintptr_t) "/bin/true",
	NULL,
};

const char *const series_names[SERIES_COUNT] = {
	[S_SPAWN] = "fork + exec of /bin/true on the host",
	[S_LOOPBACK] = "one HTTP round trip over loopback",
	[S_HEALTH] = "GET /_emulator/health",
	[S_FLOOR] = "clone3 + overlay + pivot_root + exec",
	[S_BWRAP] = "bwrap --unshare-all /bin/true",
	[S_RUNC] = "runc run of /bin/true",
	[S_CREATE] = "create",
	[S_FIRST_EXEC] = "first exec of /bin/true",
	[S_CREATE_EXEC] = "create + first exec",
	[S_COLD_CREATE_EXEC] = "create + first exec, serve --warm 0",
	[S_TERMINATE] = "terminate",
	[S_WARM_EXEC] = "exec of /bin/true, warm sandbox",
	[S_READY] = "serve: start to ready",
	[S_STOP] = "serve: SIGTERM to gone",
	[S_LIVE_CREATE] = "create, while filling up to the live count",
	[S_CREATE_NET] = "create with network restricted",
	[S_NET_SETUP_DIRECT] = "connect and first byte, direct",
	[S_NET_SETUP] = "connect and first byte, through the relay",
	[S_NET_PULL_DIRECT] = "256 MiB in one stream, direct",
	[S_NET_PULL] = "256 MiB in one stream, through the relay",
	[S_NET_DENY] = "a connection that is refused",
	[S_NET_DNS] = "a DNS answer from the cache",
};

const char *const series_keys[SERIES_COUNT] = {
	[S_SPAWN] = "spawn",
	[S_LOOPBACK] = "loopback",
	[S_HEALTH] = "health",
	[S_FLOOR] = "floor",
	[S_BWRAP] = "bwrap",
	[S_RUNC] = "runc",
	[S_CREATE] = "create",
	[S_FIRST_EXEC] = "first_exec",
	[S_CREATE_EXEC] = "create_exec",
	[S_COLD_CREATE_EXEC] = "cold_create_exec",
	[S_TERMINATE] = "terminate",
	[S_WARM_EXEC] = "warm_exec",
	[S_READY] = "ready",
	[S_STOP] = "stop",
	[S_LIVE_CREATE] = "live_create",
	[S_CREATE_NET] = "create_restricted",
	[S_NET_SETUP_DIRECT] = "net_setup_direct",
	[S_NET_SETUP] = "net_setup_relayed",
	[S_NET_PULL_DIRECT] = "net_256mib_direct",
	[S_NET_PULL] = "net_256mib_relayed",
	[S_NET_DENY] = "net_denial",
	[S_NET_DNS] = "net_dns_cached",
};

static int timed_command(struct bench *b, enum series s, char *const argv[], struct err *e)
{
	double start = stats_now_us();
	pid_t pid;
	int status, r;

	r = server_spawn(argv, -1, &pid, e);
	if (r < 0)
		return r;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	samples_add(&b->s[s], stats_now_us() - start);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return err_set(e, ERR_IO, EIO, NULL, "%s ended with status %#x", argv[0], (unsigned int)status);
	return 0;
}

static int run_spawn(struct bench *b, struct err *e)
{
	return timed_command(b, S_SPAWN, true_argv, e);
}

static int run_bwrap(struct bench *b, struct err *e)
{
	return timed_command(b, S_BWRAP, bwrap_argv, e);
}

static int run_runc(struct bench *b, struct err *e)
{
	char id[32];
	char *const argv[] = {
		(char *)(uintptr_t) "runc",
		(char *)(uintptr_t) "--root",
		b->runc_root,
		(char *)(uintptr_t) "run",
		(char *)(uintptr_t) "--bundle",
		b->runc_bundle,
		id,
		NULL,
	};

	if (text_format(id, sizeof(id), "bench-%d-%zu", getpid(), b->s[S_RUNC].n) < 0)
		return err_set(e, ERR_INTERNAL, ENAMETOOLONG, NULL, "the container's name is too long");
	return timed_command(b, S_RUNC, argv, e);
}

static int run_floor(struct bench *b, struct err *e)
{
	char dir[512];
	double start;
	int r;

	if (text_format(dir, sizeof(dir), "%s/floor", b->work) < 0)
		return err_set(e, ERR_INVALID, ENAMETOOLONG, NULL, "the folder's name is too long");
	r = floor_prepare(dir, e);
	if (r < 0)
		return r;
	start = stats_now_us();
	r = floor_run(dir, true_argv, e);
	samples_add(&b->s[S_FLOOR], stats_now_us() - start);
	floor_remove(dir);
	return r;
}

static int run_loopback(struct bench *b, struct err *e)
{
	double start = stats_now_us();
	int r = client_call(&b->echo, "POST", "/v1/sandboxes/sbx_00000000000000000000000000/exec", BENCH_EXEC, e);

	samples_add(&b->s[S_LOOPBACK], stats_now_us() - start);
	return r;
}

static int run_health(struct bench *b, struct err *e)
{
	double start = stats_now_us();
	int r = bench_call(&b->api, "GET", "/_emulator/health", NULL, 200, e);

	samples_add(&b->s[S_HEALTH], stats_now_us() - start);
	return r;
}

static int run_sandbox(struct bench *b, struct err *e)
{
	char id[SANDBOX_ID_SIZE];
	double t0 = stats_now_us(), t1, t2, t3;
	int r;

	r = bench_create(&b->api, b->template_name, id, e);
	t1 = stats_now_us();
	if (r >= 0)
		r = bench_exec(&b->api, id, e);
	t2 = stats_now_us();
	if (r >= 0)
		r = bench_terminate(&b->api, id, e);
	t3 = stats_now_us();
	samples_add(&b->s[S_CREATE], t1 - t0);
	samples_add(&b->s[S_FIRST_EXEC], t2 - t1);
	samples_add(&b->s[S_CREATE_EXEC], t2 - t0);
	samples_add(&b->s[S_TERMINATE], t3 - t2);
	return r;
}

static int run_cold(struct bench *b, struct err *e)
{
	char id[SANDBOX_ID_SIZE];
	double start = stats_now_us();
	int r;

	r = bench_create(&b->api, b->template_name, id, e);
	if (r >= 0)
		r = bench_exec(&b->api, id, e);
	samples_add(&b->s[S_COLD_CREATE_EXEC], stats_now_us() - start);
	return r < 0 ? r : bench_terminate(&b->api, id, e);
}

static int run_networked(struct bench *b, struct err *e)
{
	char id[SANDBOX_ID_SIZE];
	double start = stats_now_us();
	int r = bench_create_in(&b->api, b->template_name, "restricted", id, e);

	samples_add(&b->s[S_CREATE_NET], stats_now_us() - start);
	return r < 0 ? r : bench_terminate(&b->api, id, e);
}

static int run_warm(struct bench *b, struct err *e)
{
	double start = stats_now_us();
	int r = bench_exec(&b->api, b->warm_id, e);

	samples_add(&b->s[S_WARM_EXEC], stats_now_us() - start);
	return r;
}

/* needed: without it there is nothing to compare; the others may be missing, with a reason. */
struct subject {
	enum series series;
	bool needed;
	int (*run)(struct bench *b, struct err *e);
};

static const struct subject subjects[] = {
	{ S_SPAWN, true, run_spawn },
	{ S_LOOPBACK, true, run_loopback },
	{ S_FLOOR, false, run_floor },
	{ S_BWRAP, false, run_bwrap },
	{ S_RUNC, false, run_runc },
	{ S_HEALTH, true, run_health },
	{ S_CREATE_EXEC, true, run_sandbox },
	{ S_WARM_EXEC, true, run_warm },
	{ S_CREATE_NET, false, run_networked },
};

static const struct subject cold_subjects[] = {
	{ S_SPAWN, true, run_spawn },
	{ S_BWRAP, false, run_bwrap },
	{ S_COLD_CREATE_EXEC, true, run_cold },
};

static int run_subject(struct bench *b, const struct subject *s, struct err *e)
{
	int r;

	if (b->absent[s->series][0])
		return 0;
	r = s->run(b, e);
	if (r >= 0 || s->needed)
		return r;
	(void)snprintf(b->absent[s->series], sizeof(b->absent[0]), "%s", e->msg);
	b->s[s->series].n = 0;
	return 0;
}

static int run_rounds(struct bench *b, const struct subject *s, size_t n, size_t rounds, struct err *e)
{
	for (size_t round = 0; round < rounds; round++) {
		for (size_t i = 0; i < n; i++) {
			int r = run_subject(b, &s[(round + i) % n], e);

			if (r < 0)
				return r;
		}
		if (isatty(STDERR_FILENO))
			(void)fprintf(stderr, "\rround %zu of %zu ", round + 1, rounds);
	}
	if (isatty(STDERR_FILENO))
		(void)fprintf(stderr, "\r\033[K");
	return 0;
}

/* One round that is not counted goes before. */
static int run_default(struct bench *b, struct err *e)
{
	int r = bench_create(&b->api, b->template_name, b->warm_id, e);

	if (r >= 0)
		r = run_rounds(b, subjects, ARRAY_SIZE(subjects), 1, e);
	for (size_t i = 0; i < ARRAY_SIZE(subjects); i++)
		b->s[subjects[i].series].n = 0;
	b->s[S_CREATE].n = b->s[S_FIRST_EXEC].n = b->s[S_TERMINATE].n = 0;
	if (r >= 0)
		r = run_rounds(b, subjects, ARRAY_SIZE(subjects), b->rounds, e);
	if (r >= 0)
		r = bench_transfer(b, e);
	if (r >= 0)
		r = bench_terminate(&b->api, b->warm_id, e);
	if (r >= 0)
		r = bench_network(b, e);
	return r < 0 ? r : bench_live(b, e);
}

static int run_without_warm(struct bench *b, struct err *e)
{
	double us;
	int r;

	client_close(&b->api);
	b->api = CLIENT_INIT;
	r = server_stop(&b->server, &us, e);
	b->config.warm = "0";
	if (r >= 0)
		r = server_start(&b->config, &b->server, &us, e);
	if (r >= 0)
		r = client_open(&b->api, b->server.port, "ork_bench_rounds", e);
	if (r >= 0)
		r = run_rounds(b, cold_subjects, ARRAY_SIZE(cold_subjects), b->rounds, e);
	return r;
}

/* The reference: answers whatever comes in one read with as many bytes as the server's answer to an
 * exec has. A child, so that the round trip crosses processes as the real one does. */
static _noreturn_ void echo_child(int listener)
{
	static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 160\r\n"
				     "X-Request-Id: 00000000000000000000000000\r\n\r\n";
	char out[sizeof(answer) - 1 + 160], in[4096];
	int fd = accept(listener, NULL, NULL);

	memset(out, ' ', sizeof(out));
	memcpy(out, answer, sizeof(answer) - 1);
	while (fd >= 0 && read(fd, in, sizeof(in)) > 0 && write(fd, out, sizeof(out)) > 0)
		;
	_exit(0);
}

static int start_echo(struct bench *b, struct err *e)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(a);

	if (fd < 0 || bind(fd, (const struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 1) < 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		return err_errno(e, errno, "can't listen on loopback");
	b->echo_pid = fork();
	if (b->echo_pid < 0)
		return err_errno(e, errno, "fork");
	if (b->echo_pid == 0)
		echo_child(fd);
	return client_open(&b->echo, ntohs(a.sin_port), "ork_bench", e);
}

/* Starts and stops the emulator a few times for its ready time, and leaves it running. */
static int start_server(struct bench *b, struct err *e)
{
	for (size_t i = 0;; i++) {
		double us;
		int r = server_start(&b->config, &b->server, &us, e);

		if (r < 0)
			return r;
		if (i > 0)
			samples_add(&b->s[S_READY], us);
		if (i == b->starts)
			break;
		r = server_stop(&b->server, &us, e);
		if (r < 0)
			return r;
		samples_add(&b->s[S_STOP], us);
	}
	return client_open(&b->api, b->server.port, "ork_bench_rounds", e);
}

static int measure(struct bench *b, struct err *e)
{
	int r = start_echo(b, e);

	if (r >= 0)
		r = net_world_start(&b->world, b->work, e);
	b->config.map = b->world.map;
	if (r >= 0)
		r = start_server(b, e);
	if (r >= 0)
		r = run_default(b, e);
	if (r >= 0)
		r = run_without_warm(b, e);
	if (r >= 0)
		r = bench_snapshots(b, e);
	client_close(&b->api);
	if (r >= 0)
		r = server_stop(&b->server, NULL, e);
	return r;
}

static const char usage[] =
	"usage: bench --emulator PROGRAM --state DIR --template NAME --work DIR --json FILE --netbench PROGRAM\n"
	"             [--bundle DIR] [--rounds N] [--starts N] [--live N] [--strict]\n";

static int parse_options(struct bench *b, int argc, char **argv)
{
	static const struct option options[] = {
		{ "emulator", required_argument, NULL, 'e' }, { "state", required_argument, NULL, 's' },
		{ "template", required_argument, NULL, 't' }, { "work", required_argument, NULL, 'w' },
		{ "json", required_argument, NULL, 'j' },     { "bundle", required_argument, NULL, 'b' },
		{ "rounds", required_argument, NULL, 'r' },   { "starts", required_argument, NULL, 'n' },
		{ "live", required_argument, NULL, 'l' },     { "netbench", required_argument, NULL, 'p' },
		{ "strict", no_argument, NULL, 'x' },	      { NULL, 0, NULL, 0 },
	};
	uint64_t rounds = 100, starts = 10, live = 200;
	int c, r = 0;

	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0 && r >= 0) {
		switch (c) {
		case 'e':
			b->config.program = optarg;
			break;
		case 's':
			b->config.state_dir = optarg;
			break;
		case 't':
			b->template_name = optarg;
			break;
		case 'w':
			b->work = optarg;
			break;
		case 'j':
			b->json = optarg;
			break;
		case 'b':
			b->runc_bundle = optarg;
			break;
		case 'r':
			r = text_parse_u64(optarg, 1, SAMPLES_MAX / 2, &rounds);
			break;
		case 'n':
			r = text_parse_u64(optarg, 1, SAMPLES_MAX, &starts);
			break;
		case 'l':
			r = text_parse_u64(optarg, 0, SAMPLES_MAX, &live);
			break;
		case 'p':
			b->netbench = optarg;
			break;
		case 'x':
			b->strict = true;
			break;
		default:
			return -EINVAL;
		}
	}
	b->rounds = rounds;
	b->starts = starts;
	b->live = live;
	return r < 0 || !b->config.program || !b->config.state_dir || !b->template_name || !b->work || !b->json ||
			       !b->netbench
		       ? -EINVAL
		       : 0;
}

int main(int argc, char **argv)
{
	static struct bench b = { .api = { .fd = -1 }, .echo = { .fd = -1 } };
	char port_file[512], log_file[512];
	struct err e = ERR_INIT;
	int r;

	b.api = b.echo = CLIENT_INIT;
	b.net_failed = -1;
	if (parse_options(&b, argc, argv) < 0 || text_format(port_file, sizeof(port_file), "%s/port", b.work) < 0 ||
	    text_format(log_file, sizeof(log_file), "%s/serve.log", b.work) < 0 ||
	    text_format(b.runc_root, sizeof(b.runc_root), "%s/runc", b.work) < 0) {
		(void)fputs(usage, stderr);
		return 2;
	}
	b.config.port_file = port_file;
	b.config.log_file = log_file;
	if (!b.runc_bundle)
		(void)snprintf(b.absent[S_RUNC], sizeof(b.absent[0]), "not asked for (--bundle)");
	(void)signal(SIGPIPE, SIG_IGN);

	r = measure(&b, &e);
	(void)server_stop(&b.server, NULL, NULL);
	client_close(&b.echo);
	net_world_stop(&b.world);
	if (b.echo_pid > 0)
		(void)waitpid(b.echo_pid, NULL, 0);
	if (r >= 0)
		r = report(&b, &e);
	if (r < 0) {
		(void)fprintf(stderr, "bench: %s\n", e.msg);
		return 1;
	}
	return b.strict && b.missed > 0 ? 1 : 0;
}
