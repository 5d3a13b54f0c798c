/* Theory of operation
 *
 * One SQLite file in WAL mode, one connection, no thread. A change is one statement or one short
 * transaction: with synchronous=NORMAL a commit is a write to the log, without an fsync, so it costs tens
 * of microseconds and survives a kill -9; a power cut may lose the last of them, but not the file. Nothing that
 * runs survives a power cut either, so only rows that outlive it are synced: store_sandbox_update_synced.
 *
 * The process has an unprivileged id and its working directory is the state dir, whose parents it may be
 * unable to read (a caller's 0700 folder). SQLite's "unix" VFS makes every name absolute with getcwd(3)
 * and lstat(2) of each parent, which fails there. So the store registers a copy of that VFS in which a
 * name stays as it was given. Nothing else of it is changed: WAL and shm files get their names from the
 * database's, and a symlink in the name's place is refused (O_NOFOLLOW; nothing resolves it before).
 * The working directory must stay the same until store_close.
 *
 * A file that cannot be used is never replaced: rows may be all that knows of a running sandbox. The
 * message tells which files to move away. Whether the last stop was clean shows in the log file, which
 * SQLite removes at a clean close; if it is there, the database is checked before it is used. */

#include "emulator/store.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "emulator/base/text.h"
#include "emulator/store-internal.h"

#undef store_err /* the analyzer's */
#undef store_damaged

#define BUSY_MS 1000
/* quick_check reads all of the file, about 1 ms for 1 MiB: above this size start-up would feel it, and
 * damage is then found by the statement that meets it. */
#define CHECK_MAX_BYTES (32 << 20)

static int full_pathname(sqlite3_vfs *vfs, const char *name, int n, char *ret)
{
	(void)vfs;
	return text_format(ret, (size_t)n, "%s", name) < 0 ? SQLITE_CANTOPEN : SQLITE_OK;
}

static const char *cwd_vfs(void)
{
	static const char name[] = "orkestr-cwd";
	static sqlite3_vfs vfs;
	sqlite3_vfs *unix_vfs;

	if (vfs.zName)
		return name;
	unix_vfs = sqlite3_vfs_find("unix");
	if (!unix_vfs)
		return NULL;
	vfs = *unix_vfs;
	vfs.pNext = NULL;
	vfs.xFullPathname = full_pathname;
	vfs.zName = name;
	if (sqlite3_vfs_register(&vfs, 0) != SQLITE_OK) {
		vfs.zName = NULL;
		return NULL;
	}
	return name;
}

int store_damaged(struct store *s, const char *why, struct err *e)
{
	return err_set(e, ERR_IO, EIO, "store_damaged",
		       "%s in the state dir is damaged (%s); to start with an empty one, move it away with its log: "
		       "mkdir damaged && mv %s* damaged/",
		       s->name, why, s->name);
}

static int io_err(struct store *s, int rc, struct err *e, const char *what)
{
	int sys = errno > 0 ? errno : sqlite3_system_errno(s->db);

	/* The shm file grows by writing to it, and SQLite forgets why that failed. */
	if (sys == ENOSPC || sys == EDQUOT || sys == EFBIG || rc == SQLITE_IOERR_SHMSIZE)
		return err_set(e, ERR_FULL, sys == EDQUOT ? EDQUOT : ENOSPC, "disk_full",
			       "%s: the state dir's disk is full", what);
	return err_set(e, ERR_IO, sys > 0 ? sys : EIO, NULL, "%s: %s: %s", what, s->name,
		       sys > 0 ? strerror(sys) : sqlite3_errstr(rc));
}

int store_err(struct store *s, int rc, struct err *e, const char *what)
{
	switch (rc & 0xff) {
	case SQLITE_FULL:
		return err_set(e, ERR_FULL, ENOSPC, "disk_full", "%s: the state dir's disk is full", what);
	case SQLITE_CORRUPT:
		return store_damaged(s, "malformed", e);
	case SQLITE_NOTADB:
		return store_damaged(s, "not a database", e);
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return err_set(e, ERR_BUSY, EBUSY, NULL, "%s: another process holds a lock on %s", what, s->name);
	case SQLITE_NOMEM:
		return err_set(e, ERR_CAPACITY, ENOMEM, NULL, "%s: out of memory", what);
	case SQLITE_TOOBIG:
		return err_set(e, ERR_TOO_LARGE, EMSGSIZE, NULL, "%s: too large", what);
	case SQLITE_READONLY:
		return err_set(e, ERR_IO, EROFS, NULL, "%s: %s cannot be written", what, s->name);
	case SQLITE_IOERR:
	case SQLITE_CANTOPEN:
	case SQLITE_PERM:
		return io_err(s, rc, e, what);
	case SQLITE_CONSTRAINT:
		if (rc == SQLITE_CONSTRAINT_PRIMARYKEY || rc == SQLITE_CONSTRAINT_UNIQUE)
			return err_set(e, ERR_EXISTS, EEXIST, NULL, "%s: it is there already", what);
		return err_set(e, ERR_INTERNAL, EINVAL, NULL, "%s: %s", what, sqlite3_errmsg(s->db));
	default:
		return err_set(e, ERR_INTERNAL, EIO, NULL, "%s: %s", what, sqlite3_errstr(rc));
	}
}

bool store_column_copy(sqlite3_stmt *st, int i, char *ret, size_t cap)
{
	const char *p = (const char *)sqlite3_column_text(st, i);
	int n = sqlite3_column_bytes(st, i);

	if (!p || n < 0 || (size_t)n >= cap || memchr(p, '\0', (size_t)n))
		return false;
	memcpy(ret, p, (size_t)n + 1);
	return true;
}

bool store_column_dup(sqlite3_stmt *st, int i, bool may_be_null, char **ret, bool *nomem)
{
	const char *p = (const char *)sqlite3_column_text(st, i);
	int n = sqlite3_column_bytes(st, i);

	*ret = NULL;
	if (!p) {
		if (sqlite3_column_type(st, i) != SQLITE_NULL)
			*nomem = true;
		return may_be_null;
	}
	if (memchr(p, '\0', (size_t)n))
		return false;
	*ret = strdup(p);
	if (!*ret)
		*nomem = true;
	return *ret;
}

bool store_column_u32(sqlite3_stmt *st, int i, uint32_t *ret)
{
	sqlite3_int64 v = sqlite3_column_int64(st, i);

	*ret = (uint32_t)v;
	return v >= 0 && v <= UINT32_MAX;
}

bool store_dup(const char *from, char **to)
{
	*to = from ? strdup(from) : NULL;
	return *to || !from;
}

int store_run(struct store *s, sqlite3_stmt *st, struct err *e, const char *what)
{
	int rc = store_step(st);

	return rc == SQLITE_DONE ? 0 : store_err(s, rc, e, what);
}

static bool name_valid(const char *name)
{
	size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

	return n > 0 && !name[n] && name[0] != '.' && n + 8 < sizeof(((struct store *)0)->name);
}

static off_t file_size(const char *name, const char *suffix)
{
	char path[80];
	struct stat st;

	if (text_format(path, sizeof(path), "%s%s", name, suffix) < 0 ||
	    fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -1;
	return st.st_size;
}

/* Makes the file with the mode it should have (SQLite's is 0644; log and shm files follow the database's),
 * and looks at what is there before SQLite does. *ret_check: the last stop was not a clean one. */
static int prepare_file(struct store *s, bool *ret_check, struct err *e)
{
	_cleanup_close_ int fd = openat(AT_FDCWD, s->name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	off_t db, wal;

	if (fd < 0 && errno != EEXIST)
		return err_errno(e, errno, "cannot make %s in the state dir", s->name);
	db = file_size(s->name, "");
	wal = file_size(s->name, "-wal");
	/* SQLite would throw the log away and begin anew. A file is never empty while it has one: the step to
	 * WAL mode writes its first page. */
	if (fd < 0 && db == 0 && wal > 0)
		return store_damaged(s, "emptied", e);
	*ret_check = db > 0 && wal > 0 && db <= CHECK_MAX_BYTES;
	return 0;
}

static int check(struct store *s, struct err *e)
{
	sqlite3_stmt *st = NULL;
	int rc, r = 0;

	rc = sqlite3_prepare_v2(s->db, "PRAGMA quick_check(1)", -1, &st, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_step(st);
	if (rc != SQLITE_ROW)
		r = store_err(s, rc == SQLITE_DONE ? SQLITE_CORRUPT : rc, e, "cannot check the store");
	else if (strcmp((const char *)sqlite3_column_text(st, 0) ?: "", "ok") != 0)
		r = store_damaged(s, "its pages do not fit together", e);
	(void)sqlite3_finalize(st);
	return r;
}

static int configure(struct store *s, struct err *e)
{
	static const char *const pragmas[] = {
		"PRAGMA journal_mode = WAL",	       "PRAGMA synchronous = NORMAL", "PRAGMA foreign_keys = ON",
		"PRAGMA temp_store = MEMORY",	       /* no temporary file, wherever its folder would be */
		"PRAGMA trusted_schema = OFF",	       /* the file's schema may call no unsafe function */
		"PRAGMA journal_size_limit = 8388608", /* the log shrinks again after a burst */
	};

	for (size_t i = 0; i < ARRAY_SIZE(pragmas); i++) {
		int rc;

		errno = 0;
		rc = sqlite3_exec(s->db, pragmas[i], NULL, NULL, NULL);

		if (rc != SQLITE_OK)
			return store_err(s, rc, e, "cannot open the store");
	}
	return 0;
}

static int prepare_all(struct store *s, const struct store_sql *sql, struct err *e)
{
	for (; sql->sql; sql++) {
		int rc = sqlite3_prepare_v3(s->db, sql->sql, -1, SQLITE_PREPARE_PERSISTENT, &s->stmts[sql->id], NULL);

		/* Ours are right; a schema that lacks what its version says it has is not. */
		if (rc == SQLITE_ERROR)
			return store_damaged(s, "its tables are not what they should be", e);
		if (rc != SQLITE_OK)
			return store_err(s, rc, e, "cannot open the store");
	}
	return 0;
}

static int open_db(struct store *s, struct err *e)
{
	const char *vfs = cwd_vfs();
	bool must_check = false;
	int rc, r;

	if (!vfs)
		return err_set(e, ERR_INTERNAL, ENOSYS, NULL, "SQLite has no unix VFS");
	r = prepare_file(s, &must_check, e);
	if (r < 0)
		return r;
	errno = 0;
	rc = sqlite3_open_v2(s->name, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE,
			     vfs);
	if (rc != SQLITE_OK)
		return s->db ? store_err(s, sqlite3_extended_errcode(s->db), e, "cannot open the store")
			     : err_errno(e, ENOMEM, "cannot open the store");
	(void)sqlite3_extended_result_codes(s->db, 1);
	(void)sqlite3_busy_timeout(s->db, BUSY_MS);
	if (sqlite3_db_readonly(s->db, "main")) /* what SQLite makes of a file that it may only read */
		return err_set(e, ERR_IO, EACCES, NULL, "cannot open the store: no right to write %s", s->name);
	return must_check ? check(s, e) : 0;
}

int store_open(const char *name, struct store **ret, struct err *e)
{
	struct store *s;
	int r;

	if (!name_valid(name))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "the store's name must be a plain file name");
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_errno(e, ENOMEM, "cannot open the store");
	(void)text_format(s->name, sizeof(s->name), "%s", name);
	r = open_db(s, e);
	/* Before the pragmas: they would turn a foreign file into a WAL database. */
	if (r >= 0)
		r = store_check_ours(s, e);
	if (r >= 0)
		r = configure(s, e);
	if (r >= 0)
		r = store_migrate(s, e);
	if (r >= 0)
		r = prepare_all(s, store_sandbox_sql, e);
	if (r >= 0)
		r = prepare_all(s, store_idempotency_sql, e);
	if (r >= 0)
		r = prepare_all(s, store_setting_sql, e);
	if (r >= 0)
		r = prepare_all(s, store_key_sql, e);
	if (r >= 0)
		r = prepare_all(s, store_usage_sql, e);
	if (r >= 0)
		r = prepare_all(s, store_tmpl_sql, e);
	if (r < 0) {
		store_close(s);
		return r;
	}
	*ret = s;
	return 0;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < STMT_COUNT; i++)
		(void)sqlite3_finalize(s->stmts[i]);
	(void)sqlite3_close(s->db);
	free(s);
}
