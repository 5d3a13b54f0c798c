/* What runs in a sandbox at its pause, for the snapshot's manifest: command lines and listening ports, told
 * by /proc. In the pause's worker, when the processes are frozen. Everything read is the sandbox's word. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "emulator/base/buf.h"
#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "emulator/sandbox-internal.h"

#define PROCESSES_MAX 512
#define PORTS_MAX 256
#define COMMAND_MAX 512
#define NET_MAX (256u << 10)
#define TCP_LISTEN 10 /* include/net/tcp_states.h, as /proc/net/tcp prints it: 0A */

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

/* "  0: 0100007F:1F90 00000000:0000 0A ...": the address as the kernel's words in hex. */
static void add_port(struct collector *c, const char *line, bool v6)
{
	unsigned int a[4] = { 0 }, port, state;
	char text[INET6_ADDRSTRLEN] = "";
	struct json_object *o;

	if (v6 ? sscanf(line, " %*d: %8x%8x%8x%8x:%x %*x:%*x %x", &a[0], &a[1], &a[2], &a[3], &port, &state) != 6 :
		 sscanf(line, " %*d: %8x:%x %*x:%*x %x", &a[0], &port, &state) != 3)
		return;
	if (state != TCP_LISTEN || json_object_array_length(c->ports) >= PORTS_MAX)
		return;
	(void)inet_ntop(v6 ? AF_INET6 : AF_INET, a, text, sizeof(text));
	o = json_object_new_object();
	(void)json_object_object_add(o, "protocol", json_object_new_string("tcp"));
	(void)json_object_object_add(o, "address", json_object_new_string(text));
	(void)json_object_object_add(o, "port", json_object_new_int((int)(port & 0xffff)));
	(void)json_object_array_add(c->ports, o);
}

static void read_ports(struct collector *c, pid_t pid, bool v6)
{
	_cleanup_buf_ struct buf b = BUF_INIT(NET_MAX);
	_cleanup_close_ int fd = -1;
	char path[48], *p, *line;
	ssize_t n;

	(void)text_format(path, sizeof(path), "/proc/%d/net/%s", pid, v6 ? "tcp6" : "tcp");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || buf_reserve(&b, NET_MAX, &p) < 0)
		return;
	n = fd_read_all(fd, p, NET_MAX);
	if (n <= 0)
		return;
	buf_commit(&b, (size_t)n);
	p = b.p;
	while ((line = strsep(&p, "\n")))
		add_port(c, line, v6);
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
	if (!c->ports_read) {
		read_ports(c, pid, false);
		read_ports(c, pid, true);
		c->ports_read = true;
	}
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
