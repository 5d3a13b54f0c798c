#include "emulator/cmd/cmd.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>
#include <sys/wait.h>

#include "emulator/idmap.h"

#define WORD_MAX 24
#define NAMES_MAX 32

int cmd_failed(const char *command, const struct err *e)
{
	(void)fprintf(stderr, "orkestr-emulator %s: %s\n", command, e->msg);
	return CMD_FAILED;
}

int cmd_usage(const char *command, const struct err *e)
{
	(void)fprintf(stderr, "orkestr-emulator %s: %s\nTry 'orkestr-emulator %s --help'.\n", command, e->msg, command);
	return CMD_USAGE;
}

int cmd_in_userns(const struct idmap *m, int (*fn)(void *arg), void *arg, struct err *e)
{
	int status, r;
	pid_t pid;

	(void)fflush(stdout); /* the child must not print it again */
	r = idmap_spawn(m, fn, arg, &pid, NULL, e);
	if (r < 0)
		return r;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_errno(e, errno, "waiting");
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	return err_set(e, ERR_INTERNAL, EIO, NULL, "the process that did the work was killed by signal %d",
		       WTERMSIG(status));
}

/* Levenshtein's distance of two short words. */
static unsigned int distance(const char *a, size_t n, const char *b, size_t m)
{
	unsigned int row[WORD_MAX + 1];

	for (size_t j = 0; j <= m; j++)
		row[j] = (unsigned int)j;
	for (size_t i = 1; i <= n; i++) {
		unsigned int corner = row[0];

		row[0] = (unsigned int)i;
		for (size_t j = 1; j <= m; j++) {
			unsigned int best = corner + (a[i - 1] != b[j - 1]);

			corner = row[j];
			best = MIN(best, row[j] + 1);
			row[j] = MIN(best, row[j - 1] + 1);
		}
	}
	return row[m];
}

const char *cmd_nearest(const char *word, const char *const *names)
{
	size_t n = strnlen(word, WORD_MAX + 1);
	const char *nearest = NULL;
	unsigned int best = 3; /* more than two slips is another word */

	if (n < 2 || n > WORD_MAX)
		return NULL;
	for (; *names; names++) {
		size_t m = strlen(*names);
		unsigned int d;

		if (m > WORD_MAX)
			continue;
		if (n >= 3 && strncmp(*names, word, n) == 0) /* a beginning of it */
			return *names;
		d = distance(word, n, *names, m);
		if (d < best && d < n) {
			best = d;
			nearest = *names;
		}
	}
	return nearest;
}

static int unknown_option(const char *word, const struct option *longs, struct err *e)
{
	const char *names[NAMES_MAX + 1] = { NULL }, *nearest = NULL;
	char plain[WORD_MAX + 2];
	size_t n = 0;

	for (; n < NAMES_MAX && longs[n].name; n++)
		names[n] = longs[n].name;
	if (strncmp(word, "--", 2) == 0) {
		(void)snprintf(plain, sizeof(plain), "%.*s", (int)MIN(strcspn(word + 2, "="), sizeof(plain) - 1),
			       word + 2);
		nearest = cmd_nearest(plain, names);
	}
	/* The value after "=" may be a key. */
	(void)err_set(e, ERR_INVALID, EINVAL, NULL, "there is no option %.*s%s%s%s", (int)strcspn(word, "="), word,
		      nearest ? "; did you mean --" : "", nearest ? nearest : "", nearest ? "?" : "");
	return CMD_OPT_BAD;
}

int cmd_getopt(int argc, char **argv, const char *shorts, const struct option *longs, struct err *e)
{
	const char *word;
	int c;

	opterr = 0;
	c = getopt_long(argc, argv, shorts, longs, NULL);
	if (c != '?' && c != ':')
		return c;
	word = optind > 0 && optind <= argc ? argv[optind - 1] : "";
	if (c == ':') {
		(void)err_set(e, ERR_INVALID, EINVAL, NULL, "%s needs a value", word);
		return CMD_OPT_BAD;
	}
	if (optopt == 0)
		return unknown_option(word, longs, e);
	for (; longs->name; longs++)
		if (longs->val == optopt && longs->has_arg == no_argument) {
			(void)err_set(e, ERR_INVALID, EINVAL, NULL, "--%s takes no value", longs->name);
			return CMD_OPT_BAD;
		}
	(void)err_set(e, ERR_INVALID, EINVAL, NULL, "there is no option -%c", optopt);
	return CMD_OPT_BAD;
}
