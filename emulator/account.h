#pragma once
/* API keys, the accounts behind them, and their plans. A key is kept only as its SHA-256; unless it is given another,
 * its account's id derives from it, so the same key finds its rows again after a restart.
 *
 * Keys come from the command line (accounts_add: they hold as written there at each start, and changes to them last
 * as long as the process) or are made at run time (accounts_key_add: kept in the store, once there is one). A key
 * carries its own plan, scopes, expiry and rate limit; several may belong to one account. With accept_any, a key that
 * nobody added is an account of its own on the team plan, until it is added.
 *
 * Daemon only, but for accounts_new and accounts_add. All times are clock_now_ms. */

#include "emulator/base/err.h"
#include "emulator/ratelimit.h"

enum plan_id { PLAN_FREE, PLAN_PRO, PLAN_TEAM };

enum size_id { SIZE_SMALL, SIZE_MEDIUM, SIZE_LARGE, SIZE_COUNT };

struct size_spec {
	const char *name;
	uint32_t cpu_millis, memory_mb;
};
extern const struct size_spec size_menu[SIZE_COUNT]; /* wire.md, Limits */
int size_parse(const char *name, enum size_id *ret); /* -EINVAL */

struct plan {
	const char *name;
	uint32_t sizes; /* bit per enum size_id */
	uint32_t max_cpu_millis, max_memory_mb;
	uint32_t max_concurrent, max_snapshots, max_timeout_s;
	double gb_hours, cpu_hours; /* a calendar month, UTC */
	bool network_open;
	struct rate_limit rate; /* where rate limits are on by plan */
};
const struct plan *plan_get(enum plan_id id);
int plan_parse(const char *name, enum plan_id *ret); /* -EINVAL */

enum scope { SCOPE_READ = 1, SCOPE_WRITE = 2 };

#define ACCOUNT_ID_SIZE 24 /* "acc_" + 1 to 19 of [a-z0-9_-] + NUL; derived ones have 16 hex digits */
#define KEY_ID_SIZE 17	   /* "key_" + 12 hex digits + NUL: names a key without telling it */
#define KEY_LABEL_SIZE 65

/* Who asks: what a request's key stands for. */
struct account {
	char id[ACCOUNT_ID_SIZE];
	enum plan_id plan;
	unsigned int scopes; /* SCOPE_* */
	char key_id[KEY_ID_SIZE];
	struct rate_limit rate; /* the key's own; requests 0: none */
};

struct store;
struct accounts;
int accounts_new(bool accept_any, struct accounts **ret);
void accounts_free(struct accounts *a);
/* Of keys that come without one: those added from now on, and those of accept_any. PLAN_TEAM unless it was set. */
void accounts_set_default_plan(struct accounts *a, enum plan_id plan);

/* "KEY[:PLAN[:SCOPES[:OPTION]...]]" as on the command line: SCOPES "read,write", OPTION account=NAME,
 * rate=REQUESTS/SECONDS, revoked, expires=TIME (ISO 8601, the last). Default plan team, both scopes. ERR_INVALID tells
 * what is wrong and never quotes the key. */
int accounts_add(struct accounts *a, const char *spec, struct err *e);
/* One of these a line; empty lines and those that begin with "#" are skipped. The text is wiped. */
int accounts_add_lines(struct accounts *a, char *text, struct err *e);

/* The account of a bearer token, or ERR_DENIED with reason "unauthorized" (also for a revoked one) or "key_expired".
 * With accept_any a token that starts with "ork_" or "sp_live_" is an account of its own, plan team. Constant time in
 * the key. */
int accounts_find(const struct accounts *a, const char *token, struct account *ret, struct err *e);

/* Takes over the keys that an earlier run has stored, but for those that were given on the command line, and stores
 * what is made and changed from now on. The store is borrowed for the rest of a's life. */
int accounts_use_store(struct accounts *a, struct store *s, struct err *e);

/* ---- keys at run time ---- */

struct key_spec {
	const char *key;     /* 8 to 256 printable ASCII characters without space and colon; NULL: one is made */
	const char *account; /* "acc_..." or what comes after it; NULL: the key's own */
	const char *label;   /* for people, at most 64 bytes of UTF-8; or NULL */
	enum plan_id plan;
	unsigned int scopes;	/* 0: both */
	int64_t expires_ms;	/* 0: never; may be past */
	struct rate_limit rate; /* requests 0: none of its own */
};

struct key_info {
	char id[KEY_ID_SIZE];
	char account[ACCOUNT_ID_SIZE];
	char label[KEY_LABEL_SIZE]; /* or empty */
	enum plan_id plan;
	unsigned int scopes;
	int64_t created_ms; /* 0: from the command line */
	int64_t expires_ms; /* 0: never */
	int64_t revoked_ms; /* 0: it is not */
	struct rate_limit rate;
};

/* ret_key (or NULL) gets the key itself, which nothing tells again. ERR_INVALID "key_invalid", ERR_EXISTS "key_exists",
 * ERR_CAPACITY beyond 1024 keys. */
#define ACCOUNT_KEY_MAX 257
int accounts_key_add(struct accounts *a, const struct key_spec *s, struct key_info *ret, char ret_key[ACCOUNT_KEY_MAX],
		     struct err *e);

/* ERR_NOT_FOUND "key_not_found". */
int accounts_key_get(const struct accounts *a, const char *key_id, struct key_info *ret, struct err *e);

/* What is NULL stays as it is. Works on command-line keys, too. */
struct key_change {
	const enum plan_id *plan;
	const unsigned int *scopes; /* not 0 */
	const int64_t *expires_ms;  /* 0: never */
	const struct rate_limit *rate;
	const bool *revoked;
};
int accounts_key_change(struct accounts *a, const char *key_id, const struct key_change *c, struct key_info *ret,
			struct err *e);

/* What names that key, whether it is known or not. */
void accounts_key_id(const char *key, char ret[static KEY_ID_SIZE]);

/* As if it had never been. */
int accounts_key_forget(struct accounts *a, const char *key_id, struct err *e);
/* The same for every key that was made at run time: of that account, or all (NULL). For a reset. */
int accounts_forget_made(struct accounts *a, const char *account, struct err *e);

/* In the order in which they were added. fn ends the walk with anything but 0, which is returned; it may not change
 * keys. */
int accounts_each_key(const struct accounts *a, int (*fn)(void *arg, const struct key_info *k), void *arg);

/* The id of the account that a key stands for unless it was given another. ERR_INVALID. */
int account_id_of(const char *key, char ret[static ACCOUNT_ID_SIZE], struct err *e);

/* Whether it is an account's whole id, as in a row. */
bool account_id_valid(const char *id);

/* Makes a key ("ork_" + 40 random characters). */
#define ACCOUNT_KEY_SIZE 64
void account_key_generate(char ret[static ACCOUNT_KEY_SIZE]);

/* "read", "write", or both with a comma. -EINVAL. */
int account_scopes_parse(const char *s, unsigned int *ret);
