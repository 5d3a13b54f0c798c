#pragma once
/* Faults on demand: rules that say which calls go wrong, how often, and how. This is the table, the grammar and the
 * dice; what an effect does to a connection is api/inject.c's business, to a command exec.c's, to a name the
 * egress process's.
 *
 * The grammar is the same everywhere (JSON members, the CLI, the X-Orkestr-Fault header): name=value, separated
 * by ";" in a text:
 *
 *   which calls   route=[METHOD ]PATTERN   "*" or {name} for one segment, "**" at the end for the rest
 *                 account=acc_...  key=ork_...  sandbox=sbx_...  header=NAME[: VALUE]
 *   how often     nth=N (from the N-th such call on; then times is 1 by default)  times=N (0: no end)
 *                 probability=P  seed=N
 *   what          status=400..599  code=WORD  detail=TEXT  retry_after=SECONDS
 *                 latency=MS | uniform(MIN,MAX) | normal(MEAN,DEVIATION) | exponential(MEAN)
 *                 reset=before|body|after   cut=N   last_chunk=missing
 *                 exec=kill|oom  exec_after=MS   disk=full   resume=fail
 *                 dns=servfail  host=NAME
 *
 * Rules are asked in the order they were made; the first that fires is the call's only one. */

#include "emulator/base/err.h"

#define FAULTS_MAX 256
#define FAULT_ID_SIZE 16 /* "flt_" and a number */
#define FAULT_TEXT_MAX 1024
#define FAULT_LATENCY_MAX 600000 /* ms */

enum fault_reset {
	FAULT_RESET_NONE,
	FAULT_RESET_BEFORE, /* before anything was done */
	FAULT_RESET_BODY,   /* it was done; in the middle of the answer's body */
	FAULT_RESET_AFTER,  /* it was done; nothing of the answer is sent */
};

enum fault_exec {
	FAULT_EXEC_NONE,
	FAULT_EXEC_KILL, /* SIGKILL to the command's tree */
	FAULT_EXEC_OOM,	 /* the same, reported as the kernel's memory kill would be */
};

enum fault_spread { FAULT_FIXED, FAULT_UNIFORM, FAULT_NORMAL, FAULT_EXPONENTIAL };

struct fault_latency {
	enum fault_spread spread;
	double a, b; /* ms: the value; least and most; mean and deviation; mean */
};

struct fault_effect {
	unsigned int status; /* 0: not given */
	char code[40], detail[200];
	int64_t retry_after; /* seconds; -1: none */
	bool has_latency;
	struct fault_latency latency;
	enum fault_reset reset;
	int64_t cut; /* events of a stream that still come; -1: all */
	bool no_last_chunk;
	enum fault_exec exec;
	uint32_t exec_after_ms;
	bool dns_servfail;
};

struct fault_rule {
	char id[FAULT_ID_SIZE];
	char method[12], path[200]; /* "": any */
	char account[64], sandbox[40];
	char key[260]; /* as given: whoever knows accounts turns it into `account` and wipes it */
	char header[64], header_value[200];
	char host[256];	    /* for dns */
	bool route_implied; /* by resume=fail */
	uint64_t nth;	    /* 0: not given */
	uint64_t times;	    /* 0: no end */
	bool has_times;
	double probability; /* 0..1 */
	uint64_t seed;
	struct fault_effect effect;

	uint64_t seen, hits, dice;
};

#define FAULT_RULE_INIT ((struct fault_rule){ .probability = 1, .effect = { .retry_after = -1, .cut = -1 } })

/* ERR_INVALID says what is allowed. rule starts as FAULT_RULE_INIT. */
int fault_rule_set(struct fault_rule *r, const char *name, const char *value, struct err *e);
int fault_rule_parse(struct fault_rule *r, const char *text, struct err *e);
/* The rule is complete: it has an effect, and what goes with it. per_request: it came with a request, so it says
 * nothing about which one. */
int fault_rule_check(struct fault_rule *r, bool per_request, struct err *e);

/* "404" is not 404 here: only whether the call answers with an error of the rule's own. */
static inline bool fault_effect_answers(const struct fault_effect *fx)
{
	return fx->status != 0 || fx->code[0] != '\0';
}

/* "1500", "uniform(10,50)", ...: also for the profiles. ERR_INVALID. */
int fault_latency_parse(const char *s, struct fault_latency *ret, struct err *e);
int fault_latency_text(const struct fault_latency *l, char *ret, size_t cap);
/* The next number of a sequence that *dice determines: 0 to FAULT_LATENCY_MAX ms. */
uint32_t fault_latency_next(const struct fault_latency *l, uint64_t *dice);

/* A number in (0, 1), the next of a sequence that *dice determines. */
double fault_dice(uint64_t *dice);

/* pattern: "[METHOD ]PATTERN". Also for the journal's filter. */
bool fault_route_match(const char *pattern, const char *method, const char *path);

/* ---- the table ---- */

struct faults;
int faults_new(struct faults **ret);
void faults_free(struct faults *f); /* NULL is fine */

/* Copies the rule and gives it an id ("flt_1", ...). ERR_CAPACITY beyond FAULTS_MAX. *ret: borrowed. */
int faults_add(struct faults *f, const struct fault_rule *r, const struct fault_rule **ret, struct err *e);
/* By id; ERR_NOT_FOUND "fault_not_found". */
int faults_get(const struct faults *f, const char *id, const struct fault_rule **ret, struct err *e);
int faults_remove(struct faults *f, const char *id, struct err *e);
/* Those of an account, or with NULL all. How many. The numbers go on. */
size_t faults_clear(struct faults *f, const char *account);
size_t faults_count(const struct faults *f);			      /* f NULL: 0 */
const struct fault_rule *faults_at(const struct faults *f, size_t i); /* in the order they were made */

struct fault_call {
	const char *method, *path, *account, *sandbox; /* the last two: or NULL */
	const char *(*header)(void *arg, const char *name);
	void *arg;
};
/* The rule that fires for this call (borrowed, its counters moved), or NULL. Rules about names (dns) don't. */
const struct fault_rule *faults_fire(struct faults *f, const struct fault_call *c);
/* A single rule's dice, for one that came with the request. */
bool fault_rule_fires(struct fault_rule *r);
/* A name's rule was used by the egress process. NULL: there is none of that id. */
const struct fault_rule *faults_hit(struct faults *f, const char *id);
