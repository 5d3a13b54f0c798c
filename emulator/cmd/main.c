#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "emulator/base/procname.h"
#include "emulator/base/sealed.h"
#include "emulator/cmd/cmd.h"

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	bool sealed; /* runs what others wrote: first out of reach of it (emulator/base/sealed.h) */
} commands[] = {
	{ "serve", cmd_serve, true },
	{ "exec", cmd_exec, false },
	{ "doctor", cmd_doctor, false },
	{ "template", cmd_template, true },
	{ "snapshot", cmd_snapshot, false },
	{ "events", cmd_events, false },
	{ "fault", cmd_fault, false },
	{ "reset", cmd_reset, false },
	{ "seed", cmd_seed, false },
	{ "network", cmd_network, false },
	{ "clean", cmd_clean, false },
	{ "version", cmd_version, false },
};

static const char help_text[] =
	"orkestr-emulator answers the sandbox API of the orkestr cloud on this machine.\n"
	"Each sandbox is a process tree of its own: namespaces, cgroup limits, an overlay file\n"
	"system. No Docker, no VM, no root needed; what it makes lives in one state dir.\n"
	"\n"
	"Usage: orkestr-emulator COMMAND [OPTION]...\n"
	"\n"
	"  serve      run the service\n"
	"  exec       run a command with an emulator of its own, and audit what it leaves: for CI\n"
	"  doctor     say what works on this host, and the command that fixes what does not\n"
	"  template   list, build, import or remove the images that sandboxes start from\n"
	"  snapshot   list, export, import or remove what paused sandboxes are kept as\n"
	"  events     print what a running emulator has seen\n"
	"  fault      make its calls go wrong on purpose\n"
	"  reset      end and forget what is in it\n"
	"  seed       make the accounts and sandboxes that a file asks for\n"
	"  network    print the built-in allowlist, or check a name against it\n"
	"  clean      remove a state dir with everything in it\n"
	"  version    print the version\n"
	"\n"
	"'orkestr-emulator COMMAND --help' tells more.\n"
	"\n"
	"Examples:\n"
	"  orkestr-emulator doctor                        # does this machine have what it takes?\n"
	"  orkestr-emulator template build python-3.12    # once, some minutes\n"
	"  orkestr-emulator serve                         # then point an SDK at http://127.0.0.1:4520\n"
	"\n"
	"Exit status: 0 it worked, 1 it did not, 2 the command line was wrong.\n";

/* A program started without 0, 1 or 2 would write its messages into the first files it opens. */
static void have_stdio(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd > STDERR_FILENO)
		(void)close(fd);
}

static int unknown(const char *word)
{
	const char *names[ARRAY_SIZE(commands) + 1] = { NULL }, *nearest;

	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		names[i] = commands[i].name;
	nearest = cmd_nearest(word, names);
	(void)fprintf(stderr, "orkestr-emulator: there is no %s '%.64s'", word[0] == '-' ? "option" : "command", word);
	if (nearest)
		(void)fprintf(stderr, "; did you mean '%s'?\n", nearest);
	else
		(void)fprintf(stderr, "; see 'orkestr-emulator --help'\n");
	return CMD_USAGE;
}

static int seal(char **whole_argv)
{
	struct err e = ERR_INIT;

	if (sealed_run(whole_argv, &e) == 0)
		return CMD_OK;
	(void)fprintf(stderr, "orkestr-emulator: %s\n", e.msg);
	return CMD_FAILED;
}

/* argv: behind the program's own name. */
static int run(int argc, char **argv)
{
	static char help_option[] = "--help";

	if (argc < 1) {
		(void)fputs(help_text, stderr);
		return CMD_USAGE;
	}
	if (strcmp(argv[0], "--version") == 0 || strcmp(argv[0], "-V") == 0) {
		argv[0] = (char[]){ "version" };
		return cmd_version(1, argv);
	}
	if (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0 || strcmp(argv[0], "help") == 0) {
		if (argc == 1 || argv[0][0] == '-') {
			(void)fputs(help_text, stdout);
			return CMD_OK;
		}
		/* "help serve" is "serve --help" */
		argv[0] = argv[1];
		argv[1] = help_option;
		argc = 2;
	}
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(argv[0], commands[i].name) == 0)
			return commands[i].sealed && seal(argv - 1) != CMD_OK ? CMD_FAILED
									      : commands[i].run(argc, argv);
	return unknown(argv[0]);
}

int main(int argc, char **argv)
{
	procname_init(argc, argv);
	int status;

	have_stdio();
	status = run(argc - 1, argv + 1);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		(void)fprintf(stderr, "orkestr-emulator: cannot write the output: %s\n", strerror(errno));
		return status == CMD_OK ? CMD_FAILED : status;
	}
	return status;
}
