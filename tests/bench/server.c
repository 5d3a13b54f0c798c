#include "tests/bench/server.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "emulator/base/fd.h"
#include "emulator/base/sys.h"
#include "emulator/base/text.h"
#include "tests/bench/client.h"
#include "tests/bench/stats.h"

#define START_LIMIT_US 20e6
#define STOP_LIMIT_US 30e6

static void nap_us(long us)
{
	struct timespec t = { .tv_nsec = us * 1000 };

	(void)nanosleep(&t, NULL);
}

int server_spawn(char *const argv[], int log_fd, pid_t *ret, struct err *e)
{
	posix_spawn_file_actions_t fa;
	int r;

	if (posix_spawn_file_actions_init(&fa) != 0)
		return err_errno(e, ENOMEM, "posix_spawn");
	r = posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDWR, 0);
	if (r == 0)
		r = posix_spawn_file_actions_adddup2(&fa, log_fd < 0 ? 0 : log_fd, 1);
	if (r == 0)
		r = posix_spawn_file_actions_adddup2(&fa, log_fd < 0 ? 0 : log_fd, 2);
	if (r == 0)
		r = posix_spawnp(ret, argv[0], &fa, NULL, argv, environ);
	(void)posix_spawn_file_actions_destroy(&fa);
	return r == 0 ? 0 : err_errno(e, r, "can't start %s", argv[0]);
}

static int wait_for_port(struct server *s, const char *port_file, double start, struct err *e)
{
	for (;;) {
		char text[16];
		ssize_t n = fd_read_file(AT_FDCWD, port_file, text, sizeof(text));
		uint64_t port;

		if (n > 1 && text[n - 1] == '\n') {
			text[n - 1] = '\0';
			if (text_parse_u64(text, 1, 65535, &port) < 0)
				return err_set(e, ERR_IO, EPROTO, NULL, "no port in the port file: %s", text);
			s->port = (uint16_t)port;
			return 0;
		}
		if (waitpid(s->pid, NULL, WNOHANG) == s->pid) {
			s->pid = 0;
			return err_set(e, ERR_IO, EPIPE, NULL, "the emulator ended while starting");
		}
		if (stats_now_us() - start > START_LIMIT_US)
			return err_set(e, ERR_TIMEOUT, ETIMEDOUT, NULL, "the emulator is not ready after 20 s");
		nap_us(100);
	}
}

int server_start(const struct server_config *c, struct server *ret, double *ret_ready_us, struct err *e)
{
	/* Those at the end are what is asked for. */
	const char *argv[19] = { c->program,	"serve",      "--listen", "127.0.0.1:0", "--port-file", c->port_file,
				 "--state-dir", c->state_dir, "--auth",	  "any",	 "--log-level", "warn" };
	_cleanup_close_ int log = open(c->log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	struct client cl = CLIENT_INIT;
	size_t n = 12;
	double start;
	int r;

	if (c->warm) {
		argv[n++] = "--warm";
		argv[n++] = c->warm;
	}
	if (c->map) {
		argv[n++] = "--map";
		argv[n++] = c->map;
	}
	if (c->snapshot_dir) {
		argv[n++] = "--snapshot-dir";
		argv[n] = c->snapshot_dir;
	}
	if (log < 0)
		return err_errno(e, errno, "can't open %s", c->log_file);
	(void)unlink(c->port_file);
	ret->port_file = c->port_file;
	start = stats_now_us();
	r = server_spawn((char *const *)(uintptr_t)argv, log, &ret->pid, e);
	if (r < 0)
		return r;
	r = wait_for_port(ret, c->port_file, start, e);
	if (r >= 0)
		r = client_open(&cl, ret->port, "ork_bench", e);
	if (r >= 0)
		r = client_call(&cl, "GET", "/_emulator/health", NULL, e);
	if (r >= 0 && cl.status != 200)
		r = err_set(e, ERR_IO, EPROTO, NULL, "/_emulator/health answered %d", cl.status);
	*ret_ready_us = stats_now_us() - start;
	client_close(&cl);
	if (r < 0)
		err_prefix(e, "see %s", c->log_file);
	return r;
}

int server_stop(struct server *s, double *ret_us, struct err *e)
{
	double start = stats_now_us();
	pid_t pid = s->pid;
	int status;

	if (pid <= 0)
		return 0;
	s->pid = 0;
	(void)kill(pid, SIGTERM);
	while (waitpid(pid, &status, WNOHANG) != pid) {
		if (stats_now_us() - start > STOP_LIMIT_US) {
			(void)kill(pid, SIGKILL);
			(void)waitpid(pid, &status, 0);
			return err_set(e, ERR_TIMEOUT, ETIMEDOUT, NULL, "the emulator did not stop within 30 s");
		}
		nap_us(500);
	}
	if (ret_us)
		*ret_us = stats_now_us() - start;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return err_set(e, ERR_IO, EIO, NULL, "the emulator ended with status %#x", (unsigned int)status);
	return 0;
}

struct process {
	pid_t pid, parent;
	double rss_kib;
	bool ours, init;
};

/* The number after "name:" in a file of /proc/PID, -1 if there is none. */
static double proc_number(pid_t pid, const char *file, const char *name)
{
	char path[64], text[8192];
	const char *p;

	if (text_format(path, sizeof(path), "/proc/%d/%s", pid, file) < 0 ||
	    fd_read_file(AT_FDCWD, path, text, sizeof(text)) < 0)
		return -1;
	p = strstr(text, name);
	return p ? strtod(p + strlen(name), NULL) : -1;
}

/* NSpid lists the process's id in each PID namespace, the innermost last: an init's is "N ... 1". */
static bool is_init(pid_t pid)
{
	char path[64], text[8192];
	const char *p, *end;

	if (text_format(path, sizeof(path), "/proc/%d/status", pid) < 0 ||
	    fd_read_file(AT_FDCWD, path, text, sizeof(text)) < 0)
		return false;
	p = strstr(text, "\nNSpid:");
	end = p ? strchr(p + 1, '\n') : NULL;
	return end && end - p > 3 && end[-1] == '1' && end[-2] == '\t';
}

static ssize_t list_processes(struct process *p, size_t cap)
{
	DIR *d = opendir("/proc");
	size_t n = 0;

	if (!d)
		return -errno;
	for (struct dirent *de; (de = readdir(d)) && n < cap;) {
		pid_t pid;
		double parent;

		if (!isdigit((unsigned char)de->d_name[0]))
			continue;
		pid = (pid_t)strtol(de->d_name, NULL, 10);
		parent = proc_number(pid, "status", "\nPPid:");
		if (parent < 0)
			continue;
		p[n++] = (struct process){ .pid = pid, .parent = (pid_t)parent };
	}
	(void)closedir(d);
	return (ssize_t)n;
}

static bool has_argument(pid_t pid, const char *arg)
{
	char path[64], text[4096];
	ssize_t n;

	if (text_format(path, sizeof(path), "/proc/%d/cmdline", pid) < 0)
		return false;
	n = fd_read_file(AT_FDCWD, path, text, sizeof(text));
	return n > 0 && memmem(text, (size_t)n, arg, strlen(arg));
}

/* Marks the descendants of the server, and what has left its tree but shows its arguments. A parent may come
 * after its child in the list, hence the repeats. */
static void mark_ours(struct process *p, size_t n, const struct server *s)
{
	pid_t root = s->pid;

	for (size_t i = 0; i < n; i++)
		p[i].ours = p[i].pid != getpid() && has_argument(p[i].pid, s->port_file);
	for (bool changed = true; changed;) {
		changed = false;
		for (size_t i = 0; i < n; i++) {
			bool parent_ours = p[i].pid == root;

			for (size_t k = 0; k < n && !p[i].ours && !parent_ours; k++)
				parent_ours = p[k].ours && p[k].pid == p[i].parent;
			if (parent_ours && !p[i].ours)
				changed = p[i].ours = true;
		}
	}
}

int server_memory(const struct server *s, struct server_memory *ret, struct err *e)
{
	enum { CAP = 8192 };
	_cleanup_free_ struct process *p = calloc(CAP, sizeof(*p));
	ssize_t n = p ? list_processes(p, CAP) : -ENOMEM;
	pid_t keeper = 0;

	if (n < 0)
		return err_errno(e, (int)-n, "can't list /proc");
	*ret = (struct server_memory){ 0 };
	mark_ours(p, (size_t)n, s);
	for (ssize_t i = 0; i < n; i++) {
		double pss;

		if (!p[i].ours)
			continue;
		p[i].rss_kib = MAX(0, proc_number(p[i].pid, "status", "\nVmRSS:"));
		p[i].init = is_init(p[i].pid);
		if (!p[i].init)
			continue;
		pss = MAX(0, proc_number(p[i].pid, "smaps_rollup", "\nPss:"));
		ret->inits++;
		ret->init_pss_kib += pss;
		ret->init_pss_max_kib = MAX(ret->init_pss_max_kib, pss);
		keeper = p[i].parent;
	}
	if (ret->inits > 0)
		ret->init_pss_kib /= (double)ret->inits;
	for (ssize_t i = 0; i < n; i++) {
		if (!p[i].ours || p[i].init)
			continue;
		if (p[i].pid == keeper)
			ret->keeper_rss_kib = p[i].rss_kib;
		else if (p[i].pid == s->pid)
			ret->daemon_rss_kib = p[i].rss_kib;
		else
			ret->others_rss_kib += p[i].rss_kib;
	}
	return 0;
}
