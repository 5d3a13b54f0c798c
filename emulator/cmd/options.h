#pragma once
/* What `serve` was asked for. Strings are borrowed from argv. */

#include "emulator/base/err.h"
#include "emulator/base/log.h"
#include "emulator/profile.h"
#include "emulator/ratelimit.h"

#define SERVE_DEFAULT_HOST "127.0.0.1"
#define SERVE_DEFAULT_PORT 4520
#define SERVE_MAX_KEYS 64
#define SERVE_DEFAULT_WARM 4
#define SERVE_MAX_NET 1024 /* each of --allow, --map and --zone */

struct serve_options {
	char host[256];			/* a literal without brackets, or a name */
	uint16_t port;			/* 0: any */
	const char *port_file;		/* NULL: none */
	const char *state_dir;		/* NULL: the default, see emulator/statedir.h */
	const char *snapshot_dir;	/* NULL: the state dir's own */
	const char *unix_path;		/* NULL: none */
	char *api_keys[SERVE_MAX_KEYS]; /* KEY[:PLAN[:read,write]], for accounts_add */
	size_t n_api_keys;
	const char *keys_file; /* NULL: none; the same, one a line */
	bool auth_any;
	bool has_rate; /* --rate-limit was given */
	enum rate_mode rate_mode;
	struct rate_limit rate;
	enum log_level log_level;
	uint32_t max_sandboxes;		/* live at the same time on this host; 0: no limit */
	uint32_t warm;			/* sandboxes kept half made */
	bool keep;			/* a stop leaves the sandboxes for the next start */
	bool strict_resume;		/* no resume without the processes */
	char *allow[SERVE_MAX_NET + 1]; /* rules for "restricted", NULL-terminated */
	char *map[SERVE_MAX_NET + 1];	/* HOST[:PORT]=ADDR:PORT */
	char *zone[SERVE_MAX_NET + 1];	/* NAME=ADDR */
	size_t n_allow, n_map, n_zone;
	bool allow_private;
	bool network_errors_report; /* a blocked attempt is told in the result, never as NetworkPolicyError */
	bool no_faults;		    /* neither rules nor X-Orkestr-Fault */
	bool journal_commands;	    /* whole command lines in the journal */
	struct profile profile;
	const char *seed_file; /* NULL: none */
	bool has_seed;
	uint64_t seed;		  /* of the ids */
	const char *summary_file; /* for `exec`: written when it stops */
	int leash_fd;		  /* for `exec`: stop when it is closed; -1 */
	bool shared_layers;	  /* for `exec`: the state dir lies in another one, whose layers it has */
	bool help;		  /* nothing else was looked at */
};

/* argv[0] is "serve". ERR_INVALID with a sentence that names the option; an API key is never quoted. */
int serve_options_parse(int argc, char **argv, struct serve_options *ret, struct err *e);

void serve_options_help(FILE *f);

/* Overwrites the keys in argv, so that `ps` no longer shows them; call it after accounts_add. n_api_keys stays:
 * whether keys were given still matters. */
void serve_options_forget_keys(struct serve_options *o);

/* "HOST:PORT", "[V6]:PORT", ":PORT" (the default host). For serve_options_parse and tests. */
int serve_parse_listen(const char *s, char *ret_host, size_t cap, uint16_t *ret_port, struct err *e);
