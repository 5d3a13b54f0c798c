/* Whose socket is it? The egress process knows a connection by its source port; this finds the command behind it.
 *
 * With one command running and nothing left over from earlier ones, it is that one's. Else the sandbox's processes are
 * searched for a socket with that port (pidfd_getfd(2)), and the one that has it tells its command by the mark that
 * every process inherits (pid1.c); one that took its mark off, by that of an ancestor. A refusal waits for this
 * (egress.h), so the socket is still there; who only sends a datagram and leaves may be missed.
 *
 * How many processes and sockets there are is the sandbox's choice, so the search has a budget: SEARCH_US at a time,
 * and OWNER_US a second for each sandbox, in our own CPU time, for a busy host must not cost an owner. What is beyond it
 * has none. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/sys.h"
#include "emulator/base/text.h"
#include "emulator/exec-internal.h"
#include "emulator/pid1.h"
#include "emulator/proctree.h"

#define SEARCH_US 5000
#define OWNER_US 30000
#define ANCESTORS_MAX 32

struct search {
	uint8_t proto;
	uint16_t port;
	int64_t until; /* clock_thread_us */
	pid_t found;
};

/* Raw sockets have no port: any one of the protocol will do. */
static bool is_wanted(int fd, const struct search *s)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} a = { .v6 = { 0 } };
	socklen_t n = sizeof(int);
	int domain = 0, proto = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) < 0 || (domain != AF_INET && domain != AF_INET6) ||
	    getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &proto, &n) < 0)
		return false;
	if (proto != s->proto)
		return s->port == 0 && (proto == IPPROTO_RAW || proto == IPPROTO_ICMPV6);
	if (s->port == 0)
		return true;
	n = sizeof(a);
	if (getsockname(fd, &a.any, &n) < 0)
		return false;
	return ntohs(domain == AF_INET ? a.v4.sin_port : a.v6.sin6_port) == s->port;
}

static bool look_at(int dir, int pidfd, const char *name, const struct search *s)
{
	char target[16];
	ssize_t n = readlinkat(dir, name, target, sizeof(target));
	_cleanup_close_ int fd = -1;
	uint64_t number;

	if (n < 8 || memcmp(target, "socket:[", 8) != 0 || text_parse_u64(name, 0, INT32_MAX, &number) < 0)
		return false;
	fd = (int)syscall(SYS_pidfd_getfd, pidfd, (int)number, 0);
	return fd >= 0 && is_wanted(fd, s);
}

static int search_process(void *arg, pid_t pid)
{
	struct search *s = arg;
	_cleanup_close_ int pidfd = sys_pidfd_open(pid);
	char path[48];
	const struct dirent *d;
	DIR *dir;

	if (clock_thread_us() > s->until)
		return 1;
	(void)snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = pidfd < 0 ? NULL : opendir(path);
	for (int i = 0; dir && s->found == 0 && (d = readdir(dir)); i++) {
		if (d->d_name[0] != '.' && look_at(dirfd(dir), pidfd, d->d_name, s))
			s->found = pid;
		if (i % 64 == 63 && clock_thread_us() > s->until)
			break;
	}
	if (dir)
		(void)closedir(dir);
	return s->found != 0;
}

/* The mark as the number of a command; 0: none. */
static uint64_t mark_of(pid_t pid)
{
	static const char title[] = "\nMax file locks ";
	char path[48], text[4096];
	const char *p;
	uint64_t mark;

	(void)snprintf(path, sizeof(path), "/proc/%d/limits", pid);
	if (fd_read_file(AT_FDCWD, path, text, sizeof(text)) < 0)
		return 0;
	p = strstr(text, title);
	mark = p ? strtoull(p + sizeof(title) - 1, NULL, 10) : 0;
	return mark > PID1_MARK_BASE && mark != UINT64_MAX ? mark - PID1_MARK_BASE : 0;
}

/* proc_pid_stat(5): behind the last ')' come the state and the parent. */
static pid_t parent_of(pid_t pid)
{
	char path[48], text[512], *p;
	int parent = 0;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (fd_read_file(AT_FDCWD, path, text, sizeof(text)) < 0)
		return 0;
	p = strrchr(text, ')');
	return p && sscanf(p + 1, " %*c %d", &parent) == 1 ? parent : 0;
}

static uint64_t command_of(const struct sandbox *sb, pid_t pid)
{
	uint64_t id = 0;

	/* Up to its init: what is above is not its own. */
	for (int i = 0; i < ANCESTORS_MAX && pid > 1 && pid != sb->slot->pid && id == 0; i++) {
		id = mark_of(pid);
		pid = parent_of(pid);
	}
	return id;
}

/* Whether it may cost something now. */
static bool affordable(struct sandbox *sb, int64_t now)
{
	sb->owner_us = MIN((int64_t)OWNER_US, sb->owner_us + (now - sb->owner_at) * OWNER_US / 1000000);
	sb->owner_at = now;
	return sb->owner_us > 0;
}

static void search(struct sandbox *sb, uint8_t proto, uint16_t port, char ret[static EXEC_ID_SIZE])
{
	int64_t began = clock_thread_us();
	struct search s = { .proto = proto, .port = port, .until = began + SEARCH_US };
	const char *name = NULL;

	if (!sb->slot || !affordable(sb, clock_mono_us()))
		return;
	if (cgroup_each_pid(sb->m->c.cgroups, sb->slot->name, search_process, &s) == -ENOTSUP)
		(void)proctree_each(sb->slot->pid, search_process, &s);
	if (s.found)
		name = exec_name_of(sb, command_of(sb, s.found));
	if (name)
		(void)snprintf(ret, EXEC_ID_SIZE, "%s", name);
	sb->owner_us -= clock_thread_us() - began;
}

void sandbox_net_owner(struct sandbox *sb, uint8_t proto, uint16_t port, char ret[static EXEC_ID_SIZE])
{
	ret[0] = '\0';
	if (sb->execs && !sb->execs->next && !sb->net_strays)
		(void)snprintf(ret, EXEC_ID_SIZE, "%s", sb->execs->name);
	else
		search(sb, proto, port, ret);
}
