#pragma once
/* The command line: one function a subcommand, in cmd_<name>.c. Each gets argv from its own name on and
 * returns the exit status. Only emulator/cmd includes this. */

#include "emulator/base/err.h"

enum cmd_exit {
	CMD_OK = 0,
	CMD_FAILED = 1, /* it was understood and did not work */
	CMD_USAGE = 2,	/* it was not understood */
};

int cmd_serve(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_template(int argc, char **argv);
int cmd_clean(int argc, char **argv);
int cmd_network(int argc, char **argv);
int cmd_events(int argc, char **argv);
int cmd_fault(int argc, char **argv);
int cmd_reset(int argc, char **argv);
int cmd_seed(int argc, char **argv);
int cmd_clock(int argc, char **argv);
int cmd_key(int argc, char **argv);
int cmd_exec(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
int cmd_version(int argc, char **argv);

/* Prints "orkestr-emulator COMMAND: message" (and where help is) on standard error. Return their status. */
int cmd_failed(const char *command, const struct err *e);
int cmd_usage(const char *command, const struct err *e);

/* Runs fn(arg) as id 0 of the emulator's user namespace, in a child; the child's status, or a negative errno with e. */
struct idmap;
int cmd_in_userns(const struct idmap *m, int (*fn)(void *arg), void *arg, struct err *e);

/* The name nearest to a mistyped word in a NULL-terminated list, or NULL if none is near. */
const char *cmd_nearest(const char *word, const char *const *names);

/* getopt_long(3) with our own messages. Returns as that does, but 0 or negative errno is never mixed in:
 * a faulty option returns CMD_OPT_BAD after filling e (ERR_INVALID). Start with optind = 0. */
struct option;
#define CMD_OPT_BAD (-2)
int cmd_getopt(int argc, char **argv, const char *shorts, const struct option *longs, struct err *e);

/* An option of a subcommand and where it goes: its value to *value (the last one given counts), or true to *flag. */
struct cmd_option {
	const char *name;   /* without the dashes; NULL ends a table */
	char letter;	    /* a flag's short form, or 0 */
	const char **value; /* borrowed from argv */
	bool *flag;
};
#define CMD_VALUE(n, to) ((struct cmd_option){ .name = (n), .value = (to) })
#define CMD_FLAG(n, to) ((struct cmd_option){ .name = (n), .flag = (to) })
#define CMD_HELP(to) ((struct cmd_option){ .name = "help", .letter = 'h', .flag = (to) })
#define CMD_END ((struct cmd_option){ .name = NULL })
#define CMD_OPTIONS_MAX 32

struct cmd_rest { /* the arguments that are no options, wherever they stood */
	char **v;
	int n;
};

/* Takes a whole command line by a table of at most CMD_OPTIONS_MAX. -EINVAL with e. */
int cmd_parse(int argc, char **argv, const struct cmd_option *options, struct cmd_rest *ret, struct err *e);

/* ERR_INVALID if there are more than max. */
int cmd_at_most(const struct cmd_rest *rest, int max, struct err *e);

/* One line of JSON on standard output. */
struct json_object;
void cmd_print_json(struct json_object *o);
