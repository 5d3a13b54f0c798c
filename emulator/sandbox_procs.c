/* What runs in a sandbox at its pause, for the snapshot's manifest: command lines and listening ports, told
 * by /proc and sock_diag. In the pause's worker, when the processes are frozen. Everything read is the sandbox's word. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "emulator/sandbox-internal.h"

#define PROCESSES_MAX 512
#define PORTS_MAX 256
#define COMMAND_MAX 512
#define TCP_LISTEN 10 /* the kernel's include/net/tcp_states.h */

struct collector {
	struct json_object *processes, *ports;
	bool ports_read; /* one network namespace: any process tells */
};

/* Words of a command line, NUL between them, as one printable line. */
static void printable(char *s, size_t n)
{
	while (n > 0 && s[n - 1] == '\0')
		n--;
	for (size_t i = 0; i < n; i++)
		if (s[i] == '\0' || s[i] == '\n')
			s[i] = ' ';
		else if (s[i] < 0x20 || s[i] > 0x7e)
			s[i] = '?';
	s[n] = '\0';
}

/* proc_pid_status(5), NSpid: the last one is the sandbox's own view. 0 if it can't be told. */
static int inner_pid(pid_t pid)
{
	char path[48], text[4096], *p;

	(void)text_format(path, sizeof(path), "/proc/%d/status", pid);
	if (fd_read_file(AT_FDCWD, path, text, sizeof(text)) < 0)
		return 0;
	p = strstr(text, "\nNSpid:");
	if (!p)
		return 0;
	p += strlen("\nNSpid:");
	p[strcspn(p, "\n")] = '\0';
	p = strrchr(p, '\t');
	return p ? (int)strtol(p, NULL, 10) : 0;
}

static void read_command(pid_t pid, char ret[static COMMAND_MAX])
{
	char path[48];
	ssize_t n = 0;
	int fd;

	(void)text_format(path, sizeof(path), "/proc/%d/cmdline", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		n = fd_read_all(fd, ret, COMMAND_MAX - 1);
	closep(&fd);
	printable(ret, n > 0 ? (size_t)n : 0);
}

static void add_port(struct collector *c, int family, const void *address, unsigned int port)
{
	char text[INET6_ADDRSTRLEN] = "";
	struct json_object *o;

	if (json_object_array_length(c->ports) >= PORTS_MAX)
		return;
	(void)inet_ntop(family, address, text, sizeof(text));
	o = json_object_new_object();
	(void)json_object_object_add(o, "protocol", json_object_new_string("tcp"));
	(void)json_object_object_add(o, "address", json_object_new_string(text));
	(void)json_object_object_add(o, "port", json_object_new_int((int)port));
	(void)json_object_array_add(c->ports, o);
}

/* One datagram of answers; false at the end of them. */
static bool take_answers(struct collector *c, int sock)
{
	_Alignas(struct nlmsghdr) char in[16384];
	ssize_t n = recv(sock, in, sizeof(in), 0);
	const struct nlmsghdr *h = (const void *)in;

	for (size_t left = n > 0 ? (size_t)n : 0; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
		const struct inet_diag_msg *m = NLMSG_DATA(h);

		if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY || h->nlmsg_len < NLMSG_LENGTH(sizeof(*m)))
			return false; /* NLMSG_DONE, or an error */
		add_port(c, m->idiag_family, m->id.idiag_src, ntohs(m->id.idiag_sport));
	}
	return n > 0;
}

/* sock_diag(7): the listening sockets alone. /proc/PID/net/tcp would walk the host's whole table of
 * connections, milliseconds each time. */
static void ask_ports(struct collector *c, int sock, int family)
{
	struct {
		struct nlmsghdr h;
		struct inet_diag_req_v2 q;
	} m = {
		.h = { .nlmsg_len = sizeof(m),
		       .nlmsg_type = SOCK_DIAG_BY_FAMILY,
		       .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
		.q = { .sdiag_family = (__u8)family, .sdiag_protocol = IPPROTO_TCP, .idiag_states = 1u << TCP_LISTEN },
	};

	if (send(sock, &m, sizeof(m), 0) != (ssize_t)sizeof(m))
		return;
	while (take_answers(c, sock))
		;
}

/* This worker moves into the sandbox's network namespace; it has no other use for one. */
static bool read_ports(struct collector *c, pid_t pid)
{
	const struct timeval patience = { .tv_sec = 1 };
	_cleanup_close_ int ns = -1, sock = -1;
	char path[48];

	(void)text_format(path, sizeof(path), "/proc/%d/ns/net", pid);
	ns = open(path, O_RDONLY | O_CLOEXEC);
	if (ns < 0 || setns(ns, CLONE_NEWNET) < 0)
		return false;
	sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	if (sock < 0 || setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
		return true;
	ask_ports(c, sock, AF_INET);
	ask_ports(c, sock, AF_INET6);
	return true;
}

static int add_process(void *arg, pid_t pid)
{
	struct collector *c = arg;
	int inner = inner_pid(pid);
	char command[COMMAND_MAX];
	struct json_object *o;

	/* The sandbox's init comes back by itself. */
	if (inner == 1 || json_object_array_length(c->processes) >= PROCESSES_MAX)
		return 0;
	if (!c->ports_read)
		c->ports_read = read_ports(c, pid);
	read_command(pid, command);
	o = json_object_new_object();
	(void)json_object_object_add(o, "pid", json_object_new_int(inner));
	(void)json_object_object_add(o, "command", json_object_new_string(command));
	(void)json_object_array_add(c->processes, o);
	return 0;
}

void sandbox_collect_processes(struct cgroup_root *r, const char *slot, struct json_object **ret_processes,
			       struct json_object **ret_ports)
{
	struct collector c = { .processes = json_object_new_array(), .ports = json_object_new_array() };

	if (c.processes && c.ports)
		(void)cgroup_each_pid(r, slot, add_process, &c);
	*ret_processes = c.processes;
	*ret_ports = c.ports;
}
