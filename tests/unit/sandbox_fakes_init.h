#pragma once
/* The part of sandbox_fakes.h that stands in for init; included by it alone. */

/* ---- init: real processes ---- */

struct init {
	int sock;
	struct init_events ev;
};

struct command {
	uv_poll_t poll;
	int pidfd;
	pid_t pid;
	uint64_t id;
	struct init *init; /* NULL once that is gone */
	bool used;
};

static struct command children[300];
static bool init_silent; /* never ready */
static struct init *last_init;
static int inits_live;
static char last_layer[64], last_host[64];
static unsigned int last_cpus;

static struct init *live_inits[64];

/* Where it is in live_inits, or a place that holds NULL. */
static struct init **init_place(const struct init *i)
{
	struct init **free_place = NULL;

	for (size_t k = 0; k < ARRAY_SIZE(live_inits); k++) {
		if (live_inits[k] == i)
			return &live_inits[k];
		if (!live_inits[k])
			free_place = &live_inits[k];
	}
	cr_assert(free_place);
	return free_place;
}

static void init_say_ready(void *arg)
{
	struct init *i = arg;
	struct err e = ERR_INIT;

	if (!*init_place(i))
		return;
	if (strcmp(fail_step, "ready") == 0) {
		(void)err_set(&e, ERR_IO, EIO, NULL, "ready failed");
		i->ev.ready(i->ev.arg, &e, -1);
		return;
	}
	i->ev.ready(i->ev.arg, NULL, open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
}

int init_connect(struct uv_loop_s *l _unused_, int ctl_sock, const struct init_config *c, const struct init_events *ev,
		 struct init **ret, struct err *e)
{
	struct init *i;
	int r = step("connect", e);

	if (r < 0) {
		(void)close(ctl_sock);
		return r;
	}
	i = calloc(1, sizeof(*i));
	cr_assert(i);
	i->sock = ctl_sock;
	i->ev = *ev;
	(void)snprintf(last_layer, sizeof(last_layer), "%s", c->layers[0]);
	(void)snprintf(last_host, sizeof(last_host), "%s", c->hostname);
	last_cpus = c->cpus;
	last_init = *init_place(i) = i;
	inits_live++;
	if (!init_silent)
		post(init_say_ready, i, 0);
	*ret = i;
	return 0;
}

int init_adopt(struct uv_loop_s *l _unused_, int ctl_sock, int reports _unused_, const struct init_events *ev _unused_,
	       struct init **ret _unused_, struct err *e)
{
	(void)close(ctl_sock);
	return err_set(e, ERR_INTERNAL, ENOSYS, NULL, "init_adopt");
}

int init_reports(const struct init *i _unused_)
{
	return -1;
}

int init_recall(struct init *i _unused_, uint64_t exec_id _unused_)
{
	return 0;
}

static void command_closed(uv_handle_t *h)
{
	struct command *c = h->data;

	closep(&c->pidfd);
	c->used = false;
}

static void command_reap(struct command *c)
{
	struct init_exit x = { 0 };
	int st = 0;

	cr_assert(waitpid(c->pid, &st, 0) == c->pid);
	uv_close((uv_handle_t *)&c->poll, command_closed);
	x.kind = WIFSIGNALED(st) ? INIT_EXIT_SIGNAL : INIT_EXIT_CODE;
	x.value = WIFSIGNALED(st) ? WTERMSIG(st) : WEXITSTATUS(st);
	if (c->init)
		c->init->ev.exited(c->init->ev.arg, c->id, &x);
}

static void on_command_end(uv_poll_t *p, int status _unused_, int events _unused_)
{
	command_reap(p->data);
}

static _noreturn_ void run_command(const struct init_exec *x)
{
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (x->pty && (setsid() < 0 || ioctl(x->stdio[0], TIOCSCTTY, 0) < 0))
		_exit(119);
	(void)setpgid(0, 0);
	(void)signal(SIGPIPE, SIG_DFL);
	for (int i = 0; i < 3; i++)
		if (dup2(x->stdio[i], i) < 0)
			_exit(120);
	if (chdir(x->cwd) < 0)
		_exit(121);
	execve(x->argv[0], (char *const *)x->argv, (char *const *)x->env);
	_exit(122);
}

static void say_started(void *arg)
{
	struct command *c = arg;

	if (c->used && c->init)
		c->init->ev.started(c->init->ev.arg, c->id, c->pid);
}

static struct init_exit unstarted;
static uint64_t unstarted_id;

static void say_unstarted(void *arg)
{
	struct init *i = arg;

	i->ev.exited(i->ev.arg, unstarted_id, &unstarted);
}

int init_start(struct init *i, const struct init_exec *x, struct err *e)
{
	struct command *c = children;

	if (strcmp(fail_step, "start") == 0)
		return err_set(e, ERR_IO, EIO, NULL, "start failed");
	if (access(x->argv[0], X_OK) < 0) {
		unstarted = (struct init_exit){ .kind = INIT_EXIT_NOT_STARTED, .value = errno };
		unstarted_id = x->id;
		post(say_unstarted, i, 0);
		return 0;
	}
	while (c->used)
		c++;
	*c = (struct command){ .used = true, .id = x->id, .init = i };
	c->pid = fork();
	if (c->pid == 0)
		run_command(x);
	if (!x->pty)
		(void)setpgid(c->pid, c->pid);
	if (x->tell_start)
		post(say_started, c, 0);
	c->pidfd = sys_pidfd_open(c->pid);
	cr_assert(c->pidfd >= 0);
	uv_poll_init(&loop, &c->poll, c->pidfd);
	c->poll.data = c;
	uv_poll_start(&c->poll, UV_READABLE, on_command_end);
	return 0;
}

static int last_signal;

/* The fake's "tree" is the process group, which outlives its leader as a session does. */
static pid_t last_group;

int init_signal(struct init *i, uint64_t exec_id, int sig, bool tree)
{
	last_signal = sig;
	for (size_t k = 0; k < ARRAY_SIZE(children); k++)
		if (children[k].pid > 0 && children[k].init == i && children[k].id == exec_id) {
			last_group = children[k].pid;
			return kill(tree ? -children[k].pid : children[k].pid, sig);
		}
	return 0;
}

static void fake_init_kill_all(void)
{
	for (size_t k = 0; k < ARRAY_SIZE(children); k++)
		if (children[k].pid > 0)
			(void)kill(-children[k].pid, SIGKILL);
}

void init_free(struct init *i)
{
	for (size_t k = 0; k < ARRAY_SIZE(children); k++)
		if (children[k].init == i)
			children[k].init = NULL;
	*init_place(i) = NULL;
	if (last_init == i)
		last_init = NULL;
	(void)close(i->sock);
	free(i);
	inits_live--;
}
