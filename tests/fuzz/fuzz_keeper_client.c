/* The daemon's end of the keeper's socket: answers nobody asked for, of the wrong type, with too many descriptors. Each
 * question is answered once, each descriptor ends up with somebody or is closed. */

#include <sys/socket.h>
#include <uv.h>

#include "emulator/base/fd.h"
#include "emulator/base/log.h"
#include "emulator/proto.h"
#include "tests/fuzz/fuzz.h"

/* A line for each wrong message would be all there is to see. */
#undef log_error
#undef log_warn
#define log_error(...) log_debug(__VA_ARGS__)
#define log_warn(...) log_debug(__VA_ARGS__)
#include "emulator/keeper_client.c" /* NOLINT(bugprone-suspicious-include) */

static int n_lost, answers[4];

static void see_died(void *arg _unused_, const char *slot, int status _unused_)
{
	fuzz_check(n_lost == 0 && proto_slot_ok(slot));
}

static void see_lost(void *arg _unused_)
{
	n_lost++;
}

static void on_spawned(void *arg, const struct err *e, int ctl, int refused, pid_t pid)
{
	fuzz_check(e ? ctl < 0 && refused < 0 : ctl >= 0 && pid > 0);
	closep(&ctl);
	closep(&refused);
	++*(int *)arg;
}

static void on_done(void *arg, const struct err *e _unused_)
{
	++*(int *)arg;
}

static void slot_name(char *ret, unsigned int which)
{
	(void)snprintf(ret, KEEPER_SLOT_SIZE, "s-01hxyz000000000000000000%02u", which % 100);
}

static void send_one(int sock, struct fuzz_input *in)
{
	unsigned int how = fuzz_byte(in), n_fds = (how >> 2) & 3;
	static const uint32_t types[] = { KEEPER_SPAWNED, KEEPER_FAILED, KEEPER_DIED, KEEPER_DONE };
	struct keeper_msg m = { .magic = KEEPER_MAGIC, .type = types[how & 3] };
	int fds[3] = { dup(0), dup(0), dup(0) };

	slot_name(m.slot, fuzz_byte(in) & 3);
	m.value = (int8_t)fuzz_byte(in);
	if (how & 0x10)
		fuzz_take(in, &m, sizeof(m));
	else if (how & 0x20)
		fuzz_take(in, m.text, sizeof(m.text));
	(void)!fd_send_msg(sock, &m, how & 0x40 ? fuzz_byte(in) + 1u : sizeof(m), fds, n_fds);
	for (int i = 0; i < 3; i++)
		closep(&fds[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static uv_loop_t loop;
	static bool have_loop;
	const struct keeper_events ev = { .died = see_died, .lost = see_lost };
	struct fuzz_input in = { p, n };
	struct keeper *k;
	struct err e;
	int sv[2], before;
	char slot[KEEPER_SLOT_SIZE];

	if (!have_loop) {
		fuzz_check(uv_loop_init(&loop) == 0);
		(void)uv_run(&loop, UV_RUN_NOWAIT);
		fuzz_check(freopen("/dev/null", "r", stdin));
		have_loop = true;
	}
	n_lost = 0;
	memset(answers, 0, sizeof(answers));
	before = fuzz_lowest_fd();
	fuzz_check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) == 0);
	fuzz_check(keeper_connect(&loop, sv[0], &ev, &k, &e) == 0);
	for (unsigned int i = 0; i < 4; i++) {
		slot_name(slot, i);
		if (i < 2)
			fuzz_check(keeper_spawn(k, slot, on_spawned, &answers[i], &e) == 0);
		else
			fuzz_check(keeper_attach(k, slot, i, NET_OPEN, on_done, &answers[i], &e) == 0);
	}
	for (int i = 0; in.n > 0 && i < 50; i++) {
		send_one(sv[1], &in);
		if (i % 8 == 7)
			(void)uv_run(&loop, UV_RUN_NOWAIT);
	}
	(void)uv_run(&loop, UV_RUN_NOWAIT);
	fuzz_check(n_lost <= 1);
	keeper_free(k);
	for (int i = 0; i < 4; i++)
		fuzz_check(answers[i] == 1);
	closep(&sv[1]);
	(void)uv_run(&loop, UV_RUN_NOWAIT);
	fuzz_check(fuzz_lowest_fd() == before);
	return 0;
}
