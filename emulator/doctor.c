/* The doctor's frame: the list of checks, a process and a time limit for each, and the verdict. The checks
 * themselves are in doctor_sandbox.c (namespaces, ids, overlay, proc, seccomp), doctor_host.c (cgroups,
 * disk, templates, tools) and doctor_net.c. */

#include "emulator/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "emulator/base/fd.h"
#include "emulator/base/sys.h"
#include "emulator/base/text.h"
#include "emulator/doctor-internal.h"

#define PROBE_TIMEOUT_MS 20000 /* a slow machine's systemd may take its 5 s */

static const struct {
	const char *id, *title;
	doctor_probe_fn fn;
	bool needs_userns, essential;
} probes[] = {
	{ "userns", "user namespaces", doctor_probe_userns, false, true },
	{ "ids", "subordinate ids", doctor_probe_ids, true, false },
	{ "overlay", "overlay file system", doctor_probe_overlay, true, true },
	{ "proc", "proc in a namespace", doctor_probe_proc, true, true },
	{ "seccomp", "seccomp filter", doctor_probe_seccomp, false, true },
	{ "cgroup", "limits (cgroups)", doctor_probe_cgroup, true, false },
	{ "network", "nftables and veth", doctor_probe_network, true, false },
	{ "templates", "templates", doctor_probe_templates, false, false },
	{ "space", "disk space", doctor_probe_space, false, false },
	{ "kernel", "kernel limits", doctor_probe_kernel, false, false },
	{ "tools", "tools", doctor_probe_tools, false, false },
};

const char *doctor_status_name(enum doctor_status s)
{
	static const char *const names[] = { "ok", "warn", "fail", "skip" };

	return (size_t)s < ARRAY_SIZE(names) ? names[s] : "fail";
}

void doctor_ok(struct doctor_ctx *c, const char *fmt, ...)
{
	va_list ap;

	if (c->check.found[0])
		return;
	c->check.status = DOCTOR_OK;
	va_start(ap, fmt);
	(void)vsnprintf(c->check.found, sizeof(c->check.found), fmt, ap);
	va_end(ap);
}

void doctor_bad(struct doctor_ctx *c, enum doctor_status s, const char *means, const char *fix, const char *fmt, ...)
{
	va_list ap;

	if (c->check.found[0])
		return;
	c->check.status = s;
	(void)snprintf(c->check.means, sizeof(c->check.means), "%s", means);
	(void)snprintf(c->check.fix, sizeof(c->check.fix), "%s", fix ? fix : "");
	va_start(ap, fmt);
	(void)vsnprintf(c->check.found, sizeof(c->check.found), fmt, ap);
	va_end(ap);
}

int doctor_wait(int pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int doctor_in_emulator(struct doctor_ctx *c, int (*fn)(void *ctx))
{
	struct err e = ERR_INIT;
	pid_t pid;
	int k;

	if (idmap_spawn(&c->idmap, fn, c, &pid, NULL, &e) < 0) {
		doctor_bad(c, DOCTOR_FAIL, "sandboxes can't run", NULL, "%.180s", e.msg);
		return -1;
	}
	k = doctor_wait(pid);
	if (k > 0)
		doctor_bad(c, DOCTOR_FAIL, "this could not be checked", NULL, "the check ended with status %d", k);
	return k == 0 ? 0 : -1;
}

static int write_map(const struct doctor_ctx *c, pid_t pid, const char *file)
{
	char path[64];

	(void)text_format(path, sizeof(path), "/proc/%d/%s", pid, file);
	return fd_write_file(AT_FDCWD, path, idmap_sandbox_map(&c->idmap));
}

static _noreturn_ void sandbox_child(struct doctor_ctx *c, int (*fn)(struct doctor_ctx *c), int ready, int go)
{
	char ch = 0;
	pid_t pid;

	if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0) {
		doctor_bad(c, DOCTOR_FAIL, "sandboxes can't run", NULL, "nested namespaces: %s", strerror(errno));
		_exit(1);
	}
	if (write(ready, &ch, 1) != 1 || read(go, &ch, 1) != 1 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0) {
		doctor_bad(c, DOCTOR_FAIL, "sandboxes can't run", NULL, "becoming root of a nested namespace: %s",
			   strerror(errno));
		_exit(1);
	}
	pid = fork();
	if (pid == 0)
		_exit(fn(c));
	_exit(pid < 0 ? 1 : doctor_wait(pid));
}

int doctor_in_sandbox(struct doctor_ctx *c, int (*fn)(struct doctor_ctx *c))
{
	int ready[2], go[2], k;
	char ch = 0;
	pid_t pid;

	if (pipe(ready) < 0 || pipe(go) < 0)
		return -1;
	pid = fork();
	if (pid == 0) {
		(void)close(ready[0]);
		(void)close(go[1]);
		sandbox_child(c, fn, ready[1], go[0]);
	}
	(void)close(ready[1]);
	(void)close(go[0]);
	if (pid > 0 && read(ready[0], &ch, 1) == 1) {
		k = write_map(c, pid, "uid_map");
		if (k == 0)
			k = write_map(c, pid, "gid_map");
		if (k < 0)
			doctor_bad(c, DOCTOR_FAIL, "sandboxes can't run", NULL, "mapping ids of a nested namespace: %s",
				   strerror(-k));
		else
			(void)!write(go[1], &ch, 1);
	}
	(void)close(go[1]);
	(void)close(ready[0]);
	return pid < 0 ? -1 : doctor_wait(pid);
}

/* Runs one probe in a process group of its own, so that all of it can be ended. */
static void run_probe(struct doctor_ctx *c, doctor_probe_fn fn)
{
	_cleanup_close_ int pidfd = -1;
	struct pollfd p;
	pid_t pid;
	int k;

	(void)fflush(NULL);
	pid = fork();
	if (pid == 0) {
		(void)setpgid(0, 0);
		fn(c);
		_exit(0);
	}
	if (pid < 0) {
		doctor_bad(c, DOCTOR_FAIL, "this could not be checked", NULL, "fork: %s", strerror(errno));
		return;
	}
	(void)setpgid(pid, pid);
	pidfd = sys_pidfd_open(pid);
	p = (struct pollfd){ .fd = pidfd, .events = POLLIN };
	do
		k = poll(&p, 1, PROBE_TIMEOUT_MS);
	while (k < 0 && errno == EINTR);
	(void)kill(-pid, SIGKILL);
	(void)doctor_wait(pid);
	if (k == 0)
		doctor_bad(c, DOCTOR_FAIL, "this could not be checked", NULL, "no answer within %d s",
			   PROBE_TIMEOUT_MS / 1000);
	doctor_bad(c, DOCTOR_FAIL, "this could not be checked", NULL, "the check died");
}

static void add_sentence(struct doctor_report *r, const char *sep, const char *s)
{
	size_t n = strlen(r->verdict);

	(void)snprintf(r->verdict + n, sizeof(r->verdict) - n, "%s%s", sep, s);
}

static void judge(struct doctor_report *r)
{
	bool degraded = false;

	r->can_run = true;
	r->verdict[0] = '\0';
	for (size_t i = 0; i < r->n; i++)
		if (probes[i].essential && r->check[i].status != DOCTOR_OK && r->check[i].status != DOCTOR_WARN)
			r->can_run = false;
	if (!r->can_run) {
		add_sentence(r, "", "Sandboxes can't run on this host:");
		for (size_t i = 0; i < r->n; i++)
			if (probes[i].essential && r->check[i].status == DOCTOR_FAIL) {
				add_sentence(r, degraded ? "; " : " ", r->check[i].title);
				degraded = true;
			}
		add_sentence(r, "", ". Run the commands above, then ask again.");
		return;
	}
	for (size_t i = 0; i < r->n; i++)
		if (r->check[i].status == DOCTOR_WARN || r->check[i].status == DOCTOR_FAIL) {
			add_sentence(r, degraded ? "; " : "Sandboxes will run, but: ", r->check[i].means);
			degraded = true;
		}
	add_sentence(r, "", degraded ? "." : "Sandboxes will run, with full isolation and enforced limits.");
}

/* $XDG_STATE_HOME/orkestr-emulator, ~/.local/state/orkestr-emulator; root: /var/lib/orkestr-emulator. */
static int state_dir(const char *given, char *ret, size_t cap)
{
	const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");

	if (given)
		return text_format(ret, cap, "%s", given);
	if (geteuid() == 0)
		return text_format(ret, cap, "/var/lib/orkestr-emulator");
	if (xdg && *xdg == '/')
		return text_format(ret, cap, "%s/orkestr-emulator", xdg);
	return text_format(ret, cap, "%s/.local/state/orkestr-emulator", home && *home == '/' ? home : "");
}

int doctor_run(const struct doctor_options *o, struct doctor_report *ret, struct err *e)
{
	struct doctor_ctx *c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	_cleanup_close_ int state_fd = -1;

	if (c == MAP_FAILED)
		return err_errno(e, ENOMEM, "doctor");
	if (state_dir(o->state_dir, c->state_dir, sizeof(c->state_dir)) < 0) {
		(void)munmap(c, sizeof(*c));
		return err_set(e, ERR_INVALID, ENAMETOOLONG, NULL, "the state dir's path is too long");
	}
	idmap_choose(&c->idmap);
	/* With the caller's rights: the folders above it may be closed to the emulator's own id. */
	state_fd = open(c->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	c->state_fd = state_fd;
	ret->n = 0;
	for (size_t i = 0; i < ARRAY_SIZE(probes); i++) {
		c->check = (struct doctor_check){ .id = probes[i].id, .title = probes[i].title };
		if (probes[i].needs_userns && !c->userns)
			doctor_bad(c, DOCTOR_SKIP, "", NULL, "not tried: it needs user namespaces");
		else
			run_probe(c, probes[i].fn);
		if (i == 0)
			c->userns = c->check.status == DOCTOR_OK;
		ret->check[ret->n++] = c->check;
	}
	(void)munmap(c, sizeof(*c));
	judge(ret);
	return 0;
}
