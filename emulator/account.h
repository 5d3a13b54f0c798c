#pragma once
/* API keys, the accounts behind them, and their plans. A key is kept only as its SHA-256; an account's id
 * derives from it, so the same key finds its rows again after a restart. */

#include "emulator/base/err.h"

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
};
const struct plan *plan_get(enum plan_id id);
int plan_parse(const char *name, enum plan_id *ret); /* -EINVAL */

enum scope { SCOPE_READ = 1, SCOPE_WRITE = 2 };

#define ACCOUNT_ID_SIZE 24 /* "acc_" + 16 hex digits + NUL, with room */

struct account {
	char id[ACCOUNT_ID_SIZE];
	enum plan_id plan;
	unsigned int scopes; /* SCOPE_* */
};

struct accounts;
int accounts_new(bool accept_any, struct accounts **ret);
void accounts_free(struct accounts *a);

/* "KEY[:PLAN[:read,write]]" as on the command line; default plan team, both scopes. ERR_INVALID tells what is wrong. */
int accounts_add(struct accounts *a, const char *spec, struct err *e);

/* The account of a bearer token, or ERR_DENIED with reason "unauthorized" or "key_expired". With accept_any
 * a token that starts with "ork_" or "sp_live_" is an account of its own, plan team. Constant time in the key. */
int accounts_find(const struct accounts *a, const char *token, struct account *ret, struct err *e);

/* The id of the account a key stands for. ERR_INVALID. */
int account_id_of(const char *key, char ret[static ACCOUNT_ID_SIZE], struct err *e);

/* "acc_" and 16 hex digits. */
bool account_id_valid(const char *id);

/* Makes a key ("ork_" + 40 random characters). */
#define ACCOUNT_KEY_SIZE 64
void account_key_generate(char ret[static ACCOUNT_KEY_SIZE]);
