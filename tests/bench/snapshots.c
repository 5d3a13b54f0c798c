/* Pause and resume, and beside them the two commands that do the same with files alone.
 *
 *   pause of a small change, live resume     round by round
 *   pause of BIG_MB changed                  / `tar c | zstd -1` of the same folder into a file, which is then on disk
 *   resume from the disk alone               / `zstd -d | tar x` of the very same snapshot
 *
 * For the last the emulator is stopped and started between pause and resume: with --snapshot-dir paused sandboxes stay.
 * Pairs are measured one right after the other, in turns, and the figure is the median of the pairs' ratios: what else
 * goes on on the machine then hits both. */

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "emulator/base/text.h"
#include "tests/bench/bench.h"

#define BIG_MB 500
#define PAIRS 5
#define MAKE_BIG                                                                                                       \
	"mkdir /workspace/big && cd /workspace/big && for i in $(seq 250); do (head -c 1000000 /dev/urandom; head -c " \
	"750000 /dev/urandom | base64 | head -c 1000000) > $i; done; sync"

enum part { P_PAUSE, P_RESUME, P_BIG_RATIO, P_COLD_RATIO, P_COUNT };

struct snapshots {
	struct bench *b;
	char dir[512], scratch[512], upper[1024];
	char small[SANDBOX_ID_SIZE], big[SANDBOX_ID_SIZE];
	struct samples s[P_COUNT]; /* ratios are kept as "us" */
};

static int change(struct bench *b, const char *id, const char *verb, double *ret_us, struct err *e)
{
	double start = stats_now_us();
	char path[128];
	int r;

	(void)text_format(path, sizeof(path), "/v1/sandboxes/%s/%s", id, verb);
	r = bench_call(&b->api, "POST", path, NULL, 200, e);
	*ret_us = stats_now_us() - start;
	return r;
}

static int run_shell(const char *command, double *ret_us, struct err *e)
{
	char *const argv[] = { (char *)(uintptr_t) "/bin/sh", (char *)(uintptr_t) "-c", (char *)(uintptr_t)command,
			       NULL };
	double start = stats_now_us();
	int status, r;
	pid_t pid;

	r = server_spawn(argv, -1, &pid, e);
	if (r < 0)
		return r;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (ret_us)
		*ret_us = stats_now_us() - start;
	return status == 0 ? 0
			   : err_set(e, ERR_IO, EIO, NULL, "\"%.200s\" ended with status %#x", command,
				     (unsigned int)status);
}

static int exec_shell(struct bench *b, const char *id, const char *command, struct err *e)
{
	char path[128], body[1024];
	int r;

	(void)text_format(path, sizeof(path), "/v1/sandboxes/%s/exec", id);
	r = text_format(body, sizeof(body), "{\"command\":\"%s\",\"timeout_seconds\":600}", command);
	return r < 0 ? err_errno(e, -r, "command") : bench_call(&b->api, "POST", path, body, 200, e);
}

/* The emulator's, as the host sees it. */
static int find_upper(struct snapshots *t, struct err *e)
{
	char pattern[1024];
	glob_t g;
	int r;

	(void)text_format(pattern, sizeof(pattern), "%s/disk/s/*/u/workspace/big", t->b->config.state_dir);
	r = glob(pattern, 0, NULL, &g);
	if (r != 0 || g.gl_pathc != 1)
		r = err_set(e, ERR_IO, ENOENT, NULL, "the sandbox's folder can't be seen in %s", pattern);
	else
		r = text_format(t->upper, sizeof(t->upper), "%.*s",
				(int)(strlen(g.gl_pathv[0]) - strlen("/workspace/big")), g.gl_pathv[0]);
	globfree(&g);
	return MIN(r, 0);
}

static int run_small(struct snapshots *t, struct err *e)
{
	double us;
	int r = 0;

	for (size_t i = 0; i < t->b->rounds && r >= 0; i++) {
		r = change(t->b, t->small, "pause", &us, e);
		samples_add(&t->s[P_PAUSE], us);
		if (r >= 0)
			r = change(t->b, t->small, "resume", &us, e);
		samples_add(&t->s[P_RESUME], us);
	}
	return r;
}

static int run_big(struct snapshots *t, bool first, struct err *e)
{
	char tar[4096];
	double own = 0, theirs = 0;
	int r = 0;

	(void)text_format(tar, sizeof(tar), "tar c -C '%s' . | zstd -q -1 -c > '%s/tar.zst' && sync '%s/tar.zst'",
			  t->upper, t->scratch, t->scratch);
	for (int i = 0; i < 2 && r >= 0; i++) {
		if ((i == 0) == first)
			r = change(t->b, t->big, "pause", &own, e);
		else
			r = run_shell(tar, &theirs, e);
	}
	if (r >= 0)
		samples_add(&t->s[P_BIG_RATIO], own / theirs);
	return r;
}

static int restart(struct snapshots *t, struct err *e)
{
	struct bench *b = t->b;
	double us;
	int r;

	client_close(&b->api);
	b->api = CLIENT_INIT;
	r = server_stop(&b->server, &us, e);
	if (r >= 0)
		r = server_start(&b->config, &b->server, &us, e);
	return r < 0 ? r : client_open(&b->api, b->server.port, "ork_bench_rounds", e);
}

static int run_cold(struct snapshots *t, bool first, struct err *e)
{
	char untar[4096], clear[1024];
	double own = 0, theirs = 0;
	int r = restart(t, e);

	(void)text_format(untar, sizeof(untar), "zstd -q -d -c '%s/kept.tar.zst' | tar x -C '%s/un'", t->scratch,
			  t->scratch);
	(void)text_format(clear, sizeof(clear),
			  "rm -rf '%s/un' && mkdir '%s/un' && ln -f '%s/%s.tar.zst' '%s/kept.tar.zst' && sync",
			  t->scratch, t->scratch, t->dir, t->big, t->scratch);
	if (r >= 0)
		r = run_shell(clear, NULL, e);
	for (int i = 0; i < 2 && r >= 0; i++) {
		if ((i == 0) == first)
			r = change(t->b, t->big, "resume", &own, e);
		else
			r = run_shell(untar, &theirs, e);
	}
	if (r >= 0)
		samples_add(&t->s[P_COLD_RATIO], own / theirs);
	return r < 0 ? r : find_upper(t, e);
}

static int measure(struct snapshots *t, struct err *e)
{
	struct bench *b = t->b;
	int r = bench_create(&b->api, b->template_name, t->small, e);

	if (r >= 0)
		r = exec_shell(b, t->small, "echo small > /workspace/change", e);
	if (r >= 0)
		r = run_small(t, e);
	if (r >= 0)
		r = bench_terminate(&b->api, t->small, e);
	if (r >= 0)
		r = bench_create(&b->api, b->template_name, t->big, e);
	if (r >= 0)
		r = exec_shell(b, t->big, MAKE_BIG, e);
	if (r >= 0)
		r = find_upper(t, e);
	for (int i = 0; i < PAIRS && r >= 0; i++) {
		r = run_big(t, i % 2 == 0, e);
		if (r >= 0)
			r = run_cold(t, i % 2 != 0, e);
	}
	return r < 0 ? r : bench_terminate(&b->api, t->big, e);
}

static void add_figures(struct snapshots *t)
{
	struct bench *b = t->b;
	char name[80];

	bench_figure(b, "pause, small change, p50", "ms", samples_percentile(&t->s[P_PAUSE], 0.5) / 1e3, 15, false);
	bench_figure(b, "live resume, p50", "ms", samples_percentile(&t->s[P_RESUME], 0.5) / 1e3, 3, false);
	(void)text_format(name, sizeof(name), "pause of %d MB changed / tar c | zstd -1", BIG_MB);
	bench_figure(b, name, "x", samples_percentile(&t->s[P_BIG_RATIO], 0.5), 1.1, false);
	(void)text_format(name, sizeof(name), "cold resume of %d MB / zstd -d | tar x", BIG_MB);
	bench_figure(b, name, "x", samples_percentile(&t->s[P_COLD_RATIO], 0.5), 1.1, false);
}

int bench_snapshots(struct bench *b, struct err *e)
{
	static struct snapshots t;
	char clear[1024];
	int r;

	t.b = b;
	/* Both on the state dir's file system. */
	if (text_format(t.dir, sizeof(t.dir), "%s-snapshots", b->config.state_dir) < 0 ||
	    text_format(t.scratch, sizeof(t.scratch), "%s-scratch", b->config.state_dir) < 0)
		return err_set(e, ERR_INVALID, ENAMETOOLONG, NULL, "the state dir's name is too long");
	if (mkdir(t.scratch, 0755) < 0 && errno != EEXIST)
		return err_errno(e, errno, "can't make %s", t.scratch);
	b->config.snapshot_dir = t.dir;
	r = restart(&t, e);
	if (r >= 0)
		r = measure(&t, e);
	if (r >= 0)
		add_figures(&t);
	else
		err_prefix(e, "snapshots");
	(void)server_stop(&b->server, NULL, NULL);
	b->config.snapshot_dir = NULL;
	(void)text_format(clear, sizeof(clear), "rm -rf '%s' '%s'", t.scratch, t.dir);
	(void)run_shell(clear, NULL, NULL);
	return r;
}
