#pragma once
/* The store: SQLite in WAL mode, one writer (the daemon). Rows are plain structs; strings in them are
 * owned by the row. A row is written before the kernel object it names. Path-independent: the file is
 * opened relative to the current directory, which is the state dir (its parents may be unreadable). */

#include "emulator/base/err.h"

struct store;

enum sandbox_status {
	SANDBOX_CREATING,
	SANDBOX_RUNNING,
	SANDBOX_PAUSING,
	SANDBOX_PAUSED,
	SANDBOX_RESUMING,
	SANDBOX_TERMINATING,
	SANDBOX_TERMINATED,
	SANDBOX_FAILED,
};
const char *sandbox_status_name(enum sandbox_status s);
int sandbox_status_parse(const char *word, enum sandbox_status *ret); /* -EINVAL */

#define SANDBOX_ID_SIZE 31 /* "sbx_" + ULID + NUL */

struct sandbox_row {
	char id[SANDBOX_ID_SIZE];
	char slot[32];
	char account[64];
	enum sandbox_status status;
	char *template_name;
	char size[8]; /* "", "small", "medium", "large" */
	uint32_t cpu_millis;
	uint32_t memory_mb;
	char network[12];
	uint32_t timeout_s;
	char *region;	/* NULL: none asked for */
	char *metadata; /* JSON object text */
	char *env;	/* JSON object text: secret, never sent or logged */
	int64_t created_ms;
	int64_t started_ms, expires_ms, paused_ms, terminated_ms; /* 0: not yet */
	char termination_reason[16];				  /* "", "user", "timeout", "oom", "failed", "reset" */
	char *failure;						  /* why it failed, for a person, or NULL */
	bool memory_lost; /* not stored: it was resumed from its disk alone in this run */
};
void sandbox_row_clear(struct sandbox_row *r); /* frees the strings, zeroes the rest */
int sandbox_row_copy(const struct sandbox_row *from, struct sandbox_row *to);

/* Opens (makes, migrates) the file at name in the current directory. A damaged file is ERR_IO with a way
 * out in the message, never silently replaced. */
int store_open(const char *name, struct store **ret, struct err *e);
void store_close(struct store *s);

int store_sandbox_insert(struct store *s, const struct sandbox_row *r, struct err *e);
/* As insert, in place of an earlier row of that id, whatever it says. */
int store_sandbox_put(struct store *s, const struct sandbox_row *r, struct err *e);
/* By id: what can change (slot, status, times, limits, how it ended). With a status of terminated or failed
 * the stored env is forgotten: no command will need it again. ERR_NOT_FOUND. */
int store_sandbox_update(struct store *s, const struct sandbox_row *r, struct err *e);
/* As update, and on the disk before it returns: for what a client is promised beyond a power cut (a paused
 * sandbox; the end of one). Costs an fdatasync. */
int store_sandbox_update_synced(struct store *s, const struct sandbox_row *r, struct err *e);
int store_sandbox_get(struct store *s, const char *id, struct sandbox_row *ret, struct err *e);

struct store_list {
	const char *account;
	const enum sandbox_status *status; /* NULL: any */
	uint32_t limit;
	const char *cursor; /* from the answer before, or NULL; ERR_INVALID if it is none of ours */
};
/* Newest first. fn per row (borrowed); it must not use the store, and ends the walk with anything but 0,
 * which is then returned. next_cursor: "" at the end. ERR_INVALID "cursor_invalid". */
#define STORE_CURSOR_SIZE 96
int store_sandbox_list(struct store *s, const struct store_list *q, int (*fn)(void *arg, const struct sandbox_row *r),
		       void *arg, char next_cursor[static STORE_CURSOR_SIZE], struct err *e);

/* Every row of any account whose status is not terminated or failed (for the start-up sweep). fn may
 * change rows. */
int store_sandbox_each_live(struct store *s, int (*fn)(void *arg, const struct sandbox_row *r), void *arg,
			    struct err *e);

/* Forgets the ended sandboxes, the idempotency keys and the usage of an account, or of all (NULL). All or nothing. */
int store_forget(struct store *s, const char *account, uint64_t *ret_sandboxes, struct err *e);

/* What all accounts have used, in all months that are kept (units: emulator/meter.h), as far as it was flushed. */
int store_usage_total(struct store *s, uint64_t *ret_cpu_usec, uint64_t *ret_mem_kib_ms, struct err *e);

/* Numbers the emulator keeps about itself, by a name. get: *ret stays as it was if there is none. */
int store_setting_get(struct store *s, const char *name, int64_t *ret, struct err *e);
int store_setting_put(struct store *s, const char *name, int64_t value, struct err *e);

/* Usage (emulator/meter.h): of a sandbox in its life, and of an account in a month (cpu_usec and mem_kib_ms alone; month
 * as 202605). get: zeroes if there is none. forget: the months of an account, or of all (NULL). */
struct store_usage {
	char slot[32];
	uint64_t seen_usec;
	int64_t at_ms;
	uint64_t cpu_usec, mem_kib_ms, run_ms, peak_bytes;
};
int store_usage_get(struct store *s, const char *id, struct store_usage *ret, struct err *e);
int store_usage_put(struct store *s, const char *id, const struct store_usage *u, struct err *e);
int store_usage_month_get(struct store *s, const char *account, int month, struct store_usage *ret, struct err *e);
int store_usage_month_put(struct store *s, const char *account, int month, const struct store_usage *u, struct err *e);
int store_usage_forget(struct store *s, const char *account, struct err *e);

/* One transaction around several writes; every begin has its end, from the same place in the loop. */
int store_begin(struct store *s, struct err *e);
int store_end(struct store *s, bool commit, struct err *e);

/* API keys made at run time (emulator/account.h), by the SHA-256 of the key. put: makes it, or changes all but whose
 * it is. each: the oldest first; fn may not use the store, and ends the walk with anything but 0. */
struct store_key {
	char digest[65];
	char account[64];
	char plan[16];
	unsigned int scopes;
	char label[65];
	int64_t created_ms, expires_ms, revoked_ms;
	uint32_t rate_requests, rate_seconds;
};
int store_key_put(struct store *s, const struct store_key *k, struct err *e);
int store_key_delete(struct store *s, const char *digest, struct err *e);
/* In the order they were put first. */
int store_key_each(struct store *s, int (*fn)(void *arg, const struct store_key *k), void *arg, struct err *e);

/* Idempotency keys (wire.md): (account, key) -> body hash, sandbox id; older than 24 h are forgotten.
 * put: ERR_EXISTS while the key is remembered; a key has 1 to 255 bytes.
 * get: 0 and the stored pair, or ERR_NOT_FOUND. */
int store_idempotency_put(struct store *s, const char *account, const char *key, const char *body_sha256,
			  const char *sandbox_id, int64_t now_ms, struct err *e);
int store_idempotency_get(struct store *s, const char *account, const char *key, int64_t now_ms,
			  char ret_body_sha256[static 65], char ret_id[static SANDBOX_ID_SIZE], struct err *e);
int store_idempotency_forget(struct store *s, const char *account, const char *key, struct err *e);
