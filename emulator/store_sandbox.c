/* Rows of sandboxes. What is read back is checked as if the file had been written by someone else. */

#include <errno.h>
#include <string.h>

#include "emulator/base/buf.h"
#include "emulator/base/text.h"
#include "emulator/store-internal.h"

#define LIVE_MAX (1u << 20) /* live rows at start-up; far more than a host can hold */

#define COLUMNS                                                                                                        \
	"id, slot, account, status, template, size, cpu_millis, memory_mb, network, timeout_s, region, "               \
	"created_ms, started_ms, expires_ms, paused_ms, terminated_ms, termination_reason, failure, metadata, env"

/* As the partial index has it, word for word: the planner must recognize it. */
#define NOT_TERMINATED "status <> 'terminated'"

const struct store_sql store_sandbox_sql[] = {
	{ STMT_SANDBOX_INSERT,
	  "INSERT INTO sandbox (" COLUMNS ") VALUES "
	  "(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)" },
	{ STMT_SANDBOX_PUT,
	  "INSERT OR REPLACE INTO sandbox (" COLUMNS ") VALUES "
	  "(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)" },
	/* An ended sandbox will never start a command again, so its secrets go. */
	{ STMT_SANDBOX_UPDATE,
	  "UPDATE sandbox SET slot = ?2, status = ?3, timeout_s = ?4, started_ms = ?5, expires_ms = ?6, paused_ms = "
	  "?7, "
	  "terminated_ms = ?8, termination_reason = ?9, failure = ?10, cpu_millis = ?11, memory_mb = ?12, network = "
	  "?13, "
	  "env = CASE WHEN ?3 IN ('terminated', 'failed') THEN '{}' ELSE env END WHERE id = ?1" },
	{ STMT_SANDBOX_GET, "SELECT " COLUMNS " FROM sandbox WHERE id = ?1" },
	{ STMT_SANDBOX_LIST, "SELECT " COLUMNS " FROM sandbox WHERE account = ?1 AND (created_ms, id) < (?2, ?3) "
			     "ORDER BY created_ms DESC, id DESC LIMIT ?4" },
	{ STMT_SANDBOX_LIST_STATUS,
	  "SELECT " COLUMNS " FROM sandbox WHERE account = ?1 AND status = ?5 AND " NOT_TERMINATED
	  " AND (created_ms, id) < (?2, ?3) ORDER BY created_ms DESC, id DESC LIMIT ?4" },
	{ STMT_SANDBOX_LIST_TERMINATED,
	  "SELECT " COLUMNS " FROM sandbox INDEXED BY sandbox_by_time WHERE account = ?1 AND status = 'terminated' "
	  "AND (created_ms, id) < (?2, ?3) ORDER BY created_ms DESC, id DESC LIMIT ?4" },
	{ STMT_SANDBOX_LIVE_IDS, "SELECT id FROM sandbox WHERE " NOT_TERMINATED " AND status <> 'failed'" },
	{ 0, NULL },
};

static const char *const status_names[] = {
	[SANDBOX_CREATING] = "creating",     [SANDBOX_RUNNING] = "running",   [SANDBOX_PAUSING] = "pausing",
	[SANDBOX_PAUSED] = "paused",	     [SANDBOX_RESUMING] = "resuming", [SANDBOX_TERMINATING] = "terminating",
	[SANDBOX_TERMINATED] = "terminated", [SANDBOX_FAILED] = "failed",
};

const char *sandbox_status_name(enum sandbox_status st)
{
	return (size_t)st < ARRAY_SIZE(status_names) ? status_names[st] : "failed";
}

int sandbox_status_parse(const char *word, enum sandbox_status *ret)
{
	int i = text_index(word, status_names, ARRAY_SIZE(status_names));

	if (i >= 0)
		*ret = (enum sandbox_status)i;
	return MIN(i, 0);
}

void sandbox_row_clear(struct sandbox_row *r)
{
	if (!r)
		return;
	free(r->template_name);
	free(r->region);
	free(r->metadata);
	if (r->env)
		explicit_bzero(r->env, strlen(r->env));
	free(r->env);
	free(r->failure);
	memset(r, 0, sizeof(*r));
}

int sandbox_row_copy(const struct sandbox_row *from, struct sandbox_row *to)
{
	struct sandbox_row r = *from;

	r.template_name = r.region = r.metadata = r.env = r.failure = NULL;
	if (!store_dup(from->template_name, &r.template_name) || !store_dup(from->region, &r.region) ||
	    !store_dup(from->metadata, &r.metadata) || !store_dup(from->env, &r.env) ||
	    !store_dup(from->failure, &r.failure)) {
		sandbox_row_clear(&r);
		return -ENOMEM;
	}
	*to = r;
	return 0;
}

/* Column by column in the order of COLUMNS. */
static bool decode(sqlite3_stmt *st, struct sandbox_row *r, bool *nomem)
{
	char status[16];

	if (!store_column_copy(st, 0, r->id, sizeof(r->id)) || !store_column_copy(st, 1, r->slot, sizeof(r->slot)) ||
	    !store_column_copy(st, 2, r->account, sizeof(r->account)) ||
	    !store_column_copy(st, 3, status, sizeof(status)) || sandbox_status_parse(status, &r->status) < 0 ||
	    !store_column_dup(st, 4, false, &r->template_name, nomem) ||
	    !store_column_copy(st, 5, r->size, sizeof(r->size)) || !store_column_u32(st, 6, &r->cpu_millis) ||
	    !store_column_u32(st, 7, &r->memory_mb) || !store_column_copy(st, 8, r->network, sizeof(r->network)) ||
	    !store_column_u32(st, 9, &r->timeout_s) || !store_column_dup(st, 10, true, &r->region, nomem))
		return false;
	r->created_ms = sqlite3_column_int64(st, 11);
	r->started_ms = sqlite3_column_int64(st, 12);
	r->expires_ms = sqlite3_column_int64(st, 13);
	r->paused_ms = sqlite3_column_int64(st, 14);
	r->terminated_ms = sqlite3_column_int64(st, 15);
	return store_column_copy(st, 16, r->termination_reason, sizeof(r->termination_reason)) &&
	       store_column_dup(st, 17, true, &r->failure, nomem) &&
	       store_column_dup(st, 18, false, &r->metadata, nomem) && store_column_dup(st, 19, false, &r->env, nomem);
}

static int read_row(struct store *s, sqlite3_stmt *st, struct sandbox_row *ret, struct err *e)
{
	struct sandbox_row r = { 0 };
	bool nomem = false;

	if (!decode(st, &r, &nomem) || nomem) {
		sandbox_row_clear(&r);
		return nomem ? err_errno(e, ENOMEM, "cannot read a sandbox's row")
			     : store_damaged(s, "an impossible sandbox row", e);
	}
	*ret = r;
	return 0;
}

static int insert(struct store *s, enum store_stmt how, const struct sandbox_row *r, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[how];

	store_bind_text(st, 1, r->id);
	store_bind_text(st, 2, r->slot);
	store_bind_text(st, 3, r->account);
	store_bind_text(st, 4, sandbox_status_name(r->status));
	store_bind_text(st, 5, r->template_name);
	store_bind_text(st, 6, r->size);
	store_bind_int(st, 7, r->cpu_millis);
	store_bind_int(st, 8, r->memory_mb);
	store_bind_text(st, 9, r->network);
	store_bind_int(st, 10, r->timeout_s);
	store_bind_text(st, 11, r->region);
	store_bind_int(st, 12, r->created_ms);
	store_bind_int(st, 13, r->started_ms);
	store_bind_int(st, 14, r->expires_ms);
	store_bind_int(st, 15, r->paused_ms);
	store_bind_int(st, 16, r->terminated_ms);
	store_bind_text(st, 17, r->termination_reason);
	store_bind_text(st, 18, r->failure);
	store_bind_text(st, 19, r->metadata ? r->metadata : "{}");
	store_bind_text(st, 20, r->env ? r->env : "{}");
	return store_run(s, st, e, "cannot store the sandbox");
}

int store_sandbox_insert(struct store *s, const struct sandbox_row *r, struct err *e)
{
	return insert(s, STMT_SANDBOX_INSERT, r, e);
}

int store_sandbox_put(struct store *s, const struct sandbox_row *r, struct err *e)
{
	return insert(s, STMT_SANDBOX_PUT, r, e);
}

int store_sandbox_update(struct store *s, const struct sandbox_row *r, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_SANDBOX_UPDATE];
	int k;

	store_bind_text(st, 1, r->id);
	store_bind_text(st, 2, r->slot);
	store_bind_text(st, 3, sandbox_status_name(r->status));
	store_bind_int(st, 4, r->timeout_s);
	store_bind_int(st, 5, r->started_ms);
	store_bind_int(st, 6, r->expires_ms);
	store_bind_int(st, 7, r->paused_ms);
	store_bind_int(st, 8, r->terminated_ms);
	store_bind_text(st, 9, r->termination_reason);
	store_bind_text(st, 10, r->failure);
	store_bind_int(st, 11, r->cpu_millis);
	store_bind_int(st, 12, r->memory_mb);
	store_bind_text(st, 13, r->network);
	k = store_run(s, st, e, "cannot store the sandbox's state");
	if (k < 0)
		return k;
	if (sqlite3_changes(s->db) == 0)
		return err_set(e, ERR_NOT_FOUND, ENOENT, "sandbox_not_found", "Sandbox %s not found", r->id);
	return 0;
}

int store_sandbox_update_synced(struct store *s, const struct sandbox_row *r, struct err *e)
{
	int rc = sqlite3_exec(s->db, "PRAGMA synchronous = FULL", NULL, NULL, NULL);
	int k = rc == SQLITE_OK ? store_sandbox_update(s, r, e)
				: store_err(s, rc, e, "cannot store the sandbox's state");

	(void)sqlite3_exec(s->db, "PRAGMA synchronous = NORMAL", NULL, NULL, NULL);
	return k;
}

int store_sandbox_get(struct store *s, const char *id, struct sandbox_row *ret, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_SANDBOX_GET];
	int rc;

	store_bind_text(st, 1, id);
	rc = store_step(st);
	if (rc == SQLITE_DONE)
		return err_set(e, ERR_NOT_FOUND, ENOENT, "sandbox_not_found", "Sandbox not found");
	if (rc != SQLITE_ROW)
		return store_err(s, rc, e, "cannot read the sandbox's row");
	return read_row(s, st, ret, e);
}

/* A cursor is the place of the last row of a page, "1:<created_ms>:<id>" in base 64 (URL alphabet, no
 * padding), opaque to clients. It names a place, not a row: pages stay in step when rows come or go. */
static void cursor_encode(int64_t created_ms, const char *id, char ret[static STORE_CURSOR_SIZE])
{
	char plain[64];
	int n = text_format(plain, sizeof(plain), "1:%lld:%s", (long long)created_ms, id);
	char *end;

	*ret = '\0';
	if (n < 0)
		return;
	end = ret + text_base64_encode(plain, (size_t)n, ret);
	for (char *p = ret; p < end; p++)
		*p = *p == '+' ? '-' : *p == '/' ? '_' : *p == '=' ? '\0' : *p;
}

static int cursor_decode(const char *cursor, int64_t *ret_ms, char ret_id[static SANDBOX_ID_SIZE])
{
	char plain[STORE_CURSOR_SIZE], again[STORE_CURSOR_SIZE], *id;
	size_t n = strnlen(cursor, STORE_CURSOR_SIZE);
	ssize_t len;
	uint64_t ms;

	if (n == 0 || n >= STORE_CURSOR_SIZE)
		return -EINVAL;
	len = text_base64_decode(cursor, n, plain);
	if (len < 2 || memchr(plain, '\0', (size_t)len) || memcmp(plain, "1:", 2) != 0)
		return -EINVAL;
	plain[len] = '\0';
	id = strchr(plain + 2, ':');
	if (!id)
		return -EINVAL;
	*id++ = '\0';
	if (text_parse_u64(plain + 2, 0, INT64_MAX, &ms) < 0 || !*id || strlen(id) >= SANDBOX_ID_SIZE)
		return -EINVAL;
	/* Only what cursor_encode prints, to the letter. */
	cursor_encode((int64_t)ms, id, again);
	if (strcmp(again, cursor) != 0)
		return -EINVAL;
	*ret_ms = (int64_t)ms;
	memcpy(ret_id, id, strlen(id) + 1);
	return 0;
}

static enum store_stmt list_stmt(const struct store_list *q)
{
	if (!q->status)
		return STMT_SANDBOX_LIST;
	return *q->status == SANDBOX_TERMINATED ? STMT_SANDBOX_LIST_TERMINATED : STMT_SANDBOX_LIST_STATUS;
}

int store_sandbox_list(struct store *s, const struct store_list *q, int (*fn)(void *arg, const struct sandbox_row *r),
		       void *arg, char next_cursor[static STORE_CURSOR_SIZE], struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[list_stmt(q)];
	/* Behind every row: ids are ASCII. */
	char id[SANDBOX_ID_SIZE] = "\x7f", last_id[SANDBOX_ID_SIZE] = "";
	int64_t ms = INT64_MAX, last_ms = 0;
	int rc, r;

	if (q->cursor && cursor_decode(q->cursor, &ms, id) < 0)
		return err_set(e, ERR_INVALID, EINVAL, "cursor_invalid", "The cursor is none of this service's");
	if (q->limit == 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "The limit must be at least 1");
	store_bind_text(st, 1, q->account);
	store_bind_int(st, 2, ms);
	store_bind_text(st, 3, id);
	store_bind_int(st, 4, (int64_t)q->limit + 1); /* one more tells whether there is a next page */
	if (q->status && *q->status != SANDBOX_TERMINATED)
		store_bind_text(st, 5, sandbox_status_name(*q->status));
	for (uint32_t n = 0; (rc = store_step(st)) == SQLITE_ROW; n++) {
		struct sandbox_row row;

		if (n == q->limit) {
			cursor_encode(last_ms, last_id, next_cursor);
			return 0;
		}
		r = read_row(s, st, &row, e);
		if (r < 0)
			return r;
		last_ms = row.created_ms;
		memcpy(last_id, row.id, sizeof(last_id));
		r = fn(arg, &row);
		sandbox_row_clear(&row);
		if (r != 0)
			return r;
	}
	if (rc != SQLITE_DONE)
		return store_err(s, rc, e, "cannot list the sandboxes");
	next_cursor[0] = '\0';
	return 0;
}

/* The ids of all live rows into out, each with its NUL. */
static int live_ids(struct store *s, struct buf *out, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_SANDBOX_LIVE_IDS];
	char id[SANDBOX_ID_SIZE] = "";
	int rc;

	while ((rc = store_step(st)) == SQLITE_ROW) {
		if (!store_column_copy(st, 0, id, sizeof(id)))
			return store_damaged(s, "an impossible sandbox row", e);
		if (buf_add(out, id, sizeof(id)) < 0)
			return err_errno(e, ENOMEM, "cannot list the live sandboxes");
	}
	return rc == SQLITE_DONE ? 0 : store_err(s, rc, e, "cannot list the live sandboxes");
}

/* Row by row, with no statement under way while fn runs: it may change rows as it goes. */
int store_sandbox_each_live(struct store *s, int (*fn)(void *arg, const struct sandbox_row *r), void *arg,
			    struct err *e)
{
	_cleanup_buf_ struct buf ids = BUF_INIT(SANDBOX_ID_SIZE * LIVE_MAX);
	int r = live_ids(s, &ids, e);

	for (size_t at = 0; r == 0 && at < ids.len; at += SANDBOX_ID_SIZE) {
		struct sandbox_row row;

		r = store_sandbox_get(s, ids.p + at, &row, e);
		if (r < 0)
			break;
		r = fn(arg, &row);
		sandbox_row_clear(&row);
	}
	return r;
}
