/* Phases of a command that writes, and the rights each has:
 *
 *   caller's   parse, choose the id map, open the state dir, the archive, the host's sources
 *   E's 0      the job: a child in the emulator's user namespace (idmap_spawn), which has the fds of
 *              the first phase and no right on the host. It prints its own progress and errors.
 *
 * The parent only waits. If the job is interrupted the parent starts another one that cleans up. */

#include "emulator/cmd/cmd_template.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <json-c/json.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "emulator/base/clock.h"
#include "emulator/base/err.h"
#include "emulator/idmap.h"
#include "emulator/statedir.h"
#include "rootfs/layer.h"
#include "rootfs/template.h"
#include "rootfs/tree.h"

#define DETAIL_US 5000000 /* between details where the output is no terminal */

static const char usage[] =
	"Usage: orkestr-emulator template COMMAND [OPTION]...\n"
	"\n"
	"A template is what a sandbox's disk starts from: a stack of read-only layers in the state dir.\n"
	"\n"
	"  list               what is here, and what each template really is\n"
	"  build NAME...      make templates from this host's sources (build --all: the four of the cloud)\n"
	"  import NAME FILE   make a template of any root file system archive\n"
	"  rm NAME...         remove templates, and the layers no other one needs\n"
	"\n"
	"  --state-dir DIR    the emulator's state dir (default: as for serve)\n"
	"  --help             this text; after a COMMAND: more about it\n";

static const char usage_list[] =
	"Usage: orkestr-emulator template list [--json] [--state-dir DIR]\n"
	"\n"
	"Shows each template with its distribution and interpreter as found in the image itself, where it came\n"
	"from, and, if it is not exactly what its name says, what stands in for what.\n";

static const char usage_build[] =
	"Usage: orkestr-emulator template build NAME... | --all [--force] [--base ubuntu|debian] [--state-dir DIR]\n"
	"\n"
	"Knows python-3.12, python-3.12-bare, node-22 and ubuntu-24.04. All four share one base: Ubuntu 24.04\n"
	"by mmdebstrap from its mirror, or, if that does not answer, this host's Debian as a declared stand-in.\n"
	"Python is the base's own 3.12, or (on Debian) a CPython 3.12 of this host, such as pyenv's. Node comes\n"
	"from the npm registry, its hash checked. Needs no root, but a range of ids in /etc/subuid and\n"
	"/etc/subgid, and the programs mmdebstrap and curl.\n"
	"\n"
	"  --all          all four\n"
	"  --force        build again what is there already\n"
	"  --base NAME    do not choose: ubuntu or debian\n"
	"\n"
	"What is used of the environment: http_proxy, https_proxy, no_proxy, npm_config_registry, PIP_INDEX_URL,\n"
	"PYENV_ROOT.\n";

static const char usage_import[] =
	"Usage: orkestr-emulator template import NAME FILE [--state-dir DIR]\n"
	"\n"
	"FILE is a tar archive of a root file system, plain or compressed (gzip, zstd, xz, bzip2), or - for\n"
	"standard input. For example, from a container engine:\n"
	"\n"
	"  docker export $(docker create python:3.12) | orkestr-emulator template import my-python -\n"
	"\n"
	"Owners and modes are kept, device nodes left out. An archive with names that point outside is refused.\n";

static const char usage_rm[] =
	"Usage: orkestr-emulator template rm NAME... [--state-dir DIR]\n"
	"\n"
	"The space of a layer comes back when no other template has it and no sandbox lives in the state dir.\n";

struct job {
	struct template_ops ops;
	struct template_sources sources;
	int (*run)(struct job *j, struct err *e); /* in E */
	char **names;
	size_t n_names;
	bool force;
	int file_fd;
	const char *file;
	/* Progress */
	bool tty, line_open;
	int64_t start_us, last_us;
};

/* ---- progress ---- */

static int columns(void)
{
	struct winsize w;

	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 20 ? w.ws_col : 80;
}

/* What helpers say comes from mirrors and archives: no control byte of theirs reaches a terminal. */
static void print_line(const struct job *j, const char *step, const char *detail, int width)
{
	char line[512];
	int n = snprintf(line, sizeof(line), "%7.1f s  %s%s%s", (double)(clock_mono_us() - j->start_us) / 1e6, step,
			 detail ? ": " : "", detail ? detail : "");

	n = MIN(n, MIN(width, (int)sizeof(line)) - 1);
	for (int i = 0; i < n; i++)
		if ((unsigned char)line[i] < 0x20 || (unsigned char)line[i] >= 0x7f)
			line[i] = '?';
	(void)printf("%.*s", n, line);
}

static void show_progress(void *arg, const char *step, const char *detail)
{
	struct job *j = arg;
	int64_t now = clock_mono_us();

	if (j->tty) {
		/* A step keeps its line; details come and go on the one below. */
		(void)printf("\r\033[K");
		print_line(j, step, detail, detail ? columns() : INT_MAX);
		if (!detail)
			(void)printf("\n");
	} else if (!detail || now - j->last_us >= DETAIL_US) {
		print_line(j, step, detail, INT_MAX);
		(void)printf("\n");
		j->last_us = now;
	}
	j->line_open = j->tty && detail;
	(void)fflush(stdout);
}

static void end_progress(struct job *j)
{
	if (j->line_open)
		(void)printf("\r\033[K");
	j->line_open = false;
	(void)fflush(stdout);
}

static int report(const char *command, const struct err *e)
{
	(void)fprintf(stderr, "orkestr-emulator template %s: %s\n", command, e->msg);
	return 1;
}

/* ---- running a job in E ---- */

/* The current directory is the state dir: unlike an fd it was carried over into this mount namespace, so
 * that what is opened from it can be mounted. */
static int job_main(void *arg)
{
	struct job *j = arg;
	struct err e = ERR_INIT;
	sigset_t none;
	int r;

	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	j->ops.state_fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = j->ops.state_fd < 0 ? err_errno(&e, errno, "cannot open the state dir")
				: tree_prepare_state(j->ops.state_fd, &e);
	if (r == 0)
		r = j->run(j, &e);
	end_progress(j);
	if (r < 0 && e.kind != ERR_NONE)
		(void)fprintf(stderr, "orkestr-emulator template: %s\n", e.msg);
	return r < 0 ? 1 : 0;
}

static int run_cleanup(struct job *j, struct err *e)
{
	int fd = layer_lock(j->ops.state_fd, e);

	closep(&fd);
	return MIN(fd, 0);
}

/* Waits for the child; an interrupt ends it. Returns its wait status. */
static int wait_for(pid_t pid, const sigset_t *set)
{
	int status = 0;

	while (waitpid(pid, &status, WNOHANG) == 0) {
		const struct timespec pause = { .tv_sec = 1 };
		int sig = sigtimedwait(set, NULL, &pause);

		if (sig > 0 && sig != SIGCHLD)
			(void)kill(pid, SIGKILL);
	}
	return status;
}

static int run_in_e(const char *command, const struct idmap *m, int state_fd, struct job *j)
{
	struct err e = ERR_INIT;
	sigset_t set;
	int status;
	pid_t pid;

	if (fchdir(state_fd) < 0) {
		(void)err_errno(&e, errno, "cannot enter the state dir");
		return report(command, &e);
	}
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGHUP);
	(void)sigaddset(&set, SIGCHLD);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	(void)fflush(NULL);
	j->ops.sandbox_uid = idmap_sandbox_uid(m, 0);
	j->ops.single_id = m->kind == IDMAP_SINGLE;
	j->ops.progress = show_progress;
	j->ops.progress_arg = j;
	j->start_us = clock_mono_us();
	j->tty = isatty(STDOUT_FILENO) == 1;
	if (idmap_spawn(m, job_main, j, &pid, NULL, &e) < 0)
		return report(command, &e);
	status = wait_for(pid, &set);
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	(void)fprintf(stderr, "\norkestr-emulator template %s: interrupted; removing what was half made\n", command);
	j->run = run_cleanup;
	if (idmap_spawn(m, job_main, j, &pid, NULL, &e) == 0)
		(void)wait_for(pid, &set);
	return 128 + WTERMSIG(status);
}

static int open_and_run(const char *command, const char *state_dir, struct job *j)
{
	_cleanup_close_ int state_fd = -1;
	char path[PATH_MAX];
	struct err e = ERR_INIT;
	struct idmap m;

	idmap_choose(&m);
	if (statedir_open(state_dir, &m, &state_fd, path, sizeof(path), &e) < 0)
		return report(command, &e);
	return run_in_e(command, &m, state_fd, j);
}

/* ---- list ---- */

struct list {
	struct json_object *array; /* JSON, or NULL: a table */
	bool seen[8];		   /* of template_names */
	size_t n;
};

static void put(struct json_object *o, const char *key, const char *v)
{
	(void)json_object_object_add(o, key, v ? json_object_new_string(v) : NULL);
}

static void list_json(struct list *l, const struct template *t)
{
	struct json_object *o = json_object_new_object();
	char when[CLOCK_ISO_SIZE];

	clock_iso(t->created_ms, when);
	put(o, "name", t->name);
	(void)json_object_object_add(o, "available", json_object_new_boolean(true));
	put(o, "distribution", t->distribution);
	put(o, "interpreter", t->interpreter);
	put(o, "libraries", t->libraries);
	put(o, "source", t->source);
	put(o, "stand_in", t->stand_in);
	put(o, "digest", t->digest);
	put(o, "created_at", when);
	(void)json_object_object_add(o, "size_bytes", json_object_new_uint64(t->size_bytes));
	(void)json_object_array_add(l->array, o);
}

static void print_note(const char *label, const char *text)
{
	size_t col = 0;

	if (!text)
		return;
	(void)printf("    %-11s", label);
	while (*text) {
		size_t n = strcspn(text, " ");

		if (col > 0 && col + n > 84) {
			(void)printf("\n               ");
			col = 0;
		}
		(void)printf("%s%.*s", col ? " " : "", (int)n, text);
		col += n + 1;
		text += n + (text[n] == ' ');
	}
	(void)printf("\n");
}

#define ROW "%-18s %-31s %-15s %8s  %s\n"

static int list_one(void *arg, const struct template *t)
{
	struct list *l = arg;
	char size[24];

	for (size_t i = 0; template_names[i]; i++)
		l->seen[i] |= strcmp(template_names[i], t->name) == 0;
	if (l->array) {
		list_json(l, t);
		return 0;
	}
	if (l->n++ == 0)
		(void)printf(ROW, "NAME", "DISTRIBUTION", "INTERPRETER", "SIZE", "STAND-IN");
	(void)snprintf(size, sizeof(size), "%.0f MB", (double)t->size_bytes / 1e6);
	(void)printf(ROW, t->name, t->distribution ? t->distribution : "unknown", t->interpreter ? t->interpreter : "-",
		     size, t->stand_in ? "yes" : "no");
	print_note("stand-in:", t->stand_in);
	print_note("source:", t->source);
	print_note("libraries:", t->libraries);
	return 0;
}

static void list_missing(struct list *l)
{
	for (size_t i = 0; template_names[i]; i++) {
		struct json_object *o;

		if (l->seen[i])
			continue;
		if (!l->array) {
			(void)printf("%-18s not here; orkestr-emulator template build %s\n", template_names[i],
				     template_names[i]);
			continue;
		}
		o = json_object_new_object();
		put(o, "name", template_names[i]);
		(void)json_object_object_add(o, "available", json_object_new_boolean(false));
		(void)json_object_array_add(l->array, o);
	}
}

static int do_list(const char *state_dir, bool json)
{
	struct list l = { .array = json ? json_object_new_array() : NULL };
	_cleanup_close_ int state_fd = -1;
	struct err e = ERR_INIT;
	char path[PATH_MAX];
	struct idmap m;

	idmap_choose(&m);
	if (statedir_open(state_dir, &m, &state_fd, path, sizeof(path), &e) < 0 ||
	    template_each(state_fd, list_one, &l, &e) < 0) {
		json_object_put(l.array);
		return report("list", &e);
	}
	list_missing(&l);
	if (l.array)
		(void)printf("%s\n", json_object_to_json_string_ext(l.array, JSON_C_TO_STRING_PRETTY |
										     JSON_C_TO_STRING_NOSLASHESCAPE));
	else if (l.n > 0)
		(void)printf("\nSizes count shared layers in each. State dir: %s\n", path);
	json_object_put(l.array);
	return 0;
}

/* ---- build, import, rm ---- */

/* Tries all: one that can't be built doesn't keep the others. Says itself what failed. */
static int run_build(struct job *j, _unused_ struct err *e)
{
	int ret = 0;

	for (size_t i = 0; i < j->n_names; i++) {
		struct err why = ERR_INIT;
		int r = template_build(&j->ops, j->names[i], j->force, &why);

		end_progress(j);
		if (r < 0)
			ret = -report("build", &why);
	}
	return ret;
}

static int run_import(struct job *j, struct err *e)
{
	int r = template_import(&j->ops, j->names[0], j->file_fd, j->file, e);

	if (r == 0)
		show_progress(j, "ready", NULL);
	return r;
}

static int run_rm(struct job *j, struct err *e)
{
	for (size_t i = 0; i < j->n_names; i++) {
		int r = template_remove(&j->ops, j->names[i], e);

		if (r < 0)
			return r;
	}
	return 0;
}

static int do_build(const char *state_dir, enum template_base base, struct job *j)
{
	int r;

	template_sources_open(&j->sources);
	j->sources.base = base;
	j->ops.sources = &j->sources;
	j->ops.force_since_ms = clock_real_ms();
	j->run = run_build;
	r = open_and_run("build", state_dir, j);
	template_sources_close(&j->sources);
	return r;
}

static int do_import(const char *state_dir, struct job *j, const char *file)
{
	_cleanup_close_ int fd = -1;
	struct err e = ERR_INIT;

	j->run = run_import;
	j->file = strcmp(file, "-") == 0 ? "standard input" : file;
	j->file_fd = STDIN_FILENO;
	if (strcmp(file, "-") != 0) {
		fd = open(file, O_RDONLY | O_CLOEXEC);
		if (fd < 0) {
			(void)err_errno(&e, errno, "%s", file);
			return report("import", &e);
		}
		j->file_fd = fd;
	}
	return open_and_run("import", state_dir, j);
}

/* ---- the command line ---- */

static int bad_usage(const char *text)
{
	(void)fputs(text, stderr);
	return 2;
}

struct arguments {
	const char *state_dir;
	bool json, all, force, help;
	enum template_base base;
	char **rest;
	int n_rest;
};

static int parse(int argc, char **argv, struct arguments *a)
{
	static const struct option options[] = {
		{ "state-dir", required_argument, NULL, 's' },
		{ "json", no_argument, NULL, 'j' },
		{ "all", no_argument, NULL, 'a' },
		{ "force", no_argument, NULL, 'f' },
		{ "base", required_argument, NULL, 'b' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int c;

	optind = 0;
	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		if (c == 's')
			a->state_dir = optarg;
		else if (c == 'j')
			a->json = true;
		else if (c == 'a')
			a->all = true;
		else if (c == 'f')
			a->force = true;
		else if (c == 'b' && strcmp(optarg, "ubuntu") == 0)
			a->base = TEMPLATE_BASE_UBUNTU;
		else if (c == 'b' && strcmp(optarg, "debian") == 0)
			a->base = TEMPLATE_BASE_DEBIAN;
		else if (c == 'h')
			a->help = true;
		else
			return -EINVAL;
	}
	a->rest = argv + optind;
	a->n_rest = argc - optind;
	return 0;
}

static int dispatch(const char *command, const struct arguments *a)
{
	struct job j = { .file_fd = -1, .names = a->rest, .n_names = (size_t)a->n_rest, .force = a->force };

	if (strcmp(command, "list") == 0)
		return a->n_rest > 0 ? bad_usage(usage_list) : do_list(a->state_dir, a->json);
	if (strcmp(command, "build") == 0) {
		if (a->all == (a->n_rest > 0))
			return bad_usage(usage_build);
		if (a->all) {
			j.names = (char **)(uintptr_t)template_names;
			for (j.n_names = 0; template_names[j.n_names];)
				j.n_names++;
		}
		return do_build(a->state_dir, a->base, &j);
	}
	if (strcmp(command, "import") == 0) {
		if (a->n_rest != 2)
			return bad_usage(usage_import);
		j.n_names = 1;
		return do_import(a->state_dir, &j, a->rest[1]);
	}
	if (a->n_rest == 0)
		return bad_usage(usage_rm);
	j.run = run_rm;
	return open_and_run("rm", a->state_dir, &j);
}

int cmd_template(int argc, char **argv)
{
	static const struct {
		const char *name, *usage;
	} commands[] = {
		{ "list", usage_list }, { "build", usage_build }, { "import", usage_import }, { "rm", usage_rm }
	};
	struct arguments a = { .state_dir = NULL };

	for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(commands); i++) {
		if (strcmp(argv[1], commands[i].name) != 0)
			continue;
		if (parse(argc - 1, argv + 1, &a) < 0)
			return bad_usage(commands[i].usage);
		if (a.help) {
			(void)fputs(commands[i].usage, stdout);
			return 0;
		}
		return dispatch(commands[i].name, &a);
	}
	if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		(void)fputs(usage, stdout);
		return 0;
	}
	if (argc > 1)
		(void)fprintf(stderr, "orkestr-emulator template: there is no command %s\n", argv[1]);
	return bad_usage(usage);
}
