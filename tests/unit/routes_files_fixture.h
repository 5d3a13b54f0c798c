#pragma once
/* For the tests of the files routes: the HTTP server, the routes and emulator/files.h in a child process, with
 * a folder for a sandbox, and a client. The child exits 0 only if it leaked no fd. */

#include "api/req.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "api/api.h"
#include "emulator/base/fd.h"
#include "emulator/base/log.h"
#include "emulator/files.h"

#define BASE "/v1/sandboxes/sbx_1/files"

static char base[64];
static int base_fd = -1, root_fd = -1;
static uint16_t port;
static pid_t server_pid;

/* ---- the server's process; the sandbox is a folder, and gone once base/ended exists ---- */

int sandbox_root(struct sandboxes *m _unused_, const struct account *a _unused_, const char *id, struct err *e)
{
	if (strcmp(id, "sbx_1") != 0)
		return err_set(e, ERR_NOT_FOUND, ENOENT, "sandbox_not_found", "no such sandbox");
	if (faccessat(base_fd, "ended", F_OK, 0) == 0)
		return err_set(e, ERR_NOT_READY, EBUSY, "sandbox_not_ready", "the sandbox is terminated");
	return openat(base_fd, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
}

int accounts_find(const struct accounts *a _unused_, const char *token, struct account *ret, struct err *e)
{
	if (strcmp(token, "rw") != 0 && strcmp(token, "r") != 0)
		return err_set(e, ERR_DENIED, EACCES, "unauthorized", "no such key");
	*ret = (struct account){ .id = "acc_1", .scopes = strcmp(token, "rw") == 0 ? 3 : SCOPE_READ };
	return 0;
}

static _unused_ int count_fds(pid_t pid)
{
	char path[32];
	DIR *d;
	int n = 0;

	(void)snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	d = opendir(path);
	while (d && readdir(d))
		n++;
	if (d)
		(void)closedir(d);
	return n;
}

static struct http *server;

static _unused_ void on_term(uv_signal_t *s, int sig _unused_)
{
	http_free(server);
	uv_close((uv_handle_t *)s, NULL);
}

static _unused_ int serve(int listen_fd)
{
	struct idmap map = { .kind = IDMAP_ROOT };
	struct api api = { .idmap = &map };
	struct http_config c = { .listen_fd = listen_fd, .unix_fd = -1, .max_connections = 64, .idle_timeout_s = 30 };
	struct err e;
	uv_signal_t sig;
	uv_loop_t loop;
	int before;

	log_set_level(LOG_LEVEL_ERROR);
	api.state_fd = openat(base_fd, "state", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (uv_loop_init(&loop) != 0 || uv_signal_init(&loop, &sig) != 0)
		return 10;
	(void)uv_signal_start(&sig, on_term, SIGTERM);
	before = count_fds(getpid()) - 1;
	c.loop = &loop;
	c.api = &api;
	if (http_new(&c, &server, &e) < 0)
		return 11;
	api_add_file_routes(server);
	if (http_start(server, &e) < 0)
		return 12;
	(void)uv_run(&loop, UV_RUN_DEFAULT);
	if (count_fds(getpid()) != before)
		return 13;
	return uv_loop_close(&loop) == 0 ? 0 : 14;
}

static _unused_ void setup(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)signal(SIGPIPE, SIG_IGN);
	(void)snprintf(base, sizeof(base), "%s/orkestr-routes-XXXXXX",
		       access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	cr_assert(mkdtemp(base));
	base_fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cr_assert(mkdirat(base_fd, "root", 0755) == 0 && mkdirat(base_fd, "state", 0700) == 0);
	root_fd = openat(base_fd, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cr_assert(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 64) == 0);
	cr_assert(getsockname(fd, (struct sockaddr *)&a, &len) == 0);
	port = ntohs(a.sin_port);
	server_pid = fork();
	if (server_pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(serve(fd));
	}
	(void)close(fd);
}

static _unused_ void teardown(void)
{
	struct files_ctx all = { .root_fd = base_fd };
	DIR *d = fdopendir(openat(base_fd, "state", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	struct err e = ERR_INIT;
	int status = 0, n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		(void)closedir(d);
	cr_expect(n == 2, "nothing stays in the state dir");
	(void)kill(server_pid, SIGTERM);
	cr_expect(waitpid(server_pid, &status, 0) == server_pid);
	cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the server ended with %x", status);
	cr_expect(files_remove(&all, "/root", true, &e) == 0 && files_remove(&all, "/state", true, &e) == 0);
	(void)unlinkat(base_fd, "ended", 0);
	cr_expect(rmdir(base) == 0);
}

/* ---- a client ---- */

struct answer {
	int status;
	bool whole; /* as long as it said it would be */
	char head[4096];
	struct buf body;
	struct json_object *json;
};

static _unused_ void answer_free(struct answer *a)
{
	buf_free(&a->body);
	json_object_put(a->json);
	a->json = NULL;
}

#define _cleanup_answer_ _cleanup_(answer_free)

static _unused_ int dial(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_port = htons(port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	return fd;
}

static _unused_ int send_head(const char *method, const char *target, const char *headers, uint64_t length)
{
	char head[8192];
	int fd = dial(), n;

	n = snprintf(head, sizeof(head),
		     "%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer rw\r\nConnection: close\r\nContent-Length: "
		     "%llu\r\n%s\r\n",
		     method, target, (unsigned long long)length, headers);
	cr_assert(n > 0 && (size_t)n < sizeof(head) && fd_write_all(fd, head, (size_t)n) == 0);
	return fd;
}

static _unused_ const char *header(const struct answer *a, const char *name, char *ret, size_t cap)
{
	const char *p = a->head;

	while ((p = strstr(p, "\r\n"))) {
		p += 2;
		if (strncasecmp(p, name, strlen(name)) == 0 && p[strlen(name)] == ':') {
			p += strlen(name) + 1;
			p += strspn(p, " ");
			(void)snprintf(ret, cap, "%.*s", (int)strcspn(p, "\r"), p);
			return ret;
		}
	}
	return NULL;
}

/* Undoes chunks in place. False: the last one is missing. */
static _unused_ bool unchunk(struct buf *b)
{
	size_t from = 0, to = 0;

	while (from < b->len) {
		char *line_end = memmem(b->p + from, b->len - from, "\r\n", 2);
		size_t n = strtoul(b->p + from, NULL, 16);

		if (!line_end)
			return false;
		from = (size_t)(line_end - b->p) + 2;
		if (n == 0) {
			b->len = to;
			b->p[to] = '\0';
			return true;
		}
		if (n + 2 > b->len - from)
			return false;
		memmove(b->p + to, b->p + from, n);
		to += n;
		from += n + 2;
	}
	return false;
}

/* Reads the answer to its end and closes fd. */
static _unused_ void receive(int fd, struct answer *a)
{
	struct buf all = BUF_INIT(1u << 29);
	char value[64], *end, *to;
	ssize_t n;

	*a = (struct answer){ .body = BUF_INIT(1u << 29) };
	do {
		cr_assert(buf_reserve(&all, 1u << 16, &to) == 0);
		n = read(fd, to, 1u << 16);
		if (n > 0)
			buf_commit(&all, (size_t)n);
	} while (n > 0);
	(void)close(fd);
	end = all.p ? strstr(all.p, "\r\n\r\n") : NULL;
	cr_assert(end && (size_t)(end - all.p) < sizeof(a->head), "no answer");
	memcpy(a->head, all.p, (size_t)(end - all.p) + 2);
	a->status = (int)strtol(a->head + 9, NULL, 10);
	buf_consume(&all, (size_t)(end - all.p) + 4);
	a->body = all;
	if (header(a, "Transfer-Encoding", value, sizeof(value)))
		a->whole = unchunk(&a->body);
	else if (header(a, "Content-Length", value, sizeof(value)))
		a->whole = strtoull(value, NULL, 10) == a->body.len;
	else
		a->whole = a->status == 204 || a->status == 304;
	if (header(a, "Content-Type", value, sizeof(value)) && strcmp(value, "application/json") == 0 && a->whole)
		a->json = json_tokener_parse(a->body.p);
}

static _unused_ void call(const char *method, const char *target, const char *headers, const char *body, size_t n,
			  struct answer *a)
{
	int fd = send_head(method, target, headers, n);

	/* A refusal may come while the body is on its way. */
	(void)fd_write_all(fd, body, n);
	receive(fd, a);
}

static _unused_ void get(const char *query, const char *headers, struct answer *a)
{
	char target[2048];

	(void)snprintf(target, sizeof(target), BASE "?%s", query);
	call("GET", target, headers, "", 0, a);
}

static _unused_ void post(const char *json, struct answer *a)
{
	call("POST", BASE, "", json, strlen(json), a);
}

static _unused_ const char *text_of(struct json_object *o, const char *key)
{
	struct json_object *v;

	return o && json_object_object_get_ex(o, key, &v) && v ? json_object_get_string(v) : "(none)";
}

static _unused_ void expect_status(const struct answer *a, int status, const char *code, const char *what)
{
	cr_expect(a->status == status && a->whole, "%s: %d %s", what, a->status, a->body.p ? a->body.p : "");
	if (code)
		cr_expect_str_eq(text_of(a->json, "code"), code, "%s: %s", what, a->body.p);
}

/* What is on the disk. */
static _unused_ void expect_file(const char *name, const void *p, size_t n, const char *what)
{
	_cleanup_close_ int fd = openat(root_fd, name, O_RDONLY | O_CLOEXEC);
	char *got = malloc(n + 1);

	cr_expect(fd >= 0, "%s: %s", what, strerror(errno));
	cr_expect(fd < 0 || fd_read_all(fd, got, n + 1) == (ssize_t)n, "%s: length", what);
	cr_expect(fd < 0 || memcmp(got, p, n) == 0, "%s: contents", what);
	free(got);
}

static _unused_ void make_file(const char *name, const void *p, size_t n)
{
	_cleanup_close_ int fd = openat(root_fd, name, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);

	cr_assert(fd >= 0 && fd_write_all(fd, p, n) == 0);
}
