#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "emulator/base/fd.h"
#include "emulator/base/sys.h"
#include "netpolicy/egress-internal.h"

/* The only process with a foot in the host's network. It makes sockets, never connects or binds one, and
 * can do nothing else: no privilege, no file, and a system call filter that knows a handful of calls. */

/* Root on the host would make root's sockets: an ordinary id will do. Without the right to change: as it is. */
static int drop_privileges(void)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { 0 };
	enum { NOBODY = 65534 };

	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		(void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	if (geteuid() == 0) {
		(void)setgroups(0, NULL);
		(void)!setresgid(NOBODY, NOBODY, NOBODY);
		(void)!setresuid(NOBODY, NOBODY, NOBODY);
	}
	if (syscall(SYS_capset, &h, none) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	/* A change of ids clears this; the egress process dies of our EOF, not we of a ptrace. */
	return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ? -errno : 0;
}

static int filter(void)
{
	static const int ALLOWED[] = { SCMP_SYS(recvmsg),    SCMP_SYS(sendmsg),	     SCMP_SYS(close),
				       SCMP_SYS(poll),	     SCMP_SYS(munmap),	     SCMP_SYS(brk),
				       SCMP_SYS(exit_group), SCMP_SYS(rt_sigreturn), SCMP_SYS(restart_syscall) };
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int r = ctx ? 0 : -ENOMEM;

	for (size_t i = 0; i < ARRAY_SIZE(ALLOWED) && r == 0; i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, ALLOWED[i], 0);
	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_INET, 0));
	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, AF_INET6, 0));
	/* Not released: free() might then make a call that has just been forbidden. */
	return r == 0 ? seccomp_load(ctx) : r;
}

static void serve(int sock, char letter)
{
	bool tcp = letter == '4' || letter == '6', v6 = letter == '6' || letter == 'D';
	int fds[BLANK_BATCH], r;
	size_t n = 0;

	while (n < BLANK_BATCH) {
		fds[n] = socket(v6 ? AF_INET6 : AF_INET,
				(tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (fds[n] < 0)
			break;
		n++;
	}
	/* Too many descriptors may be in flight for a moment (unix(7), ETOOMANYREFS). */
	for (int tries = 0; (r = fd_send_msg(sock, &letter, 1, fds, n)) == -ETOOMANYREFS && tries < 1000; tries++)
		(void)poll(NULL, 0, 1);
	if (r == -ETOOMANYREFS)
		r = fd_send_msg(sock, &letter, 1, NULL, 0);
	for (size_t i = 0; i < n; i++)
		(void)close(fds[i]);
	if (r < 0)
		_exit(r == -EPIPE ? 0 : 1);
}

_noreturn_ void dialer_main(int sock)
{
	char letter;
	ssize_t n;

	(void)signal(SIGPIPE, SIG_IGN);
	if (dup3(sock, STDERR_FILENO + 1, O_CLOEXEC) < 0 && errno != EINVAL)
		_exit(1);
	sock = STDERR_FILENO + 1;
	if (sys_close_range(0, STDERR_FILENO, 0) < 0 || sys_close_range((unsigned int)sock + 1, ~0u, 0) < 0)
		_exit(1);
	if (fd_set_nonblock(sock, false) < 0 || drop_privileges() < 0 || filter() != 0)
		_exit(1);
	for (;;) {
		n = fd_recv_msg(sock, &letter, 1, NULL, 0, NULL);
		if (n == -EINTR)
			continue;
		if (n != 1)
			_exit(0);
		if (letter == '4' || letter == '6' || letter == 'd' || letter == 'D')
			serve(sock, letter);
	}
}
