#include "emulator/cmd/cmd.h"

#include <errno.h>
#include <getopt.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/wait.h>

#include "emulator/idmap.h"

#define WORD_MAX 24

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
	const char *names[CMD_OPTIONS_MAX + 1] = { NULL }, *nearest = NULL;
	char plain[WORD_MAX + 2];
	size_t n = 0;

	for (; n < CMD_OPTIONS_MAX && longs[n].name; n++)
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

int cmd_parse(int argc, char **argv, const struct cmd_option *options, struct cmd_rest *ret, struct err *e)
{
	enum { FIRST = 256 }; /* what getopt_long(3) returns for an option without a letter: this and its place */
	struct option longs[CMD_OPTIONS_MAX + 1] = { { NULL, 0, NULL, 0 } };
	char shorts[CMD_OPTIONS_MAX + 2] = ":";
	size_t n = 0, n_shorts = 1;
	int c;

	for (; n < CMD_OPTIONS_MAX && options[n].name; n++) {
		longs[n] = (struct option){ .name = options[n].name,
					    .has_arg = options[n].value ? required_argument : no_argument,
					    .val = options[n].letter ? options[n].letter : FIRST + (int)n };
		if (options[n].letter)
			shorts[n_shorts++] = options[n].letter;
	}
	optind = 0;
	while ((c = cmd_getopt(argc, argv, shorts, longs, e)) != -1) {
		if (c == CMD_OPT_BAD)
			return -EINVAL;
		for (size_t i = 0; i < n; i++)
			if (longs[i].val == c && options[i].value)
				*options[i].value = optarg;
			else if (longs[i].val == c)
				*options[i].flag = true;
	}
	*ret = (struct cmd_rest){ .v = argv + optind, .n = argc - optind };
	return 0;
}

int cmd_at_most(const struct cmd_rest *rest, int max, struct err *e)
{
	if (rest->n <= max)
		return 0;
	return err_set(e, ERR_INVALID, EINVAL, NULL, "'%.64s' is not expected here", rest->v[max]);
}

void cmd_print_json(struct json_object *o)
{
	(void)puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
}
