/* Output that streams, files that come and go: bytes a second, beside the host's own way with the same bytes.
 *
 *   a stream        `cat FILE` in the sandbox, read as NDJSON   /  `cat FILE` into a pipe, copied into a loopback socket
 *   raw PUT, GET    a file's bytes in a body                    /  `cp FILE`, and a copy over a loopback socket (nc)
 *   JSON            the same, base64 in a JSON string           /  nothing: megabytes a second
 *
 * The copies here are plain read and write loops of 64 KiB, as nc's; the client of the emulator is one too. */

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "tests/bench/bench.h"

#define SIZE (96u << 20)
#define ROUNDS 5
#define COPY_SIZE (64u << 10)
#define SANDBOX_FILE "/workspace/bench.txt"

enum part { P_CAT, P_STREAM, P_CP, P_NC, P_PUT, P_GET, P_JSON, P_COUNT };

struct transfer {
	struct bench *b;
	char file[512], copy[512];
	int in; /* the file */
	struct samples s[P_COUNT];
};

/* Lines of text, so that a stream's JSON has as many escapes as a program's output. */
static int make_file(struct transfer *t, struct err *e)
{
	char line[COPY_SIZE];
	int r = 0;

	for (size_t i = 0; i < sizeof(line); i++)
		line[i] = i % 64 == 63 ? '\n' : (char)('0' + (i * 7 + i / 64) % 64);
	for (char *p = line; p < line + sizeof(line); p++)
		*p = *p == '\\' ? '/' : *p;
	t->in = open(t->file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (t->in < 0)
		return err_errno(e, errno, "can't make %s", t->file);
	for (size_t n = 0; n < SIZE && r >= 0; n += sizeof(line))
		r = fd_write_all(t->in, line, sizeof(line));
	return r < 0 ? err_errno(e, -r, "can't write %s", t->file) : 0;
}

/* Copies until the end; *ret (may be NULL): how much. */
static int copy(int from, int to, uint64_t *ret)
{
	char p[COPY_SIZE];
	uint64_t n = 0;

	for (;;) {
		ssize_t k = read(from, p, sizeof(p));
		int r;

		if (k < 0)
			return -errno;
		if (k == 0)
			break;
		r = to >= 0 ? fd_write_all(to, p, (size_t)k) : 0;
		if (r < 0)
			return r;
		n += (uint64_t)k;
	}
	if (ret)
		*ret = n;
	return 0;
}

/* A child at the other end of a loopback connection, which takes all there is: into a file, or nowhere. */
static int start_sink(const char *file, int *ret_sock, pid_t *ret_pid, struct err *e)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	_cleanup_close_ int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	_cleanup_close_ int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(a);
	pid_t pid;

	if (listener < 0 || sock < 0 || bind(listener, (const struct sockaddr *)&a, sizeof(a)) < 0 ||
	    listen(listener, 1) < 0 || getsockname(listener, (struct sockaddr *)&a, &len) < 0 ||
	    connect(sock, (const struct sockaddr *)&a, sizeof(a)) < 0)
		return err_errno(e, errno, "no loopback connection");
	pid = fork();
	if (pid < 0)
		return err_errno(e, errno, "fork");
	if (pid == 0) {
		int conn = accept(listener, NULL, NULL);
		int to = file ? open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644) : -1;

		(void)close(sock);
		_exit(conn < 0 || (file && to < 0) || copy(conn, to, NULL) < 0 ? 1 : 0);
	}
	*ret_sock = TAKE_FD(sock);
	*ret_pid = pid;
	return 0;
}

static int wait_for(pid_t pid, const char *what, struct err *e)
{
	int status;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status == 0 ? 0 : err_set(e, ERR_IO, EIO, NULL, "%s ended with status %#x", what, (unsigned int)status);
}

static int run_nc(struct transfer *t, struct err *e)
{
	_cleanup_close_ int sock = -1;
	pid_t pid;
	int r = start_sink(t->copy, &sock, &pid, e), w;

	if (r < 0)
		return r;
	r = lseek(t->in, 0, SEEK_SET) < 0 ? -errno : copy(t->in, sock, NULL);
	closep(&sock);
	w = wait_for(pid, "the copy over loopback", e);
	return r < 0 ? err_errno(e, -r, "can't copy over loopback") : w;
}

static int run_cp(struct transfer *t, struct err *e)
{
	char *const argv[] = { (char *)(uintptr_t) "cp", t->file, t->copy, NULL };
	pid_t pid;
	int r = server_spawn(argv, -1, &pid, e);

	return r < 0 ? r : wait_for(pid, "cp", e);
}

static int run_cat(struct transfer *t, struct err *e)
{
	char *const argv[] = { (char *)(uintptr_t) "cat", t->file, NULL };
	_cleanup_close_ int sock = -1, out = -1, in = -1;
	int fds[2], r, w;
	pid_t sink, pid;

	r = start_sink(NULL, &sock, &sink, e); /* before the pipe: it would hold the end that cat has */
	if (r < 0)
		return r;
	r = pipe2(fds, O_CLOEXEC) < 0 ? err_errno(e, errno, "can't make a pipe") : 0;
	if (r >= 0) {
		out = fds[0];
		in = fds[1];
		r = server_spawn(argv, in, &pid, e);
		closep(&in);
	}
	if (r >= 0) {
		r = copy(out, sock, NULL);
		w = wait_for(pid, "cat", e);
		r = r < 0 ? err_errno(e, -r, "can't copy cat's output") : w;
	}
	closep(&sock);
	w = wait_for(sink, "the reader of cat's output", e);
	return r < 0 ? r : w;
}

static int run_stream(struct transfer *t, struct err *e)
{
	static const char body[] = "{\"command\":[\"cat\",\"" SANDBOX_FILE "\"],\"stream\":true}";
	struct client *c = &t->b->api;
	uint64_t got = 0;
	char path[128];
	int r;

	if (text_format(path, sizeof(path), "/v1/sandboxes/%s/exec", t->b->warm_id) < 0)
		return err_set(e, ERR_INTERNAL, ENAMETOOLONG, NULL, "the path is too long");
	r = client_head(c, "POST", path, "Content-Type: application/json\r\nAccept: application/x-ndjson\r\n",
			sizeof(body) - 1, e);
	if (r >= 0 && (r = fd_write_all(c->fd, body, sizeof(body) - 1)) < 0)
		r = err_errno(e, -r, "can't send the request");
	if (r >= 0)
		r = client_drain(c, -1, &got, e);
	if (r >= 0 && got < SIZE)
		r = err_set(e, ERR_IO, EPROTO, NULL, "a stream of %llu bytes", (unsigned long long)got);
	return r;
}

#define FILE_PATH "/v1/sandboxes/%s/files?path=" SANDBOX_FILE

static int run_put(struct transfer *t, struct err *e)
{
	struct client *c = &t->b->api;
	char path[160];
	int r;

	if (text_format(path, sizeof(path), FILE_PATH, t->b->warm_id) < 0)
		return err_set(e, ERR_INTERNAL, ENAMETOOLONG, NULL, "the path is too long");
	r = client_head(c, "PUT", path, "Content-Type: application/octet-stream\r\n", SIZE, e);
	if (r >= 0 && (r = lseek(t->in, 0, SEEK_SET) < 0 ? -errno : copy(t->in, c->fd, NULL)) < 0)
		r = err_errno(e, -r, "can't send the file");
	if (r >= 0)
		r = client_answer(c, e);
	if (r >= 0 && c->status / 100 != 2)
		r = err_set(e, ERR_IO, EPROTO, NULL, "PUT answered %d: %.200s", c->status, c->body);
	return r;
}

static int run_get(struct transfer *t, struct err *e)
{
	_cleanup_close_ int to = open(t->copy, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	struct client *c = &t->b->api;
	uint64_t got = 0;
	char path[160];
	int r;

	if (to < 0)
		return err_errno(e, errno, "can't make %s", t->copy);
	if (text_format(path, sizeof(path), FILE_PATH, t->b->warm_id) < 0)
		return err_set(e, ERR_INTERNAL, ENAMETOOLONG, NULL, "the path is too long");
	r = client_head(c, "GET", path, "Accept: application/octet-stream\r\n", 0, e);
	if (r >= 0)
		r = client_drain(c, to, &got, e);
	if (r >= 0 && got != SIZE)
		r = err_set(e, ERR_IO, EPROTO, NULL, "GET answered %llu bytes", (unsigned long long)got);
	return r;
}

/* The content is a run of one block's encoding: what it says is nothing to the decoder. */
static int run_json(struct transfer *t, struct err *e)
{
	static const char head[] = "{\"path\":\"" SANDBOX_FILE ".json\",\"content\":\"", tail[] = "\"}";
	struct client *c = &t->b->api;
	char path[128], block[COPY_SIZE];
	const uint64_t encoded = (uint64_t)SIZE / 3 * 4; /* SIZE is a multiple of 3 */
	uint64_t sent = 0;
	int r;

	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo+"[i % 36];
	if (text_format(path, sizeof(path), "/v1/sandboxes/%s/files", t->b->warm_id) < 0)
		return err_set(e, ERR_INTERNAL, ENAMETOOLONG, NULL, "the path is too long");
	r = client_head(c, "POST", path, "Content-Type: application/json\r\n",
			sizeof(head) - 1 + encoded + sizeof(tail) - 1, e);
	if (r < 0)
		return r;
	r = fd_write_all(c->fd, head, sizeof(head) - 1);
	for (size_t n; sent < encoded && r >= 0; sent += n) {
		n = (size_t)MIN((uint64_t)sizeof(block), encoded - sent);
		r = fd_write_all(c->fd, block, n);
	}
	if (r >= 0)
		r = fd_write_all(c->fd, tail, sizeof(tail) - 1);
	if (r < 0)
		return err_errno(e, -r, "can't send the JSON");
	r = client_answer(c, e);
	if (r >= 0 && c->status / 100 != 2)
		r = err_set(e, ERR_IO, EPROTO, NULL, "POST of a file answered %d: %.200s", c->status, c->body);
	return r;
}

static int (*const parts[P_COUNT])(struct transfer *t, struct err *e) = {
	[P_CAT] = run_cat, [P_STREAM] = run_stream, [P_CP] = run_cp,	 [P_NC] = run_nc,
	[P_PUT] = run_put, [P_GET] = run_get,	    [P_JSON] = run_json,
};

static int run_rounds(struct transfer *t, struct err *e)
{
	int r = run_put(t, e); /* not counted: the sandbox needs the file for the rest */

	for (size_t round = 0; round < ROUNDS; round++) {
		for (size_t i = 0; i < P_COUNT && r >= 0; i++) {
			size_t p = (round + i) % P_COUNT;
			double start = stats_now_us();

			r = parts[p](t, e);
			samples_add(&t->s[p], stats_now_us() - start);
		}
	}
	return r;
}

static double rate(struct transfer *t, enum part p)
{
	return SIZE / samples_percentile(&t->s[p], 0.5); /* MB/s */
}

static void add_figures(struct transfer *t)
{
	double cp_nc = samples_percentile(&t->s[P_CP], 0.5) + samples_percentile(&t->s[P_NC], 0.5);

	bench_figure(t->b, "cat | loopback socket on the host", "MB/s", rate(t, P_CAT), 0, true);
	bench_figure(t->b, "streamed stdout of cat", "MB/s", rate(t, P_STREAM), 0, true);
	bench_figure(t->b, "streamed stdout / cat | loopback socket", "x", rate(t, P_STREAM) / rate(t, P_CAT), 0.5,
		     true);
	bench_figure(t->b, "nc over loopback into a file, alone", "MB/s", rate(t, P_NC), 0, true);
	bench_figure(t->b, "raw upload", "MB/s", rate(t, P_PUT), 0, true);
	bench_figure(t->b, "raw download", "MB/s", rate(t, P_GET), 0, true);
	bench_figure(t->b, "raw upload / (cp + nc)", "x", cp_nc / samples_percentile(&t->s[P_PUT], 0.5), 0.7, true);
	bench_figure(t->b, "raw download / (cp + nc)", "x", cp_nc / samples_percentile(&t->s[P_GET], 0.5), 0.7, true);
	bench_figure(t->b, "base64 JSON upload, file's bytes", "MB/s", rate(t, P_JSON), 150, true);
}

int bench_transfer(struct bench *b, struct err *e)
{
	static struct transfer t;
	int r;

	t.b = b;
	t.in = -1;
	if (text_format(t.file, sizeof(t.file), "%s/transfer", b->work) < 0 ||
	    text_format(t.copy, sizeof(t.copy), "%s/transfer.copy", b->work) < 0)
		return err_set(e, ERR_INVALID, ENAMETOOLONG, NULL, "the folder's name is too long");
	r = make_file(&t, e);
	if (r >= 0)
		r = run_rounds(&t, e);
	closep(&t.in);
	(void)unlink(t.file);
	(void)unlink(t.copy);
	if (r < 0)
		err_prefix(e, "transfer");
	else
		add_figures(&t);
	return r;
}
