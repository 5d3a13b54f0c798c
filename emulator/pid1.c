#include "emulator/pid1.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/sys.h"
#include "emulator/init.h"
#include "emulator/proto.h"

/* Theory of operation
 *
 * One poll loop over the control socket and a signalfd. A command is started with vfork(2) semantics (no page
 * table is copied), in a session of its own. Exits are reaped with waitpid and reported
 * in the order the kernel gives them; orphans that belong to no command are just reaped.
 *
 * Whose a process is can't be told from its parent once that has died, nor from its session when it made one
 * of its own. So each command is marked: by the soft limit RLIMIT_LOCKS, which Linux has ignored since 2.4.25
 * (getrlimit(2)), every process inherits, and everyone can read in /proc/PID/limits. A process that wants
 * to hide may change it; then its session and its ancestors still tell.
 *
 * Messages come from the daemon and are trusted to mean well, but are checked all the same: a wrong one
 * ends PID 1, and with it the sandbox. After isolate_drop() this process has the sandbox's rights only. */

struct command {
	uint64_t id;
	pid_t pid; /* also its session */
	int64_t started_us;
};

/* How commands ended, for a daemon that takes over from one that died with the news: those that may have run at
 * that time, and some more. */
#define PAST_MAX 320
static struct init_exited_msg past[PAST_MAX];
static size_t past_n;

struct pid1 {
	int sock;
	int reports;	 /* the writing end */
	rlim_t mark_max; /* the hard limit, which stays as it is */
	int sigfd;
	struct command *commands;
	size_t n, cap;
};

static _noreturn_ void die(const struct pid1_config *c, const struct err *e)
{
	struct init_failed_msg m = { .h = { INIT_MAGIC, INIT_FAILED }, .errnum = e->errnum };

	(void)snprintf(m.text, sizeof(m.text), "%.*s", (int)sizeof(m.text) - 1, e->msg);
	(void)fd_send_msg(c->ctl_sock, &m, sizeof(m), NULL, 0);
	_exit(1);
}

static void receive(int sock, uint32_t type, void *msg, size_t size)
{
	struct init_header *h = msg;

	if (fd_recv_msg(sock, msg, size, NULL, 0, NULL) != (ssize_t)size || h->magic != INIT_MAGIC || h->type != type)
		_exit(0); /* the daemon or the keeper went away: so do we */
}

static int become_root_inside(bool single_id, struct err *e)
{
	if (setgroups(0, NULL) < 0 && !single_id)
		return err_errno(e, errno, "setgroups");
	if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
		return err_errno(e, errno, "becoming the sandbox's root");
	/* The change of ids made this process undumpable, and its /proc/PID/ns out of the gateway's reach, which may still
	 * have to connect it. Nothing of a sandbox runs yet; isolate_drop makes it undumpable for good. */
	(void)prctl(PR_SET_DUMPABLE, 1);
	/* If the keeper goes, nobody would reap us: go too. After the change of ids, which clears it (prctl(2)). */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return err_errno(e, errno, "PR_SET_PDEATHSIG");
	return 0;
}

static void configure(const struct pid1_config *c, struct init_configure_msg *m)
{
	struct isolate_root root = { .slot = m->slot,
				     .layers = (const char(*)[40])m->layers,
				     .n_layers = m->n_layers,
				     .cpus = m->cpus,
				     .hostname = m->hostname,
				     .memory_bytes = m->memory_bytes };
	struct err e = ERR_INIT;

	if (!proto_slot_ok(m->slot) || m->n_layers == 0 || m->n_layers > TEMPLATE_MAX_LAYERS ||
	    !proto_string_ok(m->hostname, sizeof(m->hostname)))
		_exit(1);
	for (uint32_t i = 0; i < m->n_layers; i++)
		if (!proto_string_ok(m->layers[i], sizeof(m->layers[i])) || strpbrk(m->layers[i], "/:,\\"))
			_exit(1);
	if (isolate_enter_root(&root, &e) < 0 || isolate_drop(c->filter, m->cpus, m->pids_max, &e) < 0)
		die(c, &e);
}

/* Returns the writing end of its reports. */
static int send_ready(const struct pid1_config *c)
{
	struct init_header h = { INIT_MAGIC, INIT_READY };
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), p[2];

	if (root < 0 || pipe2(p, O_CLOEXEC) < 0)
		_exit(1);
	(void)fcntl(p[1], F_SETPIPE_SZ, INIT_REPORTS_SIZE);
	if (fd_send_msg(c->ctl_sock, &h, sizeof(h), (int[]){ root, p[0] }, 2) < 0)
		_exit(1);
	(void)close(root);
	(void)close(p[0]);
	return p[1];
}

/* Waits where the daemon has not read the ones before, or is not there: the keeper has the pipe, too. */
static void send_report(const struct pid1 *p, const union init_report *r)
{
	if (fd_write_all(p->reports, r, sizeof(*r)) < 0)
		_exit(1);
}

/* --- commands --- */

struct spec {
	char *const *argv;
	char *const *env;
	const char *cwd;
};

/* The next of the spec's strings, or NULL when there is none. */
static char *next_string(char **p, const char *end)
{
	char *s = *p;

	if (s >= end)
		return NULL;
	*p += strlen(s) + 1; /* the text ends in NUL */
	return s;
}

/* Splits the spec's strings into NULL-terminated vectors (one allocation, the caller's to free). */
static int parse_spec(const struct init_exec_msg *m, char *text, struct spec *ret, char ***ret_vectors)
{
	char *p = text, *end = text + m->spec_len;
	_cleanup_free_ char **v = NULL;

	if (m->n_argv == 0 || m->n_argv > 65536 || m->n_env > 65536 || m->spec_len == 0 || end[-1] != '\0')
		return -EBADMSG;
	v = calloc((size_t)m->n_argv + m->n_env + 2, sizeof(*v));
	if (!v)
		return -ENOMEM;
	for (uint32_t i = 0; i < m->n_argv; i++)
		v[i] = next_string(&p, end);
	for (uint32_t i = 0; i < m->n_env; i++)
		v[m->n_argv + 1 + i] = next_string(&p, end);
	ret->cwd = next_string(&p, end);
	if (!ret->cwd || p != end)
		return -EBADMSG;
	ret->argv = v;
	ret->env = v + m->n_argv + 1;
	*ret_vectors = TAKE_PTR(v);
	return 0;
}

/* execvp(3)'s search, but in the command's own PATH. */
static int find_program(const struct spec *s, char *ret, size_t cap)
{
	const char *path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *name = s->argv[0];
	int best = ENOENT;

	if (strchr(name, '/'))
		return (size_t)snprintf(ret, cap, "%s", name) < cap ? 0 : ENAMETOOLONG;
	if (!*name)
		return ENOENT;
	for (size_t i = 0; s->env[i]; i++)
		if (strncmp(s->env[i], "PATH=", 5) == 0)
			path = s->env[i] + 5;
	for (const char *p = path;; p++) {
		size_t n = strcspn(p, ":");
		struct stat st;

		if ((size_t)snprintf(ret, cap, "%.*s%s%s", (int)n, p, n ? "/" : "", name) < cap &&
		    stat(ret, &st) == 0 && S_ISREG(st.st_mode)) {
			if (access(ret, X_OK) == 0)
				return 0;
			best = EACCES;
		}
		p += n;
		if (!*p)
			return best;
	}
}

struct spawn {
	const struct spec *spec;
	const char *program;
	const int *stdio;
	const char *tty; /* NULL: none */
	int error;
};

static int spawn_stdio(const struct spawn *s)
{
	int fd = s->tty ? open(s->tty, O_RDWR | O_CLOEXEC) : -1;

	/* A session leader without a terminal gets the first one it opens (tty_ioctl(4)). */
	if (s->tty && fd < 0)
		return -1;
	for (int i = 0; i < 3; i++)
		if (dup2(s->tty ? fd : s->stdio[i], i) < 0)
			return -1;
	return 0;
}

/* In the child: this process's memory, another stack. Returns only to report. */
static int spawn_child(void *arg)
{
	struct spawn *s = arg;
	sigset_t none;

	(void)sigemptyset(&none);
	if (setsid() >= 0 && spawn_stdio(s) == 0 && chdir(s->spec->cwd) == 0 &&
	    sigprocmask(SIG_SETMASK, &none, NULL) == 0)
		(void)execve(s->program, s->spec->argv, s->spec->env);
	s->error = errno;
	_exit(127);
}

/* As posix_spawn(3) does it, without its hundred system calls about signals: this process has no handlers and
 * ignores nothing, so there is nothing to put right in the child. */
static int spawn(struct spawn *s, pid_t *ret)
{
	static char stack[64 << 10] __attribute__((aligned(16)));
	int status;
	pid_t pid;

	pid = clone(spawn_child, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, s);
	if (pid < 0)
		return errno;
	if (s->error != 0) {
		(void)waitpid(pid, &status, 0);
		return s->error;
	}
	*ret = pid;
	return 0;
}

static int start_text(const struct init_exec_msg *m, char *text, const int stdio[3], pid_t *ret)
{
	_cleanup_free_ char **vectors = NULL;
	char program[4096], tty[32];
	struct spec spec;
	struct spawn s = { .spec = &spec, .program = program, .stdio = stdio };
	int r = -parse_spec(m, text, &spec, &vectors);

	for (int i = 0; i < 3; i++)
		if (stdio[i] < 3)
			return EBADF; /* they would be written over before they are used */
	if (r == 0)
		r = find_program(&spec, program, sizeof(program));
	if (r == 0 && m->pty) {
		r = ttyname_r(stdio[0], tty, sizeof(tty));
		s.tty = tty;
	}
	return r != 0 ? r : spawn(&s, ret);
}

/* fds: the spec, when it didn't come with the message, then the command's 0, 1, 2. */
static int start_command(struct init_exec_msg *m, char *text, const int *fds, pid_t *ret)
{
	struct stat st;
	int r;

	if (text)
		return start_text(m, text, fds, ret);
	/* The memfd is sealed; its size can't change between this check and the reading. */
	if (fstat(fds[0], &st) < 0 || st.st_size != (off_t)m->spec_len || m->spec_len > INIT_MAX_SPEC)
		return EBADMSG;
	text = mmap(NULL, m->spec_len, PROT_READ, MAP_PRIVATE, fds[0], 0);
	if (text == MAP_FAILED)
		return errno;
	r = start_text(m, text, fds + 1, ret);
	(void)munmap(text, m->spec_len);
	return r;
}

static void report(struct pid1 *p, const struct command *c, enum init_exit_kind kind, int value, int background)
{
	struct init_exited_msg m = {
		.h = { INIT_MAGIC, INIT_EXITED }, .id = c->id, .kind = (int32_t)kind, .value = value
	};

	m.duration_us = (uint64_t)(clock_mono_us() - c->started_us);
	m.background = background;
	past[past_n++ % PAST_MAX] = m;
	send_report(p, &(union init_report){ .exited = m });
}

static void report_start(struct pid1 *p, const struct command *c)
{
	const struct init_started_msg m = { .h = { INIT_MAGIC, INIT_STARTED }, .id = c->id, .pid = c->pid };

	send_report(p, &(union init_report){ .started = m });
}

/* The next process this one makes belongs to command `id`. */
static void set_mark(const struct pid1 *p, uint64_t id)
{
	const struct rlimit l = { .rlim_cur = MIN(PID1_MARK_BASE + id, p->mark_max), .rlim_max = p->mark_max };

	(void)setrlimit(RLIMIT_LOCKS, &l);
}

/* text: the spec, or NULL when it is in the first of fds. */
static void on_exec(struct pid1 *p, struct init_exec_msg *m, char *text, const int *fds, size_t n_fds)
{
	struct command c = { .id = m->id, .started_us = clock_mono_us() };
	struct command *bigger;
	int r;

	if (n_fds != (text ? 3 : 4))
		_exit(1);
	if (p->n == p->cap) {
		bigger = realloc(p->commands, (p->cap + 16) * sizeof(*bigger));
		if (!bigger) {
			report(p, &c, INIT_EXIT_NOT_STARTED, ENOMEM, 0);
			return;
		}
		p->commands = bigger;
		p->cap += 16;
	}
	set_mark(p, c.id);
	r = start_command(m, text, fds, &c.pid);
	if (r != 0) {
		report(p, &c, INIT_EXIT_NOT_STARTED, r, 0);
		return;
	}
	p->commands[p->n++] = c;
	if (m->tell_start)
		report_start(p, &c);
}

/* --- a command's tree --- */

struct proc {
	pid_t pid, parent, session;
	bool dead, member;
};

/* proc_pid_limits(5): the line "Max file locks", then the soft limit. */
static bool has_mark(const char *name, uint64_t mark)
{
	static const char title[] = "\nMax file locks ";
	char path[64], text[4096], *p;

	(void)snprintf(path, sizeof(path), "/proc/%.20s/limits", name);
	if (fd_read_file(AT_FDCWD, path, text, sizeof(text)) < 0)
		return false;
	p = strstr(text, title);
	return p && strtoull(p + sizeof(title) - 1, NULL, 10) == mark;
}

/* proc_pid_stat(5): "pid (comm) state ppid pgrp session ..."; comm may hold anything, so from the last ')'. */
static bool read_proc(const char *name, struct proc *ret)
{
	char state;
	char path[64], stat_line[512], *p;

	(void)snprintf(path, sizeof(path), "/proc/%.20s/stat", name);
	if (fd_read_file(AT_FDCWD, path, stat_line, sizeof(stat_line)) < 0)
		return false;
	p = strrchr(stat_line, ')');
	if (!p || sscanf(p + 1, " %c %d %*d %d", &state, &ret->parent, &ret->session) != 3)
		return false;
	ret->pid = (pid_t)strtol(name, NULL, 10);
	ret->dead = state == 'Z' || state == 'X';
	return ret->pid > 1;
}

/* Every process of the sandbox, those of command `id` (leader: its own process and session, or 0 if not known) as
 * members; the array is the caller's. */
static size_t list_procs(uint64_t id, pid_t leader, struct proc **ret)
{
	DIR *dir = opendir("/proc");
	const struct dirent *d;
	size_t n = 0, cap = 0;

	*ret = NULL;
	while (dir && (d = readdir(dir))) {
		if (d->d_name[0] < '1' || d->d_name[0] > '9')
			continue;
		if (n == cap) {
			struct proc *bigger = realloc(*ret, (cap + 256) * sizeof(*bigger));

			if (!bigger)
				break;
			*ret = bigger;
			cap += 256;
		}
		if (!read_proc(d->d_name, &(*ret)[n]))
			continue;
		(*ret)[n].member = (leader && (*ret)[n].session == leader) || has_mark(d->d_name, PID1_MARK_BASE + id);
		n++;
	}
	if (dir)
		(void)closedir(dir);
	return n;
}

/* Whoever descends from a member is one. */
static void add_descendants(struct proc *procs, size_t n)
{
	bool grew = true;

	while (grew) {
		grew = false;
		for (size_t i = 0; i < n; i++)
			for (size_t j = 0; !procs[i].member && j < n; j++)
				if (procs[j].pid == procs[i].parent && procs[j].member)
					procs[i].member = grew = true;
	}
}

/* How many of a command's processes live. */
static int count_tree(const struct command *c)
{
	_cleanup_free_ struct proc *procs = NULL;
	size_t n = list_procs(c->id, c->pid, &procs);
	int left = 0;

	add_descendants(procs, n);
	for (size_t i = 0; i < n; i++)
		left += procs[i].member && !procs[i].dead;
	return left;
}

/* Returns how many got it. */
static size_t signal_once(uint64_t id, pid_t leader, int sig)
{
	_cleanup_free_ struct proc *procs = NULL;
	size_t n = list_procs(id, leader, &procs), told = 0;

	add_descendants(procs, n);
	for (size_t i = 0; i < n; i++)
		if (procs[i].member && !procs[i].dead)
			told += kill(procs[i].pid, sig) == 0;
	return told;
}

static void signal_tree(uint64_t id, pid_t leader, int sig)
{
	/* One that forks while we look leaves a child behind; killed parents make no more. */
	for (int turn = 0; signal_once(id, leader, sig) > 0 && sig == SIGKILL && turn < 8; turn++)
		;
}

static void on_signal(struct pid1 *p, const struct init_signal_msg *m)
{
	pid_t leader = 0;

	if (m->sig < 0 || m->sig > SIGRTMAX)
		_exit(1);
	for (size_t i = 0; i < p->n; i++)
		if (p->commands[i].id == m->id)
			leader = p->commands[i].pid;
	if (m->tree)
		signal_tree(m->id, leader, m->sig);
	else if (leader)
		(void)kill(leader, m->sig);
}

static void on_recall(struct pid1 *p, uint64_t id)
{
	const struct command never = { .id = id, .started_us = clock_mono_us() };

	for (size_t i = 0; i < p->n; i++)
		if (p->commands[i].id == id) {
			report_start(p, &p->commands[i]);
			return;
		}
	for (size_t i = 0; i < MIN(past_n, (size_t)PAST_MAX); i++)
		if (past[i].id == id) {
			send_report(p, &(union init_report){ .exited = past[i] });
			return;
		}
	report(p, &never, INIT_EXIT_NOT_STARTED, ESRCH, 0);
}

/* What a command leaves behind becomes our child. So when we have no more children than commands, nothing was
 * left, and nobody need look through /proc. */
static bool may_have_orphans(const struct pid1 *p)
{
	char text[4096];
	siginfo_t si;
	size_t n = 0;

	if (p->n == 0 && waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT) < 0 && errno == ECHILD)
		return false;
	if (fd_read_file(AT_FDCWD, "/proc/1/task/1/children", text, sizeof(text)) < 0)
		return true;
	for (const char *c = text; *c; c++)
		n += *c == ' '; /* one behind each */
	return n > p->n;
}

/* --- the loop --- */

static void reap(struct pid1 *p)
{
	struct signalfd_siginfo drop;
	int status, left;
	pid_t pid;

	while (read(p->sigfd, &drop, sizeof(drop)) > 0)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (size_t i = 0; i < p->n; i++) {
			struct command c = p->commands[i];

			if (c.pid != pid)
				continue;
			p->commands[i] = p->commands[--p->n];
			left = may_have_orphans(p) ? count_tree(&c) : 0;
			if (WIFSIGNALED(status))
				report(p, &c, INIT_EXIT_SIGNAL, WTERMSIG(status), left);
			else
				report(p, &c, INIT_EXIT_CODE, WEXITSTATUS(status), left);
			break;
		}
	}
}

static void on_message(struct pid1 *p)
{
	union init_msg m;
	int fds[4];
	size_t n_fds = 0;
	ssize_t n = fd_recv_msg(p->sock, &m, sizeof(m), fds, ARRAY_SIZE(fds), &n_fds);

	if (n == -EAGAIN)
		return;
	if (n < (ssize_t)sizeof(m.h) || m.h.magic != INIT_MAGIC)
		_exit(0);
	if (m.h.type == INIT_EXEC && n == sizeof(m.exec))
		on_exec(p, &m.exec, NULL, fds, n_fds);
	else if (m.h.type == INIT_EXEC && n > (ssize_t)sizeof(m.exec) && (size_t)n - sizeof(m.exec) == m.exec.spec_len)
		on_exec(p, &m.exec, m.exec_inline.spec, fds, n_fds);
	else if (m.h.type == INIT_SIGNAL && n == sizeof(m.signal))
		on_signal(p, &m.signal);
	else if (m.h.type == INIT_RECALL && n == sizeof(m.recall))
		on_recall(p, m.recall.id);
	else
		_exit(1);
	while (n_fds > 0)
		(void)close(fds[--n_fds]);
}

static _noreturn_ void serve(struct pid1 *p)
{
	struct pollfd pfd[2] = { { .fd = p->sock, .events = POLLIN }, { .fd = p->sigfd, .events = POLLIN } };

	for (;;) {
		if (poll(pfd, ARRAY_SIZE(pfd), -1) < 0 && errno != EINTR)
			_exit(1);
		if (pfd[1].revents)
			reap(p);
		if (pfd[0].revents)
			on_message(p);
	}
}

/* What the keeper ignores, and what whoever started it did, is not the commands' (signal(7): an ignored signal
 * stays so over execve). The system call itself, for the C library hides two of them. */
static void reset_signals(void)
{
	static const char as_ever[4 * sizeof(void *)]; /* struct sigaction as the kernel has it: SIG_DFL, no flags */

	for (int sig = 1; sig < _NSIG; sig++)
		(void)syscall(SYS_rt_sigaction, sig, as_ever, NULL, sizeof(uint64_t));
}

_noreturn_ void pid1_main(const struct pid1_config *c)
{
	struct pid1 p = { .sock = c->ctl_sock };
	struct init_configure_msg conf;
	struct init_header go;
	struct err e = ERR_INIT;
	struct rlimit locks;
	sigset_t chld;

	reset_signals();
	receive(c->ctl_sock, INIT_GO, &go, sizeof(go));
	if (become_root_inside(c->single_id, &e) < 0)
		die(c, &e);
	/* Only now, when the cgroup is its own, does a cgroup namespace start at it (cgroup_namespaces(7)). */
	if (unshare(CLONE_NEWCGROUP) < 0) {
		err_errno(&e, errno, "unshare of the cgroup namespace");
		die(c, &e);
	}
	if (isolate_stage(c->cgroup_view, &e) < 0)
		die(c, &e);
	receive(c->ctl_sock, INIT_CONFIGURE, &conf, sizeof(conf));
	configure(c, &conf);
	(void)sigemptyset(&chld);
	(void)sigaddset(&chld, SIGCHLD);
	(void)sigprocmask(SIG_SETMASK, &chld, NULL);
	p.sigfd = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
	if (p.sigfd < 0)
		_exit(1);
	p.mark_max = getrlimit(RLIMIT_LOCKS, &locks) == 0 ? locks.rlim_max : 0;
	p.reports = send_ready(c);
	if (isolate_limit_files(&e) < 0)
		_exit(1);
	serve(&p);
}
