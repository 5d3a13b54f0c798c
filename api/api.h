#pragma once
/* What every handler works on, and the route tables that make up the service. */

#include "api/http.h"
#include "emulator/fault.h"
#include "emulator/idmap.h"
#include "emulator/sandbox.h"
#include "emulator/vclock.h"

struct api {
	struct sandboxes *sandboxes;
	struct tmpls *tmpls;
	struct store *store;
	const struct idmap *idmap;
	struct cgroup_root *cgroups;
	struct vclock *clock;
	struct accounts *accounts;
	struct ratelimits *limits;
	int state_fd;
	int64_t started_ms;
	struct journal *journal;       /* or NULL */
	struct faults *faults;	       /* NULL: none can be made (--no-faults) */
	const struct profile *profile; /* or NULL */
	bool network_errors_report;    /* what was refused is in a result only, never an error of its own */
};

void api_add_sandbox_routes(struct http *h);  /* api/routes_sandbox.c */
void api_add_exec_routes(struct http *h);     /* api/routes_exec.c */
void api_add_template_routes(struct http *h); /* api/routes_templates.c */
void api_add_file_routes(struct http *h);     /* api/routes_files.c */
void api_add_network_routes(struct http *h);  /* api/routes_network.c: /_emulator/sandboxes/{id}/network, map */
void api_add_journal_routes(struct http *h);  /* api/routes_journal.c: /_emulator/events, summary */
void api_add_fault_routes(struct http *h);    /* api/routes_fault.c: /_emulator/faults */
void api_add_reset_routes(struct http *h);    /* api/routes_reset.c: /_emulator/reset */
void api_add_seed_routes(struct http *h);     /* api/routes_seed.c: /_emulator/seed */
void api_add_emulator_routes(struct http *h); /* api/routes_emulator.c: /_emulator/health, info */
void api_add_clock_routes(struct http *h);    /* api/routes_clock.c: /_emulator/clock */
void api_add_usage_routes(struct http *h);    /* api/routes_usage.c: limits, metrics, /_emulator/usage */
void api_add_key_routes(struct http *h);      /* api/routes_keys.c: /_emulator/keys, rate-limit */
void api_add_snapshot_routes(struct http *h); /* api/routes_snapshot.c: /_emulator/sandboxes/{id} */

extern const char *const api_regions[]; /* NULL-terminated; accepted and kept, nothing else */

#ifndef ORKESTR_VERSION
#define ORKESTR_VERSION "0.1.0"
#endif
