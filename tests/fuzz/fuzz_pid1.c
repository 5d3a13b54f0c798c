/* Init's end of its control socket: commands and signals as a daemon that is not itself any more might send them. Init's
 * own file is part of this one, with what would start, signal or end a process replaced. */

#include <dirent.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "emulator/base/fd.h"
#include "emulator/proto.h"
#include "tests/fuzz/fuzz.h"

static jmp_buf ended;

static _noreturn_ void no_exit(int status _unused_)
{
	longjmp(ended, 1);
}

static pid_t no_clone(int (*fn)(void *arg) _unused_, const void *stack, int flags _unused_, const char *program)
{
	fuzz_check(program && *program && stack);
	return 3999999;
}

static int no_kill(pid_t pid, int sig)
{
	fuzz_check(pid > 1 && sig >= 0);
	return -1;
}

static pid_t no_wait(int *status)
{
	*status = 0;
	return -1;
}

static int no_limit(const struct rlimit *l)
{
	return l ? 0 : -1;
}

#define _exit(status) no_exit(status)
#define clone(fn, stack, flags, arg) no_clone(fn, stack, flags, (arg)->program)
#define kill(pid, sig) no_kill(pid, sig)
#define waitpid(pid, status, flags) no_wait(status)
#define setrlimit(what, limit) no_limit(limit)
#define opendir(path) NULL
/* The inliner sees other code than what runs in an init. */
#ifndef __clang__ /* which has neither */
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wclobbered"
#endif
#include "emulator/pid1.c" /* NOLINT(bugprone-suspicious-include) */

static void send_one(int sock, struct fuzz_input *in)
{
	unsigned int how = fuzz_byte(in), n_fds = 3 + (how >> 7);
	static union init_msg m;
	size_t n = sizeof(m.signal);
	int fds[4] = { dup(0), dup(0), dup(0), dup(0) };

	memset(&m, 0, sizeof(m));
	if (how & 1) {
		m.signal = (struct init_signal_msg){ .h = { INIT_MAGIC, INIT_SIGNAL }, .id = fuzz_byte(in) & 7 };
		m.signal.sig = (int8_t)fuzz_byte(in);
		n_fds = 0;
	} else if (how & 2) { /* a spec that follows */
		uint8_t len = (uint8_t)fuzz_byte(in);

		m.exec = (struct init_exec_msg){ .h = { INIT_MAGIC, INIT_EXEC }, .id = how >> 2, .spec_len = len };
		m.exec.n_argv = fuzz_byte(in) & 7;
		m.exec.n_env = fuzz_byte(in) & 7;
		m.exec.tell_start = how >> 6 & 1;
		fuzz_take(in, m.exec_inline.spec, len);
		if (how & 4 && len > 0)
			m.exec_inline.spec[len - 1] = '\0';
		n = sizeof(m.exec) + len;
		n_fds = 3;
	} else { /* one in a file of its own */
		uint8_t len = (uint8_t)fuzz_byte(in), text[256];

		fuzz_take(in, text, len);
		m.exec = (struct init_exec_msg){ .h = { INIT_MAGIC, INIT_EXEC }, .id = how >> 2, .spec_len = len };
		m.exec.n_argv = 1 + (fuzz_byte(in) & 7);
		m.exec.n_env = fuzz_byte(in) & 7;
		closep(&fds[0]);
		fds[0] = fd_memfile("spec", text, len);
		n = sizeof(m.exec);
	}
	if (how & 0x20)
		fuzz_take(in, &m, n); /* any bytes, of a length that may be right */
	(void)!fd_send_msg(sock, &m, n, fds, n_fds);
	for (int i = 0; i < 4; i++)
		closep(&fds[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static struct pid1 pid1;
	struct fuzz_input in = { p, n };
	static int sv[2];

	if (pid1.mark_max == 0) {
		fuzz_check(freopen("/dev/null", "r", stdin));
		pid1.mark_max = 1;
	}
	fuzz_check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) == 0);
	pid1.sock = sv[0];
	pid1.reports = open("/dev/null", O_WRONLY | O_CLOEXEC);
	for (volatile int i = 0; in.n > 0 && i < 20; i++) {
		char drop[256];

		send_one(sv[1], &in);
		if (setjmp(ended))
			break; /* the sandbox's end; what it held goes with the process */
		on_message(&pid1);
		while (recv(sv[1], drop, sizeof(drop), MSG_DONTWAIT) > 0)
			;
	}
	free(pid1.commands);
	pid1.commands = NULL;
	pid1.n = pid1.cap = 0;
	closep(&sv[0]);
	closep(&pid1.reports);
	closep(&sv[1]);
	/* As the kernel would: descriptors of the message that ended it. */
	(void)sys_close_range(16, ~0u, 0);
	return 0;
}
