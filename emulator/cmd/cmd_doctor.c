#include "emulator/cmd/cmd_doctor.h"

#include <getopt.h>
#include <json.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "emulator/doctor.h"
#include "emulator/keeper.h"
#include "emulator/statedir.h"

static const char usage[] =
	"Usage: orkestr-emulator doctor [--json] [--state-dir DIR]\n"
	"\n"
	"Checks by doing what sandboxes need on this host: user namespaces, ids, overlay, proc, seccomp, cgroup\n"
	"limits, nftables, templates, disk and tools. For what fails it prints the command that fixes it.\n"
	"Leaves nothing behind. Exit status: 0 if sandboxes can run (perhaps with less), 1 if they can't.\n"
	"\n"
	"  --json           the same as JSON\n"
	"  --state-dir DIR  the emulator's state dir (default: as for serve)\n"
	"  --help           this text\n";

static void print_wrapped(const char *label, const char *text)
{
	size_t col = 0;

	printf("         %s", label);
	while (*text) {
		size_t n = strcspn(text, " ");

		if (col > 0 && col + n > 86) {
			printf("\n              ");
			col = 0;
		}
		printf("%s%.*s", col > 0 ? " " : "", (int)n, text);
		col += n + 1;
		text += n + (text[n] == ' ');
	}
	printf("\n");
}

static void print_table(const struct doctor_report *r)
{
	for (size_t i = 0; i < r->n; i++) {
		const struct doctor_check *c = &r->check[i];

		printf("  %-5s  %-22s %s\n", doctor_status_name(c->status), c->title, c->found);
		if (c->means[0])
			print_wrapped("  => ", c->means);
		/* A command is to be copied as it is, so it is never wrapped. */
		if (c->fix[0])
			printf("         fix: %s\n", c->fix);
	}
	printf("\n%s\n", r->verdict);
}

static void print_json(const struct doctor_report *r)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();

	for (size_t i = 0; i < r->n; i++) {
		const struct doctor_check *c = &r->check[i];
		struct json_object *j = json_object_new_object();

		json_object_object_add(j, "id", json_object_new_string(c->id));
		json_object_object_add(j, "title", json_object_new_string(c->title));
		json_object_object_add(j, "status", json_object_new_string(doctor_status_name(c->status)));
		json_object_object_add(j, "found", json_object_new_string(c->found));
		json_object_object_add(j, "means", c->means[0] ? json_object_new_string(c->means) : NULL);
		json_object_object_add(j, "fix", c->fix[0] ? json_object_new_string(c->fix) : NULL);
		json_object_array_add(list, j);
	}
	json_object_object_add(o, "can_run", json_object_new_boolean(r->can_run));
	json_object_object_add(o, "verdict", json_object_new_string(r->verdict));
	json_object_object_add(o, "checks", list);
	printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(o);
}

/* Sandboxes that run without a daemon. Under the lock, so that no daemon is talked to. */
static void tell_of_keeper(const char *state_dir)
{
	_cleanup_close_ int fd = -1, lock = -1;
	char path[PATH_MAX];
	struct idmap m;

	idmap_choose(&m);
	if (statedir_open_existing(state_dir, &m, &fd, path, sizeof(path), NULL) < 0)
		return;
	lock = statedir_lock(fd, NULL);
	if (lock >= 0 && keeper_is_there(fd))
		printf("\nA keeper in %s keeps what an emulator left that was killed, or stopped with --keep: `serve` "
		       "takes it over, `clean` ends it.\n",
		       path);
}

int cmd_doctor(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "state-dir", required_argument, NULL, 's' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	struct doctor_options o = { 0 };
	struct err e = ERR_INIT;
	struct doctor_report r;
	bool json = false;
	int c;

	optind = 0;
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
		switch (c) {
		case 'j':
			json = true;
			break;
		case 's':
			o.state_dir = optarg;
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			fputs(usage, stderr);
			return 2;
		}
	if (optind < argc) {
		fprintf(stderr, "orkestr-emulator doctor: unexpected argument '%s'\n", argv[optind]);
		return 2;
	}
	if (doctor_run(&o, &r, &e) < 0) {
		fprintf(stderr, "orkestr-emulator doctor: %s\n", e.msg);
		return 1;
	}
	if (json)
		print_json(&r);
	else
		print_table(&r);
	if (!json)
		tell_of_keeper(o.state_dir);
	return r.can_run ? 0 : 1;
}
