/* The routes for sandboxes, exec and the emulator over real HTTP and the real sandbox and exec modules, in
 * the faked world of sandbox_fakes.h (its init runs real processes). */

#include "tests/unit/sandbox_fakes.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "api/api.h"
#include "emulator/base/clock.h"
#include "tests/unit/slow.h"

/* ---- the rest of the world ---- */

int accounts_find(const struct accounts *a _unused_, const char *token, struct account *ret, struct err *e)
{
	if (strcmp(token, "team") == 0)
		*ret = team;
	else if (strcmp(token, "free") == 0)
		*ret = freebie;
	else
		return err_set(e, ERR_DENIED, EACCES, "unauthorized", "no such key");
	return 0;
}

int sandbox_status_parse(const char *s, enum sandbox_status *ret)
{
	for (int i = SANDBOX_CREATING; i <= SANDBOX_FAILED; i++)
		if (strcmp(sandbox_status_name((enum sandbox_status)i), s) == 0) {
			*ret = (enum sandbox_status)i;
			return 0;
		}
	return -EINVAL;
}

/* The cursor is the index to go on from. */
int store_sandbox_list(struct store *s _unused_, const struct store_list *q,
		       int (*fn)(void *arg, const struct sandbox_row *r), void *arg,
		       char next[static STORE_CURSOR_SIZE], struct err *e)
{
	size_t i = q->cursor ? strtoul(q->cursor, NULL, 10) : n_rows;
	uint32_t n = 0;

	next[0] = '\0';
	if (q->cursor && (i == 0 || i > n_rows))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "no cursor");
	for (; i > 0; i--) {
		const struct sandbox_row *r = &rows[i - 1];

		if (strcmp(r->account, q->account) != 0 || (q->status && r->status != *q->status))
			continue;
		if (n++ == q->limit) {
			(void)snprintf(next, STORE_CURSOR_SIZE, "%zu", i);
			return 0;
		}
		(void)fn(arg, r);
	}
	return 0;
}

static struct {
	char key[80], hash[65], id[SANDBOX_ID_SIZE];
} kept[16];
static size_t n_kept;

int store_idempotency_put(struct store *s _unused_, const char *account, const char *key, const char *hash,
			  const char *id, int64_t now_ms _unused_, struct err *e _unused_)
{
	(void)snprintf(kept[n_kept].key, sizeof(kept[0].key), "%s/%s", account, key);
	(void)snprintf(kept[n_kept].hash, sizeof(kept[0].hash), "%s", hash);
	(void)snprintf(kept[n_kept++].id, sizeof(kept[0].id), "%s", id);
	return 0;
}

int store_idempotency_get(struct store *s _unused_, const char *account, const char *key, int64_t now_ms _unused_,
			  char hash[static 65], char id[static SANDBOX_ID_SIZE], struct err *e)
{
	char k[80];

	(void)snprintf(k, sizeof(k), "%s/%s", account, key);
	for (size_t i = 0; i < n_kept; i++)
		if (strcmp(kept[i].key, k) == 0) {
			memcpy(hash, kept[i].hash, 65);
			memcpy(id, kept[i].id, SANDBOX_ID_SIZE);
			return 0;
		}
	return err_set(e, ERR_NOT_FOUND, ENOENT, NULL, "no such key");
}

int store_idempotency_forget(struct store *s _unused_, const char *account _unused_, const char *key _unused_,
			     struct err *e _unused_)
{
	return 0;
}

int template_each(int fd _unused_, int (*fn)(void *arg, const struct template *t), void *arg, struct err *e _unused_)
{
	char distribution[] = "Debian 12", stand_in[] = "Debian instead of Ubuntu";
	struct template t = { .name = "ubuntu-24.04", .distribution = distribution, .stand_in = stand_in };

	return fn(arg, &t);
}

const char *cgroup_why(const struct cgroup_root *r _unused_)
{
	return "";
}

const char *cgroup_backend_name(enum cgroup_backend b _unused_)
{
	return "v2";
}

/* ---- server and client, one loop ---- */

static struct http *server;
static struct idmap idmap = { .kind = IDMAP_SUBUID };
static struct api api;
static uint16_t port;

static void set_up_server(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct http_config c = { .loop = &loop, .api = &api, .unix_fd = -1 };
	socklen_t len = sizeof(a);

	set_up();
	features = (struct cgroup_features){
		.cpu = true, .memory = true, .pids = true, .cpu_reading = true, .memory_reading = true
	};
	(void)signal(SIGPIPE, SIG_IGN);
	api = (struct api){ .sandboxes = mgr, .idmap = &idmap, .state_fd = state_fd, .started_ms = clock_real_ms() };
	c.listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert(bind(c.listen_fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(c.listen_fd, 64) == 0);
	cr_assert(getsockname(c.listen_fd, (struct sockaddr *)&a, &len) == 0);
	port = ntohs(a.sin_port);
	cr_assert(http_new(&c, &server, NULL) == 0);
	api_add_sandbox_routes(server);
	api_add_exec_routes(server);
	api_add_emulator_routes(server);
	api_add_usage_routes(server);
	cr_assert(http_start(server, NULL) == 0);
}

static void tear_down_server(void)
{
	http_free(server);
	tear_down();
}

TestSuite(routes, .init = set_up_server, .fini = tear_down_server, .timeout = 60);

struct call {
	int fd;
	struct buf in;
	bool over;
};

static struct call call_start(const char *method_path, const char *headers, const char *body)
{
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_port = htons(port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct call c = { .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .in = BUF_INIT(100u << 20) };
	static char s[200000];
	int n = snprintf(s, sizeof(s),
			 "%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s%sContent-Length: %zu\r\n\r\n%s",
			 method_path, strstr(headers, "Authorization") ? "" : "Authorization: Bearer team\r\n", headers,
			 strlen(body), body);

	cr_assert((size_t)n < sizeof(s));
	cr_assert(connect(c.fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	cr_assert(send(c.fd, s, (size_t)n, MSG_NOSIGNAL) == n);
	return c;
}

/* Turns the loop and reads, until the answer is over, has `until` in it, or ms have gone (slow.h). */
static bool call_wait(struct call *c, const char *until, uint64_t ms)
{
	uint64_t end = uv_hrtime() / 1000000 + slow_ms(ms);

	while (!c->over && uv_hrtime() / 1000000 < end) {
		char *to;
		ssize_t n;

		(void)uv_run(&loop, UV_RUN_NOWAIT);
		cr_assert(buf_reserve(&c->in, 65536, &to) == 0);
		n = recv(c->fd, to, 65536, MSG_DONTWAIT);
		if (n > 0)
			buf_commit(&c->in, (size_t)n);
		else if (n == 0 || errno != EAGAIN)
			c->over = true;
		else
			usleep(200);
		if (until && c->in.len > 0 && strstr(c->in.p, until))
			return true;
	}
	return c->over && !until;
}

static void call_end(struct call *c)
{
	(void)close(c->fd);
	buf_free(&c->in);
}

static int status_of(const struct call *c)
{
	return c->in.len > 12 ? (int)strtol(c->in.p + 9, NULL, 10) : 0;
}

/* One call to its end: the answer as it came, valid until the next. */
static const char *talk(int want, const char *method_path, const char *headers, const char *body)
{
	static char *last;
	struct call c = call_start(method_path, headers, body);

	cr_assert(call_wait(&c, NULL, 10000), "%s: no answer", method_path);
	cr_expect_eq(status_of(&c), want, "%s %s: %s", method_path, body, c.in.p);
	free(last);
	last = strdup(c.in.p);
	call_end(&c);
	return last;
}

static void expect_in(const char *answer, const char *what)
{
	cr_expect(strstr(answer, what), "%s is not in %s", what, answer);
}

static void id_in(const char *answer, char ret[static SANDBOX_ID_SIZE])
{
	const char *p = strstr(answer, "\"id\":\"");

	cr_assert(p, "%s", answer);
	(void)snprintf(ret, SANDBOX_ID_SIZE, "%s", p + 6);
}

static const char *path_of(const char *method, const char *id, const char *rest)
{
	static char s[200];

	(void)snprintf(s, sizeof(s), "%s /v1/sandboxes/%s%s", method, id, rest);
	return s;
}

#define CREATE "POST /v1/sandboxes"

/* ---- sandboxes ---- */

Test(routes, life_of_a_sandbox)
{
	char id[SANDBOX_ID_SIZE];
	const char *a = talk(
		201, CREATE, "",
		"{\"template\":\"python-3.12\",\"cpu\":0.5,\"memory_mb\":512.0,\"timeout_seconds\":60,\"env\":{\"KEY\":"
		"\"s3cret\"},"
		"\"metadata\":{\"a\":\"b\"},\"region\":\"fsn1\",\"size\":null,\"color\":\"red\",\"we\\u0020ird\":1}");

	id_in(a, id);
	expect_in(a, "\"status\":\"running\"");
	expect_in(a, "\"template\":\"python-3.12\",\"size\":null,\"cpu\":0.5,\"memory_mb\":512,\"network\":\"off\","
		     "\"timeout_seconds\":60,"
		     "\"region\":\"fsn1\",\"metadata\":{\"a\":\"b\"},\"created_at\":\"20");
	expect_in(a, "\"paused_at\":null,\"terminated_at\":null,\"termination_reason\":null}");
	expect_in(a, "X-Orkestr-Divergence: ignored-field:color, ignored-field:we?ird\r\n");
	cr_expect_null(strstr(a, "s3cret"));
	expect_in(talk(200, path_of("GET", id, ""), "", ""), id);
	expect_in(talk(200, "GET /v1/sandboxes", "", ""), id);
	(void)talk(404, path_of("GET", id, ""), "Authorization: Bearer free\r\n", "");
	(void)talk(404, path_of("DELETE", id, ""), "Authorization: Bearer free\r\n", "");
	(void)talk(401, path_of("GET", id, ""), "Authorization: Bearer nobody\r\n", "");
	a = talk(200, path_of("DELETE", id, ""), "", "");
	expect_in(a, "\"status\":\"terminated\"");
	expect_in(a, "\"termination_reason\":\"user\"");
	expect_in(talk(200, path_of("DELETE", id, ""), "", ""), "\"status\":\"terminated\"");
	expect_in(talk(409, path_of("POST", id, "/exec"), "", "{\"command\":\"true\"}"), "\"sandbox_not_ready\"");
}

Test(routes, create_refused)
{
	static const struct {
		const char *body;
		int status;
		const char *what;
	} t[] = {
		{ "{}", 422, "\"loc\":[\"body\",\"template\"],\"msg\":\"Field required\",\"type\":\"missing\"" },
		{ "[]", 422, "dict_type" },
		{ "{", 422, "\"type\":\"json_invalid\"" },
		{ "{\"template\":\"x\",\"size\":\"huge\"}", 422, "'small', 'medium' or 'large'" },
		{ "{\"template\":\"x\",\"size\":\"small\",\"cpu\":1}", 422, "either size or" },
		{ "{\"template\":\"x\",\"cpu\":true}", 422, "float_type" },
		{ "{\"template\":\"x\",\"cpu\":0}", 422, "greater_than_equal" },
		{ "{\"template\":\"x\",\"cpu\":NaN}", 422, "json_invalid" },
		{ "{\"template\":\"x\",\"cpu\":1e999}", 422, "finite_number" },
		{ "{\"template\":\"x\",\"memory_mb\":100.5}", 422, "int_from_float" },
		{ "{\"template\":\"x\",\"timeout_seconds\":9}", 422, "greater_than_equal" },
		{ "{\"template\":\"x\",\"timeout_seconds\":3601}", 422, "less_than_equal" },
		{ "{\"template\":\"x\",\"network\":\"on\"}", 422, "literal_error" },
		{ "{\"template\":\"x\",\"region\":\"us1\"}", 422, "literal_error" },
		{ "{\"template\":\"x\",\"env\":{\"A-B\":\"\"}}", 422, "value_error" },
		{ "{\"template\":\"nope\"}", 404, "template_not_found" },
		{ "{\"template\":\"node-22\"}", 503, "template_unavailable" },
		{ "{\"template\":\"python-3.12\",\"cpu\":5}", 402, "size_not_allowed" },
		{ "{\"template\":\"python-3.12\",\"network\":\"open\"}", 503, "network_unavailable" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		expect_in(talk(t[i].status, CREATE, "", t[i].body), t[i].what);
	cr_expect_eq(n_spawned, 0);
}

Test(routes, create_env_too_large)
{
	static char body[70000];
	int n = snprintf(body, sizeof(body), "{\"template\":\"x\",\"env\":{\"A\":\"");

	memset(body + n, 'v', 65536);
	(void)snprintf(body + n + 65536, 10, "\"}}");
	expect_in(talk(422, CREATE, "", body), "have more than 65536 bytes");
}

Test(routes, create_that_fails_late)
{
	fail_step = "ready";
	expect_in(talk(500, CREATE, "", "{\"template\":\"python-3.12\"}"), "see the emulator's log for req_");
}

Test(routes, idempotency)
{
	static const char body[] = "{\"template\":\"python-3.12\"}";
	char id[SANDBOX_ID_SIZE], id2[SANDBOX_ID_SIZE];
	const char *a;
	struct call one, two, gone;

	/* A failed create forgets the key. */
	fail_step = "spawned";
	(void)talk(500, CREATE, "Idempotency-Key: k1\r\n", body);
	fail_step = "";
	a = talk(201, CREATE, "Idempotency-Key: k1\r\n", body);
	cr_expect_null(strstr(a, "Idempotent-Replayed"));
	id_in(a, id);
	a = talk(201, CREATE, "Idempotency-Key: k1\r\n", body);
	expect_in(a, "Idempotent-Replayed: true");
	id_in(a, id2);
	cr_expect_str_eq(id, id2);
	expect_in(talk(409, CREATE, "Idempotency-Key: k1\r\n", "{\"template\":\"python-3.12\",\"size\":\"small\"}"),
		  "idempotency_mismatch");
	(void)talk(422, CREATE, "Idempotency-Key: a b\r\n", body);
	/* Two at once, and one that leaves: one sandbox. */
	keeper_silent = true;
	one = call_start(CREATE, "Idempotency-Key: k2\r\n", body);
	spin_for(30);
	two = call_start(CREATE, "Idempotency-Key: k2\r\n", body);
	gone = call_start(CREATE, "Idempotency-Key: k2\r\n", body);
	spin_for(30);
	call_end(&gone);
	spin_for(30);
	expect_in(talk(409, CREATE, "Idempotency-Key: k2\r\n", "{\"template\":\"python-3.12\",\"size\":\"small\"}"),
		  "idempotency_mismatch");
	keeper_answer((void *)(uintptr_t)(n_spawned - 1));
	cr_assert(call_wait(&one, NULL, 5000) && call_wait(&two, NULL, 5000));
	cr_expect_eq(status_of(&one), 201);
	cr_expect_eq(status_of(&two), 201);
	id_in(one.in.p, id);
	id_in(two.in.p, id2);
	cr_expect_str_eq(id, id2);
	cr_expect_null(strstr(one.in.p, "Idempotent-Replayed"));
	expect_in(two.in.p, "Idempotent-Replayed: true");
	call_end(&one);
	call_end(&two);
	keeper_silent = false;
}

/* The client leaves during create and during delete: both go on, nothing is answered twice or freed twice. */
Test(routes, leaving)
{
	char id[SANDBOX_ID_SIZE];
	struct call c;

	keeper_silent = true;
	c = call_start(CREATE, "", "{\"template\":\"python-3.12\"}");
	spin_for(30);
	call_end(&c);
	spin_for(30);
	keeper_answer((void *)(uintptr_t)(n_spawned - 1));
	spin_for(50);
	keeper_silent = false;
	id_in(talk(200, "GET /v1/sandboxes?status=running", "", ""), id);
	keeper_deaf = true;
	c = call_start(path_of("DELETE", id, ""), "", "");
	spin_for(30);
	call_end(&c);
	spin_for(30);
	keeper_deaf = false;
	keeper_say_died((void *)(uintptr_t)(n_spawned - 1));
	spin_for(50);
	expect_in(talk(200, path_of("GET", id, ""), "", ""), "\"terminated\"");
}

Test(routes, list)
{
	const char *a, *p;
	char path[120];

	for (int i = 0; i < 3; i++)
		(void)talk(201, CREATE, "", "{\"template\":\"python-3.12\"}");
	a = talk(200, "GET /v1/sandboxes?limit=2", "", "");
	expect_in(a, "\"has_more\":true");
	p = strstr(a, "\"next_cursor\":\"");
	cr_assert(p);
	(void)snprintf(path, sizeof(path), "GET /v1/sandboxes?limit=2&cursor=%.*s", (int)strcspn(p + 15, "\""), p + 15);
	a = talk(200, path, "", "");
	expect_in(a, "\"next_cursor\":null,\"has_more\":false");
	expect_in(talk(200, "GET /v1/sandboxes?status=terminated", "", ""), "{\"sandboxes\":[],\"items\":[],");
	expect_in(talk(200, "GET /v1/sandboxes", "Authorization: Bearer free\r\n", ""), "{\"sandboxes\":[],");
	(void)talk(422, "GET /v1/sandboxes?status=asleep", "", "");
	(void)talk(422, "GET /v1/sandboxes?limit=0", "", "");
	(void)talk(422, "GET /v1/sandboxes?limit=201", "", "");
	(void)talk(422, "GET /v1/sandboxes?limit=x", "", "");
	expect_in(talk(422, "GET /v1/sandboxes?cursor=zz", "", ""), "\"cursor\"");
}

Test(routes, limits)
{
	const char *a = talk(200, "GET /v1/sandboxes/limits", "Authorization: Bearer free\r\n", "");

	expect_in(
		a,
		"{\"plan\":\"free\",\"sizes\":[{\"size\":\"small\",\"cpu\":0.5,\"memory_mb\":512,\"allowed\":true},"
		"{\"size\":\"medium\",\"cpu\":2.0,\"memory_mb\":4096,\"allowed\":false},"
		"{\"size\":\"large\",\"cpu\":4.0,\"memory_mb\":8192,\"allowed\":false}],\"allowed_sizes\":[\"small\"],"
		"\"max_concurrent\":1,\"usage_gb_hours_used\":0.0,\"usage_gb_hours_included\":10.0,"
		"\"usage_cpu_hours_used\":0.0,\"usage_cpu_hours_included\":2.0,\"usage_resets_at\":\"20");
	expect_in(a, "-01T00:00:00.000Z\",\"regions\":[\"fsn1\",\"hel1\"],\"max_snapshots\":1,\"max_timeout_seconds\":"
		     "3600}");
	cr_assert_null(strstr(a, "X-Orkestr-Divergence"));
	features.cpu_reading = false;
	expect_in(talk(200, "GET /v1/limits", "", ""), "X-Orkestr-Divergence: usage-estimated");
	expect_in(talk(200, "GET /v1/limits", "", ""), "\"plan\":\"team\"");
}

Test(routes, metrics)
{
	char id[SANDBOX_ID_SIZE], line[96];
	const char *a;

	id_in(talk(201, CREATE, "", "{\"template\":\"python-3.12\",\"cpu\":2,\"memory_mb\":100}"), id);
	(void)snprintf(line, sizeof(line), "GET /v1/sandboxes/%s/metrics", id);
	a = talk(200, line, "", "");
	expect_in(a, "{\"sandbox_status\":\"running\",\"sample_interval_seconds\":1,\"cpu\":{\"usage_percent\":0.0,"
		     "\"usage_cores\":0.0,\"cores\":2.0},\"memory\":{\"usage_bytes\":41943040,\"usage_percent\":40.0,"
		     "\"limit_bytes\":104857600},\"lifetime\":{\"cpu_seconds\":0.0,");
	expect_in(a, "\"samples\":[]}");
	(void)talk(404, line, "Authorization: Bearer free\r\n", "");
	(void)snprintf(line, sizeof(line), "GET /v1/sandboxes/%s/metrics?since=x", id);
	expect_in(talk(422, line, "", ""), "\"since\"");
	(void)snprintf(line, sizeof(line), "DELETE /v1/sandboxes/%s", id);
	(void)talk(200, line, "", "");
	(void)snprintf(line, sizeof(line), "GET /v1/sandboxes/%s/metrics", id);
	expect_in(talk(200, line, "", ""),
		  "{\"sandbox_status\":\"terminated\",\"sample_interval_seconds\":1,\"cpu\":null,\"memory\":null,");
}

Test(routes, usage_that_is_used_up)
{
	expect_in(talk(200, "PUT /_emulator/usage", "", "{\"gb_hours\":2000}"),
		  "\"gb_hours\":2000.0,\"cpu_hours\":0.0");
	expect_in(talk(402, CREATE, "", "{\"template\":\"python-3.12\"}"), "\"usage_exhausted\"");
	expect_in(talk(200, "GET /v1/limits", "", ""), "\"usage_gb_hours_used\":2000.0");
	expect_in(talk(200, "GET /v1/limits", "Authorization: Bearer free\r\n", ""), "\"usage_gb_hours_used\":0.0");
	(void)talk(200, "PUT /_emulator/usage", "", "{\"gb_hours\":1999.9}");
	(void)talk(201, CREATE, "", "{\"template\":\"python-3.12\"}");
	(void)talk(422, "PUT /_emulator/usage", "", "{\"gb_hours\":-1}");
}

Test(routes, divergences_and_info)
{
	const char *a;

	expect_in(talk(200, "GET /_emulator/health", "Authorization: none\r\n", ""), "{\"status\":\"ok\"}");
	features.pids = false;
	idmap.kind = IDMAP_SINGLE;
	a = talk(201, CREATE, "", "{\"template\":\"python-3.12\"}");
	expect_in(a, "X-Orkestr-Divergence: single-id, limits-unenforced\r\n");
	a = talk(200, "GET /_emulator/info", "Authorization: none\r\n", "");
	expect_in(a, "\"live\":1");
	expect_in(a, "\"slug\":\"template-stand-in\",\"detail\":\"ubuntu-24.04: Debian instead of Ubuntu\"");
	expect_in(a, "\"slug\":\"single-id\"");
	expect_in(a, "\"slug\":\"limits-unenforced\"");
}

/* ---- exec ---- */

static void new_box(char id[static SANDBOX_ID_SIZE])
{
	id_in(talk(201, CREATE, "", "{\"template\":\"python-3.12\",\"env\":{\"A\":\"one\"}}"), id);
}

Test(routes, exec_results)
{
	static const struct {
		const char *body, *want;
	} t[] = {
		{ "{\"command\":\"echo $A; echo bad >&2\"}",
		  "{\"stdout\":\"one\\n\",\"stderr\":\"bad\\n\",\"exit_code\":0,\"duration_ms\":" },
		{ "{\"command\":\"exit 7\"}", "\"exit_code\":7," },
		{ "{\"command\":\"kill -9 $$\"}", "\"exit_code\":137," },
		{ "{\"command\":\"kill -9 $$\"}",
		  "\"reason\":\"signal\",\"signal\":\"SIGKILL\",\"evidence\":{\"exit_code\":null,\"signal\":"
		  "\"SIGKILL\","
		  "\"ended_by\":null,\"timeout_seconds\":60,\"oom_kills\":0,\"pids_denied\":0},"
		  "\"background_processes\":0,\"stdout_truncated\":false,\"stderr_truncated\":false,\"network_"
		  "blocked\":[]}" },
		{ "{\"cmd\":[\"/bin/echo\",\"a b\",\"\"]}", "{\"stdout\":\"a b \\n\"," },
		{ "{\"command\":\"echo $A-$B\",\"env\":{\"B\":\"two\"}}", "\"one-two\\n\"" },
		{ "{\"command\":\"pwd\",\"cwd\":\"/usr\"}", "\"/usr\\n\"" },
		{ "{\"command\":\"cat\",\"stdin\":\"t\\u00e4xt\"}", "\"t\xc3\xa4xt\"" },
		{ "{\"command\":\"od -An -tx1\",\"stdin\":\"AP8=\",\"stdin_encoding\":\"base64\"}", "\" 00 ff\\n\"" },
		{ "{\"command\":\"printf 'a\\\\377b\\\\000'\"}", "\"a\xef\xbf\xbd"
								 "b\\u0000\"" },
		{ "{\"command\":\"no-such-thing\",\"timeout_seconds\":10.0}", "\"exit_code\":127," },
	};
	char id[SANDBOX_ID_SIZE];

	new_box(id);
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		const char *a = talk(200, path_of("POST", id, "/exec"), "", t[i].body);

		expect_in(a, t[i].want);
		expect_in(a, "X-Exec-Id: exe_");
	}
}

Test(routes, exec_refused)
{
	static const struct {
		const char *body;
		int status;
		const char *what;
	} t[] = {
		{ "{}", 422, "\"loc\":[\"body\",\"command\"],\"msg\":\"Field required\"" },
		{ "{\"command\":\"\"}", 422, "string_too_short" },
		{ "{\"command\":1}", 422, "string_type" },
		{ "{\"command\":\"a\\u0000\"}", 422, "string_type" },
		{ "{\"command\":[]}", 422, "too_short" },
		{ "{\"command\":[\"a\",1]}", 422, "\"loc\":[\"body\",\"command\",1]" },
		{ "{\"cmd\":[\"\"]}", 422, "\"loc\":[\"body\",\"cmd\",0]" },
		{ "{\"command\":\"a\",\"timeout_seconds\":0}", 422, "greater_than_equal" },
		{ "{\"command\":\"a\",\"timeout_seconds\":3601}", 422, "less_than_equal" },
		{ "{\"command\":\"a\",\"stdin\":1}", 422, "\"stdin\"" },
		{ "{\"command\":\"a\",\"stdin\":\"*\",\"stdin_encoding\":\"base64\"}", 422, "not base 64" },
		{ "{\"command\":\"a\",\"stdin_encoding\":\"hex\"}", 422, "literal_error" },
		{ "{\"command\":\"a\",\"env\":{\"A\":1}}", 422, "string_type" },
		{ "{\"command\":\"a\",\"cwd\":\"/no/such\"}", 400, "path_invalid" },
		{ "{\"command\":\"a\",\"cwd\":\"/no/such\",\"stream\":true}", 400, "path_invalid" },
	};
	char id[SANDBOX_ID_SIZE];

	new_box(id);
	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		expect_in(talk(t[i].status, path_of("POST", id, "/exec"), "", t[i].body), t[i].what);
	expect_in(talk(404, path_of("POST", "sbx_none", "/exec"), "", "{\"command\":\"a\"}"), "sandbox_not_found");
	(void)talk(404, path_of("POST", id, "/exec"), "Authorization: Bearer free\r\n", "{\"command\":\"a\"}");
}

Test(routes, exec_timeout)
{
	char id[SANDBOX_ID_SIZE];
	const char *a;

	new_box(id);
	a = talk(408, path_of("POST", id, "/exec"), "",
		 "{\"command\":\"echo so far; sleep 20\",\"timeout_seconds\":1}");
	expect_in(a, "{\"stdout\":\"so far\\n\",");
	expect_in(a, "\"reason\":\"timeout\"");
	expect_in(a, "\"detail\":\"the command did not end within 1 s\",\"code\":\"exec_timeout\"}");
}

static uint32_t execs_now(void)
{
	struct sandboxes_counts c;

	sandboxes_count(mgr, &c);
	return c.execs;
}

Test(routes, exec_abandoned)
{
	char id[SANDBOX_ID_SIZE];
	struct call c;

	new_box(id);
	c = call_start(path_of("POST", id, "/exec"), "", "{\"command\":\"sleep 20\"}");
	spin_for(50);
	expect_in(talk(200, "GET /_emulator/info", "", ""), "\"execs\":1");
	call_end(&c);
	cr_expect(spin_until(last_signal == SIGTERM && execs_now() == 0, 100));
	expect_in(talk(200, "GET /_emulator/info", "", ""), "\"execs\":0");
	/* Unless it was asked to go on. */
	last_signal = 0;
	c = call_start(path_of("POST", id, "/exec"), "", "{\"command\":\"sleep 0.3\",\"detach_on_disconnect\":true}");
	spin_for(50);
	call_end(&c);
	spin_for(100);
	expect_in(talk(200, "GET /_emulator/info", "", ""), "\"execs\":1");
	(void)spin_until(execs_now() == 0, 400);
	cr_expect_eq(last_signal, 0);
	expect_in(talk(200, "GET /_emulator/info", "", ""), "\"execs\":0");
}

/* ---- streams ---- */

/* The body of a chunked answer, in place. */
static char *dechunk(char *answer)
{
	char *p = strstr(answer, "\r\n\r\n"), *out, *start;

	cr_assert(p);
	p += 4;
	out = start = p;
	for (;;) {
		size_t n = strtoul(p, &p, 16);

		p += 2;
		if (n == 0)
			break;
		memmove(out, p, n);
		out += n;
		p += n + 2;
	}
	*out = '\0';
	return start;
}

Test(routes, stream_forms)
{
	static const char end[] =
		"{\"stream\":\"stdout\",\"data\":\"\",\"is_final\":true,\"exit_code\":3,\"duration_ms\":";
	static const struct {
		const char *path, *headers, *body, *type;
		bool ndjson;
	} t[] = {
		{ "/exec", "", "{\"command\":\"printf hi; exit 3\",\"stream\":true}", "text/event-stream", false },
		{ "/exec/stream", "", "{\"command\":\"printf hi; exit 3\"}", "text/event-stream", false },
		{ "/exec", "Accept: text/event-stream\r\n", "{\"command\":\"printf hi; exit 3\"}", "text/event-stream",
		  false },
		{ "/exec", "Accept: a/b, application/x-ndjson;q=1\r\n", "{\"command\":\"printf hi; exit 3\"}",
		  "application/x-ndjson", true },
		{ "/exec/stream", "Accept: application/x-ndjson\r\n", "{\"command\":\"printf hi; exit 3\"}",
		  "application/x-ndjson", true },
	};
	char id[SANDBOX_ID_SIZE];

	new_box(id);
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		char *a = strdup(talk(200, path_of("POST", id, t[i].path), t[i].headers, t[i].body)), *b;
		char want[200];

		expect_in(a, t[i].type);
		expect_in(a, "X-Exec-Id: exe_");
		b = dechunk(a);
		/* Ids are one more than the bytes so far; the first chunk names the exec. */
		(void)snprintf(
			want, sizeof(want),
			"%s{\"stream\":\"stdout\",\"data\":\"hi\",\"is_final\":false,\"seq\":3,\"exec_id\":\"exe_",
			t[i].ndjson ? "" : "id: 3\ndata: ");
		cr_expect_eq(strncmp(b, want, strlen(want)), 0, "%s", b);
		expect_in(b, t[i].ndjson ? "\"}\n{\"stream\"" : "\"}\n\nid: 4\ndata: ");
		expect_in(b, end);
		expect_in(b, "\"reason\":\"exited\",\"signal\":null,\"evidence\":{");
		expect_in(b, t[i].ndjson ? "\"network_blocked\":[],\"seq\":4}\n"
					 : "\"network_blocked\":[],\"seq\":4}\n\n");
		free(a);
	}
}

/* A character that comes in two writes is not split, and one that never gets whole is replaced before the end. */
Test(routes, stream_utf8)
{
	char id[SANDBOX_ID_SIZE], *a, *b;

	new_box(id);
	a = strdup(talk(200, path_of("POST", id, "/exec"), "Accept: application/x-ndjson\r\n",
			"{\"command\":\"printf '\\\\303'; sleep 0.1; printf '\\\\244\\\\342\\\\202'; sleep 0.1; printf "
			"'\\\\254'; sleep 0.1; printf '\\\\360\\\\237'\"}"));
	b = dechunk(a);
	expect_in(b, "{\"stream\":\"stdout\",\"data\":\"\xc3\xa4\",\"is_final\":false,\"seq\":3,");
	expect_in(b, "\n{\"stream\":\"stdout\",\"data\":\"\xe2\x82\xac\",\"is_final\":false,\"seq\":6}\n"
		     "{\"stream\":\"stdout\",\"data\":\"\xef\xbf\xbd\",\"is_final\":false,\"seq\":8}\n"
		     "{\"stream\":\"stdout\",\"data\":\"\",\"is_final\":true,\"exit_code\":0,");
	free(a);
}

/* Every byte of a long output arrives once and in order, through back-pressure. */
Test(routes, stream_long)
{
	char id[SANDBOX_ID_SIZE];
	struct buf got = BUF_INIT(8u << 20), want = BUF_INIT(8u << 20);
	struct call c;
	int finals = 0;

	new_box(id);
	c = call_start(path_of("POST", id, "/exec"), "Accept: application/x-ndjson\r\n",
		       "{\"command\":\"seq 1 600000\"}");
	spin_for(500); /* nobody reads: the queue, the sockets and the pipe fill up, then the command waits */
	expect_in(talk(200, "GET /_emulator/info", "", ""), "\"execs\":1");
	cr_assert(call_wait(&c, NULL, 30000));
	for (char *line = dechunk(c.in.p), *end; (end = strchr(line, '\n')); line = end + 1) {
		struct json_object *o, *data, *final;

		*end = '\0';
		o = json_tokener_parse(line);
		cr_assert(json_object_object_get_ex(o, "data", &data) &&
			  json_object_object_get_ex(o, "is_final", &final));
		finals += json_object_get_boolean(final);
		cr_assert(buf_puts(&got, json_object_get_string(data)) == 0);
		json_object_put(o);
	}
	for (int i = 1; i <= 600000; i++)
		cr_assert(buf_printf(&want, "%d\n", i) == 0);
	cr_expect_eq(finals, 1);
	cr_expect_eq(got.len, want.len);
	cr_expect(got.len == want.len && memcmp(got.p, want.p, got.len) == 0);
	buf_free(&got);
	buf_free(&want);
	call_end(&c);
}

Test(routes, stream_reader_leaves)
{
	char id[SANDBOX_ID_SIZE];
	struct call c;

	new_box(id);
	c = call_start(path_of("POST", id, "/exec/stream"), "", "{\"command\":\"echo first; sleep 20\"}");
	cr_assert(call_wait(&c, "first", 2000));
	cr_expect_null(strstr(c.in.p, "is_final\":true"));
	call_end(&c);
	cr_expect(spin_until(last_signal == SIGTERM, 100));
	/* In the middle of a flood. */
	last_signal = 0;
	c = call_start(path_of("POST", id, "/exec/stream"), "", "{\"command\":\"yes\"}");
	cr_assert(call_wait(&c, "data", 2000));
	call_end(&c);
	cr_expect(spin_until(last_signal == SIGTERM, 200));
	/* One that goes on although nobody reads its flood. */
	last_signal = 0;
	c = call_start(path_of("POST", id, "/exec/stream"), "",
		       "{\"command\":\"seq 1 300000; sleep 0.1\",\"detach_on_disconnect\":true}");
	cr_assert(call_wait(&c, "data", 2000));
	call_end(&c);
	(void)spin_until(execs_now() == 0, 1500);
	cr_expect_eq(last_signal, 0);
	expect_in(talk(200, "GET /_emulator/info", "", ""), "\"execs\":0");
}

/* The sandbox ends under an exec, buffered and streamed: both are answered. */
Test(routes, exec_when_the_sandbox_ends)
{
	char id[SANDBOX_ID_SIZE];
	struct call one, two;

	new_box(id);
	one = call_start(path_of("POST", id, "/exec"), "", "{\"command\":\"echo x; sleep 20\"}");
	two = call_start(path_of("POST", id, "/exec/stream"), "", "{\"command\":\"echo y; sleep 20\"}");
	cr_assert(call_wait(&two, "data", 2000));
	(void)talk(200, path_of("DELETE", id, ""), "", "");
	cr_assert(call_wait(&one, NULL, 5000) && call_wait(&two, NULL, 5000));
	cr_expect_eq(status_of(&one), 200);
	expect_in(one.in.p, "\"reason\":\"terminated\"");
	expect_in(two.in.p, "\"is_final\":true");
	call_end(&one);
	call_end(&two);
}
