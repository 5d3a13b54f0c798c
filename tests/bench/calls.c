#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "emulator/base/text.h"
#include "tests/bench/bench.h"

/* The team plan's concurrency (wire.md, Limits): one key a so many sandboxes. */
#define PER_KEY 15
#define RESTARTS 5

int bench_call(struct client *c, const char *method, const char *path, const char *body, int status, struct err *e)
{
	int r = client_call(c, method, path, body, e);

	if (r < 0)
		return r;
	if (c->status != status)
		return err_set(e, ERR_IO, EPROTO, NULL, "%s %s answered %d, not %d: %.200s", method, path, c->status,
			       status, c->body);
	return 0;
}

int bench_create(struct client *c, const char *template_name, char ret_id[static SANDBOX_ID_SIZE], struct err *e)
{
	return bench_create_in(c, template_name, "off", ret_id, e);
}

int bench_create_in(struct client *c, const char *template_name, const char *network,
		    char ret_id[static SANDBOX_ID_SIZE], struct err *e)
{
	char body[256];
	const char *id;
	int r;

	if (text_format(body, sizeof(body), "{\"template\":\"%s\",\"network\":\"%s\"}", template_name, network) < 0)
		return err_set(e, ERR_INVALID, ENAMETOOLONG, NULL, "the template's name is too long");
	r = bench_call(c, "POST", "/v1/sandboxes", body, 201, e);
	if (r < 0)
		return r;
	id = strstr(c->body, "\"sbx_");
	if (!id || strlen(id) < SANDBOX_ID_SIZE + 1 || id[SANDBOX_ID_SIZE] != '"' || !strstr(c->body, "\"running\""))
		return err_set(e, ERR_IO, EPROTO, NULL, "no running sandbox in the answer: %.200s", c->body);
	memcpy(ret_id, id + 1, SANDBOX_ID_SIZE - 1);
	ret_id[SANDBOX_ID_SIZE - 1] = '\0';
	return 0;
}

int bench_exec(struct client *c, const char *id, struct err *e)
{
	const char *code;
	char path[128];
	int r;

	if (text_format(path, sizeof(path), "/v1/sandboxes/%s/exec", id) < 0)
		return err_set(e, ERR_INTERNAL, ENAMETOOLONG, NULL, "the path is too long");
	r = bench_call(c, "POST", path, BENCH_EXEC, 200, e);
	if (r < 0)
		return r;
	code = strstr(c->body, "\"exit_code\":");
	if (!code || code[12 + strspn(code + 12, " ")] != '0')
		return err_set(e, ERR_IO, EPROTO, NULL, "/bin/true did not exit with 0: %.200s", c->body);
	return 0;
}

int bench_terminate(struct client *c, const char *id, struct err *e)
{
	char path[128];

	if (text_format(path, sizeof(path), "/v1/sandboxes/%s", id) < 0)
		return err_set(e, ERR_INTERNAL, ENAMETOOLONG, NULL, "the path is too long");
	return bench_call(c, "DELETE", path, NULL, 200, e);
}

static int open_with_key(struct bench *b, size_t key, struct client *c, struct err *e)
{
	char name[32];

	client_close(c);
	*c = CLIENT_INIT;
	if (text_format(name, sizeof(name), "ork_bench_live_%zu", key) < 0)
		return err_set(e, ERR_INTERNAL, ENAMETOOLONG, NULL, "the key is too long");
	return client_open(c, b->server.port, name, e);
}

static int fill(struct bench *b, char (*ids)[SANDBOX_ID_SIZE], struct client *c, struct err *e)
{
	for (size_t i = 0; i < b->live; i++) {
		double start;
		int r = i % PER_KEY == 0 ? open_with_key(b, i / PER_KEY, c, e) : 0;

		start = stats_now_us();
		if (r >= 0)
			r = bench_create(c, b->template_name, ids[i], e);
		if (r < 0) {
			err_prefix(e, "sandbox %zu of %zu", i + 1, b->live);
			return r;
		}
		samples_add(&b->s[S_LIVE_CREATE], stats_now_us() - start);
	}
	return 0;
}

/* kill -9 of the daemon with all of them alive, and the next start, which takes them over. */
static int restart(struct bench *b, char (*ids)[SANDBOX_ID_SIZE], struct err *e)
{
	struct samples s = { 0 };
	struct client c = CLIENT_INIT;
	char name[64];
	int r = 0;

	client_close(&b->api); /* to the one that dies */
	for (size_t i = 0; i < RESTARTS && r >= 0; i++) {
		double us;

		(void)kill(b->server.pid, SIGKILL);
		(void)waitpid(b->server.pid, NULL, 0);
		b->server.pid = 0;
		r = server_start(&b->config, &b->server, &us, e);
		if (r >= 0)
			samples_add(&s, us);
	}
	if (r >= 0)
		r = client_open(&b->api, b->server.port, "ork_bench_rounds", e);
	if (r >= 0 && b->live > 0)
		r = open_with_key(b, 0, &c, e);
	if (r >= 0 && b->live > 0)
		r = bench_exec(&c, ids[0], e);
	client_close(&c);
	if (r < 0)
		return r;
	(void)text_format(name, sizeof(name), "ready after kill -9, %zu sandboxes alive", b->live);
	bench_figure(b, name, "ms", samples_percentile(&s, 0.5) / 1e3, b->live == 200 ? 250 : 0, false);
	return 0;
}

int bench_live(struct bench *b, struct err *e)
{
	_cleanup_free_ char(*ids)[SANDBOX_ID_SIZE] = calloc(b->live + 1, sizeof(*ids));
	struct client c = CLIENT_INIT;
	int r;

	if (!ids)
		return err_errno(e, ENOMEM, "no memory for the ids");
	r = server_memory(&b->server, &b->idle, e);
	if (r >= 0)
		r = fill(b, ids, &c, e);
	if (r >= 0)
		r = server_memory(&b->server, &b->memory, e);
	if (r >= 0 && b->memory.inits < b->live)
		r = err_set(e, ERR_INTERNAL, EPROTO, NULL, "%zu inits for %zu sandboxes", b->memory.inits, b->live);
	if (r >= 0)
		r = restart(b, ids, e);
	for (size_t i = 0; i < b->live && r >= 0; i++) {
		if (i % PER_KEY == 0)
			r = open_with_key(b, i / PER_KEY, &c, e);
		if (r >= 0)
			r = bench_terminate(&c, ids[i], e);
	}
	client_close(&c);
	return r;
}
