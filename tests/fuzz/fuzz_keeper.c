/* The keeper's end of the daemon's socket. Its own file is part of this one, so that what a request does to the system
 * (clone, signals, the network) can be replaced by nothing; what is left is the reading and the table of slots. */

#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "emulator/base/fd.h"
#include "emulator/base/log.h"
#include "emulator/base/sys.h"
#include "emulator/cgroup.h"
#include "emulator/keeper_net.h"
#include "emulator/proto.h"
#include "tests/fuzz/fuzz.h"

static pid_t no_clone(struct clone_args *args)
{
	*(int *)(uintptr_t)args->pidfd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return 4000000; /* beyond any process */
}

static pid_t no_wait(int *status)
{
	if (status)
		*status = 0;
	return 0;
}

#define sys_clone3(args) no_clone(args)
#define sys_pidfd_send_signal(fd, sig) ((void)(fd), 0)
#define kill(pid, sig) ((void)(pid), 0)
#define waitpid(pid, status, flags) no_wait(status)
#define cgroup_open_for_clone(root, slot) (-ENOTSUP)
#define cgroup_root_backend(root) CGROUP_NONE
#define idmap_sandbox_map(map) ((void)(map), "0 0 1\n")
#define fd_write_file(at, path, text) ((void)(at), (void)(path), (void)(text), 0)
/* A line for each wrong message would be all there is to see. */
#undef log_error
#undef log_warn
#define log_error(...) log_debug(__VA_ARGS__)
#define log_warn(...) log_debug(__VA_ARGS__)
#include "emulator/keeper.c" /* NOLINT(bugprone-suspicious-include) */

static void send_one(int sock, struct fuzz_input *in)
{
	unsigned int how = fuzz_byte(in);
	struct keeper_msg m = { .magic = KEEPER_MAGIC, .type = (how & 7) };

	(void)snprintf(m.slot, sizeof(m.slot), "s-01hxyz0000000000000000000%u", fuzz_byte(in) & 7);
	m.value = (int8_t)fuzz_byte(in);
	m.mode = fuzz_byte(in) & 7;
	if (how & 0x10)
		fuzz_take(in, &m, sizeof(m));
	else if (how & 0x20)
		fuzz_take(in, m.slot, sizeof(m.slot));
	(void)!fd_send_msg(sock, &m, how & 0x40 ? fuzz_byte(in) + 1u : sizeof(m), NULL, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	const struct keeper_config c = { .state_fd = -1 };
	struct keeper_process k = { .c = &c, .ep = -1, .listener = -1, .sigfd = -1 };
	struct fuzz_input in = { p, n };
	struct kept *s, *tmp;
	int sv[2];

	fuzz_check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) == 0);
	k.conn = sv[0];
	for (int i = 0; in.n > 0 && i < 200 && k.conn >= 0; i++) {
		char drop[sizeof(struct keeper_msg)];

		send_one(sv[1], &in);
		on_daemon(&k);
		while (recv(sv[1], drop, sizeof(drop), MSG_DONTWAIT) > 0)
			;
	}
	HASH_ITER(by_slot, k.kept, s, tmp)
	{
		fuzz_check(proto_slot_ok(s->slot) && s->ctl >= 0);
		forget(&k, s);
	}
	closep(&k.conn);
	closep(&sv[1]);
	return 0;
}
