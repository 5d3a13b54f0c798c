#pragma once
/* One run of the benchmark: what is measured, where it is kept, who reports it. */

#include <sys/types.h>

#include "emulator/base/err.h"
#include "emulator/store.h"
#include "tests/bench/client.h"
#include "tests/bench/floor.h"
#include "tests/bench/net.h"
#include "tests/bench/server.h"
#include "tests/bench/stats.h"

enum series {
	S_SPAWN,
	S_LOOPBACK,
	S_HEALTH,
	S_FLOOR,
	S_BWRAP,
	S_RUNC,
	S_CREATE,
	S_FIRST_EXEC,
	S_CREATE_EXEC,
	S_TERMINATE,
	S_WARM_EXEC,
	S_COLD_CREATE_EXEC,
	S_READY,
	S_STOP,
	S_LIVE_CREATE,
	S_CREATE_NET,
	S_NET_SETUP_DIRECT,
	S_NET_SETUP,
	S_NET_PULL_DIRECT,
	S_NET_PULL,
	S_NET_DENY,
	S_NET_DNS,
	SERIES_COUNT,
};
extern const char *const series_names[SERIES_COUNT]; /* for a person */
extern const char *const series_keys[SERIES_COUNT];  /* in the JSON */

#define BENCH_EXEC "{\"command\":[\"/bin/true\"]}"

/* What is said of a run beside the series: a value, and where there is a target its limit. */
struct figure {
	char name[80], unit[8];
	double value, limit; /* value < 0: could not be measured; limit 0: no target */
	bool at_least;	     /* the limit is a floor, not a ceiling */
};
#define FIGURES_MAX 64

struct bench {
	struct server_config config;
	const char *template_name, *work, *json;
	char *runc_bundle; /* NULL: no runc */
	char runc_root[512];
	size_t rounds, starts, live;
	bool strict;

	struct server server;
	struct client api, echo;
	pid_t echo_pid;
	char warm_id[SANDBOX_ID_SIZE], net_id[SANDBOX_ID_SIZE];
	const char *netbench; /* the program for net.c */
	struct net_world world;
	double net_failed; /* of 1,000 connections at the same time; < 0: not measured */

	struct samples s[SERIES_COUNT];
	char absent[SERIES_COUNT][384]; /* why a subject could not run; "" while it can */
	struct server_memory memory, idle;
	struct figure figures[FIGURES_MAX];
	size_t n_figures;
	size_t missed; /* targets not met, set by report() */
};

/* A call that must answer with this status. */
int bench_call(struct client *c, const char *method, const char *path, const char *body, int status, struct err *e);
int bench_create(struct client *c, const char *template_name, char ret_id[static SANDBOX_ID_SIZE], struct err *e);
int bench_create_in(struct client *c, const char *template_name, const char *network,
		    char ret_id[static SANDBOX_ID_SIZE], struct err *e);
int bench_exec(struct client *c, const char *id, struct err *e); /* /bin/true, which must exit 0 */
int bench_terminate(struct client *c, const char *id, struct err *e);

/* Fills up to b->live sandboxes under as many keys as that takes, reads memory, ends them. */
int bench_live(struct bench *b, struct err *e);

/* Adds one; dropped beyond FIGURES_MAX, visibly. */
void bench_figure(struct bench *b, const char *name, const char *unit, double value, double limit, bool at_least);
double bench_p50(struct bench *b, enum series s);
double bench_ratio(struct bench *b, enum series s, enum series base); /* of the p50s; -1: not measured */

/* transfer.c: output that streams and files that come and go, beside what the host's own tools need for it. */
int bench_transfer(struct bench *b, struct err *e);

/* snapshots.c: pause and resume, beside tar and zstd. Leaves the server stopped. */
int bench_snapshots(struct bench *b, struct err *e);

/* The table on stdout and the JSON file. */
int report(struct bench *b, struct err *e);
