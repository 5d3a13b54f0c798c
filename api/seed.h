#pragma once
/* A seed: accounts, sandboxes, files and commands that an emulator begins with, from one JSON text (README, "Seed").
 * The text is checked whole before anything is done; an error names the place in it ("sandboxes[2].files[0].mode").
 * Then the steps are done in order. A step that fails ends it; what was made until then stays. */

#include "api/api.h"
#include "emulator/exec.h"

#define SEED_TEXT_MAX (8u << 20)

struct seed_account {
	struct key_spec spec; /* its strings are borrowed from the text */
	bool revoked, has_usage;
	double gb_hours, cpu_hours; /* used this month */
};

struct seed_file {
	const char *path;
	uint32_t mode; /* UINT32_MAX: not given */
	char *content;
	size_t n;
};

struct seed_command {
	const char *command;
	const char **argv; /* instead of command */
	uint32_t timeout_s;
};

struct seed_sandbox {
	const char *key; /* whose it is */
	size_t account;	 /* or by the number of the account in the seed; SIZE_MAX: none */
	struct sandbox_spec spec;
	struct seed_file *files;
	struct seed_command *commands;
	size_t n_files, n_commands;
	bool paused;
};

struct seed {
	struct json_object *text; /* owns what is borrowed */
	bool has_seed;
	uint64_t seed;
	struct seed_account *accounts;
	struct seed_sandbox *sandboxes;
	size_t n_accounts, n_sandboxes;
};

/* ERR_INVALID "invalid_seed". */
int seed_parse(struct json_object *o, struct seed **ret, struct err *e);
/* The same of a text that is not parsed yet. */
int seed_parse_text(const char *text, size_t n, struct seed **ret, struct err *e);
void seed_free(struct seed *s); /* NULL is fine */

/* Takes the seed. done() is called once, from the loop or from inside: e NULL and what was made (borrowed). */
typedef void (*seed_done_fn)(void *arg, const struct err *e, struct json_object *made);
void seed_run(struct api *api, struct seed *s, seed_done_fn done, void *arg);
