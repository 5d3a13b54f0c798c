/* The daemon's end of an init's control socket, fed by an init that a sandbox has taken over: any message, of any
 * length, with any descriptors. Whatever comes, nothing is called twice that may be called once, no descriptor is
 * lost, and after the first wrong message nothing more is heard. */

#include <dirent.h>
#include <sys/socket.h>
#include <uv.h>

#include "emulator/base/fd.h"
#include "emulator/init.h"
#include "emulator/proto.h"
#include "tests/fuzz/fuzz.h"

static struct {
	int ready, lost, exited, started;
} seen;

static void on_ready(void *arg _unused_, const struct err *e, int root_fd)
{
	fuzz_check(seen.lost == 0 && (e != NULL) == (root_fd < 0));
	fuzz_check(!e || (e->kind != ERR_NONE && strlen(e->msg) < sizeof(e->msg)));
	closep(&root_fd);
	seen.ready++;
}

static bool on_started(void *arg _unused_, uint64_t id, pid_t pid)
{
	fuzz_check(seen.ready == 1 && seen.lost == 0 && pid > 1);
	seen.started++;
	return id & 1;
}

static bool on_exited(void *arg _unused_, uint64_t id, const struct init_exit *x)
{
	fuzz_check(seen.ready == 1 && seen.lost == 0 && x->value >= 0 && x->kind <= INIT_EXIT_NOT_STARTED);
	seen.exited++;
	return id & 1;
}

static void on_lost(void *arg _unused_, const char *why)
{
	fuzz_check(why && *why && seen.lost == 0);
	seen.lost++;
}

/* A message as the input has it: the header right (mostly), the length of its type (mostly). Through the socket with up
 * to 3 fds, or through the pipe, whose reading end is one of those. */
static void send_one(int sock, const int pipe_ends[2], struct fuzz_input *in)
{
	static const uint8_t types[] = { INIT_READY, INIT_FAILED, INIT_STARTED, INIT_EXITED };
	static const size_t sizes[] = { sizeof(struct init_header), sizeof(struct init_failed_msg),
					sizeof(union init_report), sizeof(union init_report) };
	unsigned int how = fuzz_byte(in), kind = how & 3, n_fds = (how >> 2) & 3;
	char m[8192] __attribute__((aligned(8))) = { 0 };
	struct init_header h = { INIT_MAGIC, types[kind] };
	size_t n = sizes[kind];
	int fds[4] = { open("/", O_PATH | O_CLOEXEC), dup(pipe_ends[0]), open("/", O_RDONLY | O_CLOEXEC),
		       open("/dev/null", O_CLOEXEC) };

	fuzz_take(in, m, sizes[kind]);
	if (how & 0x10)
		fuzz_take(in, &h, sizeof(h));
	if (how & 0x20)
		n = fuzz_byte(in) * 32u % sizeof(m);
	memcpy(m, &h, sizeof(h));
	if (kind < 2)
		(void)!fd_send_msg(sock, m, n, fds + (how & 0x40 ? 4 - n_fds : 0), n_fds);
	else
		(void)!write(pipe_ends[1], m, n);
	for (int i = 0; i < 4; i++)
		closep(&fds[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static uv_loop_t loop;
	static bool have_loop;
	const struct init_events ev = {
		.ready = on_ready, .started = on_started, .exited = on_exited, .lost = on_lost
	};
	static const char *const layers[] = { "0123456789abcdef01234567" };
	const struct init_config c = {
		.slot = "s-01hxyz0000000000000000test", .layers = layers, .n_layers = 1, .cpus = 1, .hostname = "fuzz"
	};
	struct fuzz_input in = { p, n };
	struct init *i;
	struct err e;
	int sv[2], pipe_ends[2], before;

	if (!have_loop) {
		fuzz_check(uv_loop_init(&loop) == 0);
		(void)uv_run(&loop, UV_RUN_NOWAIT);
		have_loop = true;
	}
	memset(&seen, 0, sizeof(seen));
	before = fuzz_lowest_fd();
	fuzz_check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) == 0);
	fuzz_check(fd_set_nonblock(sv[1], true) == 0 && pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK) == 0);
	fuzz_check(init_connect(&loop, sv[0], &c, &ev, &i, &e) == 0);
	for (int k = 0; in.n > 0 && k < 100; k++) {
		send_one(sv[1], pipe_ends, &in);
		if (k % 8 == 7)
			(void)uv_run(&loop, UV_RUN_NOWAIT);
		if (k % 16 == 15)
			(void)init_signal(i, 1, 9, true);
	}
	(void)uv_run(&loop, UV_RUN_NOWAIT);
	fuzz_check(seen.ready <= 1 && seen.lost <= 1);
	init_free(i);
	closep(&sv[1]);
	closep(&pipe_ends[0]);
	closep(&pipe_ends[1]);
	(void)uv_run(&loop, UV_RUN_NOWAIT);
	fuzz_check(fuzz_lowest_fd() == before);
	return 0;
}
