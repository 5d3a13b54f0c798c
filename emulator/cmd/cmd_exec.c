/* `exec -- CMD`: an emulator for the time of one command. What runs it is exec_run.c; here are the options, the
 * command's environment and signals, and the summary. */

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "emulator/account.h"
#include "emulator/base/buf.h"
#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "emulator/cmd/cmd.h"
#include "emulator/cmd/control_client.h"
#include "emulator/cmd/exec_run.h"
#include "emulator/cmd/options.h"

#define PASSED_MAX 512 /* words for serve */
#define SUMMARY_MAX (4u << 20)

static const char help_text[] =
	"Usage: orkestr-emulator exec [OPTION]... -- CMD [ARG]...\n"
	"\n"
	"Starts an emulator of its own for CMD, on a free port and with nothing in it but your templates, runs\n"
	"CMD, ends the emulator, and says what CMD left running. Exits with CMD's status (128 + N for signal N).\n"
	"\n"
	"CMD finds the emulator by its environment: ORKESTR_API_KEY, and the address in ORKESTR_BASE_URL,\n"
	"ORKESTR_API_URL, ORKESTR_API_BASE, ORKESTR_API_BASE_URL, ORKESTR_URL and ORKESTR_ENDPOINT; for this\n"
	"program's own commands (events, fault, ...) in ORKESTR_EMULATOR_URL. NO_PROXY gets 127.0.0.1.\n"
	"\n"
	"  --strict           exit with 1 if CMD itself succeeded but left a sandbox, or the emulator anything\n"
	"  --quiet            no summary, unless something was left\n"
	"  --state-dir DIR    whose templates to use (default: as for serve); nothing else there is touched\n"
	"  --log FILE         keep the emulator's log there\n"
	"  --summary FILE     the summary as JSON\n"
	"  -h, --help         this text\n"
	"\n"
	"Any option of serve is passed on to it: --seed-file, --profile, --api-key, --allow, ... Without --api-key\n"
	"and --auth it accepts every key, and ORKESTR_API_KEY is a new one.\n"
	"\n"
	"Example, all that a CI needs:\n"
	"  orkestr-emulator exec --strict -- pytest tests/\n";

static char auth_option[] = "--auth=any";

struct exec_options {
	const char *state_dir, *log, *summary;
	bool strict, quiet, help;
	char *passed[PASSED_MAX];
	size_t n_passed;
	char **command;
	char key[ACCOUNT_KEY_MAX];
};

/* ---- options ---- */

static int need_value(const char *option, const char *value, const char **ret, struct err *e)
{
	if (!value || !*value)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "%s needs a value", option);
	*ret = value;
	return 0;
}

/* 1: it was one of ours, with a value; 0: without; -ENOENT: it is none. */
static int own_option(struct exec_options *o, const char *word, const char *value, struct err *e)
{
	if (strcmp(word, "--strict") == 0 || strcmp(word, "--quiet") == 0 || strcmp(word, "--help") == 0 ||
	    strcmp(word, "-h") == 0) {
		o->strict |= strcmp(word, "--strict") == 0;
		o->quiet |= strcmp(word, "--quiet") == 0;
		o->help |= strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
		return 0;
	}
	if (strcmp(word, "--state-dir") == 0)
		return need_value(word, value, &o->state_dir, e) < 0 ? -EINVAL : 1;
	if (strcmp(word, "--log") == 0)
		return need_value(word, value, &o->log, e) < 0 ? -EINVAL : 1;
	if (strcmp(word, "--summary") == 0)
		return need_value(word, value, &o->summary, e) < 0 ? -EINVAL : 1;
	return -ENOENT;
}

/* "--state-dir=DIR": the value behind the sign. */
static const char *split_word(const char *word, char name[static 32])
{
	size_t n = strcspn(word, "=");

	(void)snprintf(name, 32, "%.*s", (int)MIN(n, (size_t)31), word);
	return word[n] ? word + n + 1 : NULL;
}

static int pass(struct exec_options *o, char *word, struct err *e)
{
	if (o->n_passed >= PASSED_MAX - 4)
		return err_set(e, ERR_INVALID, E2BIG, NULL, "too many options");
	o->passed[o->n_passed++] = word;
	return 0;
}

/* The rest must make sense to serve, before anything is started. It may wipe keys: it gets copies. */
static int check_passed(struct exec_options *o, struct err *e)
{
	static const char *const not_here[] = { "--listen",   "--port-file",	 "--summary-file",
						"--leash-fd", "--shared-layers", "--keep" };
	char *argv[PASSED_MAX + 2] = { (char[]){ "serve" } };
	_cleanup_free_ struct serve_options *so = calloc(1, sizeof(*so));
	int r;

	if (!so)
		return err_errno(e, ENOMEM, "options");
	for (size_t i = 0; i < o->n_passed; i++)
		for (size_t k = 0; k < ARRAY_SIZE(not_here); k++)
			if (strncmp(o->passed[i], not_here[k], strlen(not_here[k])) == 0)
				return err_set(e, ERR_INVALID, EINVAL, NULL, "%s is exec's own business", not_here[k]);
	memcpy(argv + 1, o->passed, o->n_passed * sizeof(argv[0]));
	r = serve_options_parse((int)o->n_passed + 1, argv, so, e);
	if (r < 0)
		return r;
	if (so->n_api_keys > 0) {
		(void)snprintf(o->key, sizeof(o->key), "%.*s", (int)strcspn(so->api_keys[0], ":"), so->api_keys[0]);
		return 0;
	}
	account_key_generate(o->key);
	/* Each of these is a word of its own in serve's argv. */
	return so->auth_any ? 0 : pass(o, auth_option, e);
}

static int parse(int argc, char **argv, struct exec_options *o, struct err *e)
{
	int i = 1;

	for (; i < argc && strcmp(argv[i], "--") != 0; i++) {
		char name[32];
		const char *value = split_word(argv[i], name);
		bool apart = !value;
		int k;

		if (argv[i][0] != '-' && o->n_passed == 0)
			return err_set(e, ERR_INVALID, EINVAL, NULL, "the command goes behind --, as in: exec -- %.40s",
				       argv[i]);
		if (apart && i + 1 < argc && strcmp(argv[i + 1], "--") != 0)
			value = argv[i + 1];
		k = own_option(o, name, value, e);
		if (k == -ENOENT)
			k = pass(o, argv[i], e);
		else if (k == 1 && apart)
			i++;
		if (k < 0)
			return k;
	}
	if (o->help)
		return 0;
	if (i + 1 >= argc)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "which command? It goes behind --, as in: exec -- pytest");
	o->command = argv + i + 1;
	return check_passed(o, e);
}

/* ---- the command ---- */

static void set_environment(const struct exec_run *x, const char *key)
{
	static const char *const names[] = { "ORKESTR_BASE_URL",     "ORKESTR_API_URL", "ORKESTR_API_BASE",
					     "ORKESTR_API_BASE_URL", "ORKESTR_URL",	"ORKESTR_ENDPOINT",
					     "ORKESTR_EMULATOR_URL" };
	static const char *const proxies[] = { "NO_PROXY", "no_proxy" };
	char url[64], text[4096];

	(void)snprintf(url, sizeof(url), "http://127.0.0.1:%u", x->port);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		(void)setenv(names[i], url, 1);
	(void)setenv("ORKESTR_API_KEY", key, 1);
	for (size_t i = 0; i < ARRAY_SIZE(proxies); i++) {
		const char *was = getenv(proxies[i]);

		if (text_format(text, sizeof(text), "%s%s127.0.0.1", was ? was : "", was && *was ? "," : "") > 0)
			(void)setenv(proxies[i], text, 1);
	}
}

static void forwarded(sigset_t *ret)
{
	static const int sigs[] = { SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD };

	(void)sigemptyset(ret);
	for (size_t i = 0; i < ARRAY_SIZE(sigs); i++)
		(void)sigaddset(ret, sigs[i]);
}

static pid_t start_command(char **command, const sigset_t *old)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
	(void)sigprocmask(SIG_SETMASK, old, NULL);
	(void)execvp(command[0], command);
	(void)fprintf(stderr, "orkestr-emulator exec: cannot run %s: %s\n", command[0], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

/* What comes from the terminal, the command gets from there itself; what is sent to us alone is passed on. */
static int wait_for_command(pid_t pid, int sigfd)
{
	struct signalfd_siginfo si;
	int status = 0;

	for (;;) {
		pid_t done = waitpid(pid, &status, WNOHANG);

		if (done == pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		if (read(sigfd, &si, sizeof(si)) == sizeof(si) && si.ssi_signo != SIGCHLD && si.ssi_code <= 0)
			(void)kill(pid, (int)si.ssi_signo);
	}
}

/* ---- what it came to ---- */

static struct json_object *read_summary(const struct exec_run *x)
{
	_cleanup_buf_ struct buf b = BUF_INIT(SUMMARY_MAX);
	char piece[16384];
	ssize_t n;

	(void)lseek(x->summary_fd, 0, SEEK_SET);
	while ((n = read(x->summary_fd, piece, sizeof(piece))) > 0)
		if (buf_add(&b, piece, (size_t)n) < 0)
			return NULL;
	return b.p ? json_tokener_parse(b.p) : NULL;
}

static struct json_object *get(struct json_object *o, const char *name)
{
	struct json_object *v = NULL;

	return o && json_object_object_get_ex(o, name, &v) ? v : NULL;
}

static void print_counts(struct json_object *s, double seconds)
{
	struct json_object *sandboxes = get(s, "sandboxes"), *usage = get(s, "usage");

	(void)fprintf(stderr, "orkestr-emulator: %s sandboxes in %.1f s", control_text(sandboxes, "created", "?"),
		      seconds);
	if (json_object_get_int64(get(sandboxes, "failed")) > 0)
		(void)fprintf(stderr, ", %s failed", control_text(sandboxes, "failed", "?"));
	if (usage)
		(void)fprintf(stderr, "; %.2f CPU-seconds, %.2f GB-seconds",
			      json_object_get_double(get(usage, "cpu_seconds")),
			      json_object_get_double(get(usage, "gb_seconds")));
	(void)fputs("\n", stderr);
}

static void print_slowest(struct json_object *list)
{
	size_t n = list ? json_object_array_length(list) : 0;

	for (size_t i = 0; i < n; i++) {
		struct json_object *o = json_object_array_get_idx(list, i);

		(void)fprintf(stderr, "  %s %9.1f ms  %s %s -> %s\n", i == 0 ? "slowest" : "       ",
			      json_object_get_double(get(o, "duration_ms")), control_text(o, "method", "?"),
			      control_text(o, "path", "?"), control_text(o, "status", "?"));
	}
}

/* How many things were left. */
static unsigned int print_leaks(struct json_object *live, const struct exec_report *rep)
{
	size_t n = live ? json_object_array_length(live) : 0;

	for (size_t i = 0; i < n; i++) {
		struct json_object *o = json_object_array_get_idx(live, i);

		(void)fprintf(stderr, "orkestr-emulator: left %s: %s (%s, made %s)\n", control_text(o, "status", "?"),
			      control_text(o, "id", "?"), control_text(o, "template", "?"),
			      control_text(o, "created_at", "?"));
	}
	if (rep->processes + rep->mounts + rep->cgroups > 0)
		(void)fprintf(stderr,
			      "orkestr-emulator: the emulator itself left processes %u, mounts %u, cgroups %u\n",
			      rep->processes, rep->mounts, rep->cgroups);
	if (!rep->removed)
		(void)fprintf(stderr, "orkestr-emulator: the run's state dir could not be removed\n");
	return (unsigned int)n + rep->processes + rep->mounts + rep->cgroups + !rep->removed;
}

static void show_log(const struct exec_run *x)
{
	char piece[16384];
	ssize_t n;

	(void)lseek(x->log_fd, 0, SEEK_SET);
	while ((n = read(x->log_fd, piece, sizeof(piece))) > 0)
		(void)fwrite(piece, 1, (size_t)n, stderr);
}

static void keep_copy(int from, const char *path)
{
	_cleanup_close_ int to = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	char piece[16384];
	ssize_t n;

	(void)lseek(from, 0, SEEK_SET);
	while (to >= 0 && (n = read(from, piece, sizeof(piece))) > 0)
		if (fd_write_all(to, piece, (size_t)n) < 0)
			break;
	if (to < 0)
		(void)fprintf(stderr, "orkestr-emulator exec: %s: %s\n", path, strerror(errno));
}

static bool serve_broke(const struct exec_report *rep)
{
	return !WIFEXITED(rep->status) || WEXITSTATUS(rep->status) != 0;
}

static int finish(struct exec_run *x, const struct exec_options *o, int status, double seconds)
{
	struct exec_report rep = { 0 };
	struct err e = ERR_INIT;
	struct json_object *s;
	unsigned int leaks;

	if (exec_run_end(x, &rep, &e) < 0)
		return cmd_failed("exec", &e);
	if (o->log)
		keep_copy(x->log_fd, o->log);
	if (o->summary)
		keep_copy(x->summary_fd, o->summary);
	if (serve_broke(&rep)) {
		show_log(x);
		(void)fprintf(stderr, "orkestr-emulator: the emulator did not end well (its log is above)\n");
		return status ? status : CMD_FAILED;
	}
	s = read_summary(x);
	if (!o->quiet && s) {
		print_counts(s, seconds);
		print_slowest(get(s, "slowest"));
	}
	leaks = print_leaks(get(get(s, "sandboxes"), "live"), &rep);
	json_object_put(s);
	return status == 0 && leaks > 0 && o->strict ? CMD_FAILED : status;
}

static int run(struct exec_run *x, const struct exec_options *o, struct err *e)
{
	int64_t start_us = clock_mono_us();
	struct exec_report rep;
	sigset_t set, old;
	int r, sigfd, status;
	pid_t pid;

	r = exec_run_start(x, (char *const *)o->passed, o->n_passed, e);
	if (r < 0) {
		(void)exec_run_end(x, &rep, NULL);
		show_log(x);
		return cmd_failed("exec", e);
	}
	forwarded(&set);
	(void)sigprocmask(SIG_BLOCK, &set, &old);
	sigfd = signalfd(-1, &set, SFD_CLOEXEC);
	set_environment(x, o->key);
	pid = start_command(o->command, &old);
	status = pid < 0 || sigfd < 0 ? CMD_FAILED : wait_for_command(pid, sigfd);
	closep(&sigfd);
	return finish(x, o, status, (double)(clock_mono_us() - start_us) / 1e6);
}

int cmd_exec(int argc, char **argv)
{
	struct exec_options o = { 0 };
	struct exec_run x = EXEC_RUN_INIT;
	struct err e = ERR_INIT;
	int status;

	if (parse(argc, argv, &o, &e) < 0)
		return cmd_usage("exec", &e);
	if (o.help) {
		(void)fputs(help_text, stdout);
		return CMD_OK;
	}
	status = exec_run_prepare(&x, o.state_dir, &e) < 0 ? cmd_failed("exec", &e) : run(&x, &o, &e);
	exec_run_close(&x);
	explicit_bzero(o.key, sizeof(o.key));
	return status;
}
