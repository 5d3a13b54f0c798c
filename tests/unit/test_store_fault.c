/* The store when something is wrong: files that are not ours or damaged, full disks, locks, kills, rights. */

#include "tests/unit/store_fixture.h"

#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/text.h"

TestSuite(store_fault, .init = enter, .fini = leave);

/* Opening must fail like this, and leave the file as it was, byte for byte. */
static void refused(enum err_kind kind, const char *reason, const char *says)
{
	static char before[1 << 20], after[1 << 20];
	ssize_t n = fd_read_file(AT_FDCWD, DB, before, sizeof(before));
	struct err e = ERR_INIT;
	struct store *s = NULL;

	cr_assert_geq(n, 0);
	cr_assert_lt(store_open(DB, &s, &e), 0);
	cr_assert_null(s);
	cr_assert_eq(e.kind, kind, "%s: %s", err_kind_name(e.kind), e.msg);
	if (reason)
		cr_assert_str_eq(e.reason, reason, "%s", e.msg);
	cr_assert_not_null(strstr(e.msg, says), "%s", e.msg);
	cr_assert_eq(fd_read_file(AT_FDCWD, DB, after, sizeof(after)), n);
	cr_assert_eq(memcmp(before, after, (size_t)n), 0);
}

static void write_db(const void *p, size_t n)
{
	int fd = open(DB, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0);
	cr_assert_eq(fd_write_all(fd, p, n), 0);
	(void)close(fd);
}

Test(store_fault, another_programs_database_is_refused)
{
	sql("CREATE TABLE bookmarks (url TEXT); INSERT INTO bookmarks VALUES ('x')");
	refused(ERR_EXISTS, "store_foreign", "another program's");
	sql("PRAGMA application_id = 252006673");
	refused(ERR_EXISTS, "store_foreign", "another program's");
	sql("DROP TABLE bookmarks"); /* empty, but marked as someone's */
	refused(ERR_EXISTS, "store_foreign", "another program's");
	sql("PRAGMA application_id = 0; PRAGMA user_version = 4");
	refused(ERR_EXISTS, "store_foreign", "another program's");
	sql("PRAGMA user_version = 0");
	store_close(must_open()); /* a database in which nothing ever was */
}

Test(store_fault, a_newer_version_is_refused)
{
	store_close(must_open());
	sql("PRAGMA user_version = 1000");
	refused(ERR_UNSUPPORTED, "store_newer", "newer orkestr-emulator (store version 1000, this one knows up to ");
	sql("PRAGMA user_version = -1");
	refused(ERR_UNSUPPORTED, "store_newer", "newer");
}

/* The tables of the first version, as files in the field have them. */
Test(store_fault, an_older_version_is_brought_up)
{
	static const char first[] = "CREATE TABLE sandbox ("
				    " id TEXT NOT NULL PRIMARY KEY,"
				    " slot TEXT NOT NULL,"
				    " account TEXT NOT NULL,"
				    " status TEXT NOT NULL,"
				    " template TEXT NOT NULL,"
				    " size TEXT NOT NULL,"
				    " cpu_millis INTEGER NOT NULL,"
				    " memory_mb INTEGER NOT NULL,"
				    " network TEXT NOT NULL,"
				    " timeout_s INTEGER NOT NULL,"
				    " region TEXT,"
				    " created_ms INTEGER NOT NULL,"
				    " started_ms INTEGER NOT NULL,"
				    " expires_ms INTEGER NOT NULL,"
				    " paused_ms INTEGER NOT NULL,"
				    " terminated_ms INTEGER NOT NULL,"
				    " termination_reason TEXT NOT NULL,"
				    " failure TEXT,"
				    " metadata TEXT NOT NULL,"
				    " env TEXT NOT NULL"
				    ") STRICT;"
				    "CREATE INDEX sandbox_by_time ON sandbox (account, created_ms, id);"
				    "CREATE INDEX sandbox_not_terminated ON sandbox (account, status, created_ms, id) "
				    "WHERE status <> 'terminated';"
				    "CREATE TABLE idempotency ("
				    " account TEXT NOT NULL,"
				    " key TEXT NOT NULL,"
				    " body_sha256 TEXT NOT NULL,"
				    " sandbox_id TEXT NOT NULL,"
				    " created_ms INTEGER NOT NULL,"
				    " PRIMARY KEY (account, key)"
				    ") STRICT, WITHOUT ROWID;"
				    "CREATE INDEX idempotency_by_time ON idempotency (created_ms);"
				    "PRAGMA user_version = 1; PRAGMA application_id = 0x6f726b65;"
				    "INSERT INTO idempotency VALUES ('acc_a', 'key', 'hash', 'sbx_1', 5);";

	sql(first);
	store_close(must_open());
	cr_assert_eq(sql_int("SELECT count(*) FROM idempotency WHERE key = 'key'"), 1);
	cr_assert_gt(sql_int("PRAGMA user_version"), 1);
	cr_assert_eq(sql_int("SELECT count(*) FROM usage_month"), 0);
}

struct order {
	char digests[8];
	size_t n;
};

static int take_digest(void *arg, const struct store_key *k)
{
	struct order *o = arg;

	cr_assert_lt(o->n, sizeof(o->digests) - 1);
	o->digests[o->n++] = k->digest[0];
	return 0;
}

/* In the third version their time alone told the order of keys. */
Test(store_fault, older_keys_keep_their_order)
{
	static const char third[] =
		"DROP TABLE api_key;"
		"CREATE TABLE api_key ("
		" digest TEXT NOT NULL PRIMARY KEY,"
		" account TEXT NOT NULL,"
		" plan TEXT NOT NULL,"
		" scopes INTEGER NOT NULL,"
		" label TEXT NOT NULL,"
		" created_ms INTEGER NOT NULL,"
		" expires_ms INTEGER NOT NULL,"
		" revoked_ms INTEGER NOT NULL,"
		" rate_requests INTEGER NOT NULL,"
		" rate_seconds INTEGER NOT NULL"
		") STRICT, WITHOUT ROWID;"
		"PRAGMA user_version = 3;"
		"INSERT INTO api_key VALUES ('a', 'acc', 'free', 1, '', 30, 0, 0, 0, 0),"
		" ('b', 'acc', 'free', 1, '', 10, 0, 0, 0, 0), ('c', 'acc', 'team', 3, 'l', 20, 7, 8, 9, 10);";
	struct store_key put = { .digest = "d", .account = "acc", .plan = "free", .created_ms = 5 };
	struct order order = { 0 };
	struct err e = ERR_INIT;
	struct store *s;

	store_close(must_open());
	sql(third);
	s = must_open();
	cr_assert_eq(store_key_put(s, &put, &e), 0, "%s", e.msg);
	cr_assert_eq(store_key_each(s, take_digest, &order, &e), 0, "%s", e.msg);
	cr_assert_str_eq(order.digests, "bcad");
	store_close(s);
	cr_assert_eq(sql_int("SELECT count(*) FROM api_key WHERE digest = 'c' AND plan = 'team' AND scopes = 3 AND "
			     "label = 'l'"
			     " AND expires_ms = 7 AND revoked_ms = 8 AND rate_requests = 9 AND rate_seconds = 10"),
		     1);
}

Test(store_fault, a_file_that_is_no_database_is_refused)
{
	static const char text[] = "This is a letter to my bank and certainly not a database, whatever its name says.";
	char junk[8192];

	write_db(text, sizeof(text));
	refused(ERR_IO, "store_damaged", "mv " DB "*");
	text_random(junk, sizeof(junk));
	junk[0] = 'J';
	write_db(junk, sizeof(junk));
	refused(ERR_IO, "store_damaged", "move it away");
	write_db("", 0);
	store_close(must_open()); /* an empty file is a store nobody wrote to yet */
}

static void fill(struct store *s, int from, int n)
{
	for (int i = from; i < from + n; i++) {
		struct sandbox_row r = row_of(i, "acc_1", 5000 + i);

		must_insert(s, &r);
	}
}

Test(store_fault, damaged_pages_are_found_after_an_unclean_stop)
{
	struct store *s;
	char junk[4096], wal[64] = { 0 };
	int fd;

	s = must_open();
	fill(s, 0, 300);
	store_close(s);
	/* The tree pages behind the first, and a log, as a crash leaves one. */
	memset(junk, 0x5a, sizeof(junk));
	fd = open(DB, O_WRONLY | O_CLOEXEC);
	for (int pg = 2; pg < 10; pg++)
		cr_assert_eq(pwrite(fd, junk, sizeof(junk), pg * 4096), (ssize_t)sizeof(junk));
	(void)close(fd);
	fd = open(DB "-wal", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	cr_assert_eq(fd_write_all(fd, wal, sizeof(wal)), 0);
	(void)close(fd);
	refused(ERR_IO, "store_damaged", "mv " DB "*");
}

Test(store_fault, damage_met_later_is_the_same_error)
{
	struct store_list q = { .account = "acc_1", .limit = 200 };
	char junk[4096], next[STORE_CURSOR_SIZE];
	struct seen seen = { 0 };
	struct err e = ERR_INIT;
	struct store *s = must_open();
	struct stat st;
	int fd;

	fill(s, 0, 300);
	store_close(s);
	memset(junk, 0x5a, sizeof(junk));
	cr_assert_eq(stat(DB, &st), 0);
	fd = open(DB, O_WRONLY | O_CLOEXEC);
	for (off_t at = 10 * 4096; at < st.st_size; at += 4096)
		cr_assert_eq(pwrite(fd, junk, sizeof(junk), at), (ssize_t)sizeof(junk));
	(void)close(fd);
	if (store_open(DB, &s, &e) == 0) {
		cr_assert_lt(store_sandbox_list(s, &q, see, &seen, next, &e), 0);
		store_close(s);
	}
	cr_assert_eq(e.kind, ERR_IO, "%s", e.msg);
	cr_assert_str_eq(e.reason, "store_damaged");
}

Test(store_fault, a_truncated_file_with_a_log_is_damaged_and_not_new)
{
	struct store *s = must_open();

	fill(s, 0, 10);
	cr_assert_eq(link(DB "-wal", "elsewhere"), 0); /* what a kill -9 would have left */
	store_close(s);
	cr_assert_eq(truncate(DB, 0), 0);
	cr_assert_eq(rename("elsewhere", DB "-wal"), 0);
	if (sql_int("SELECT 1")) { /* sqlite3 itself would not even notice */
		int fd = open(DB "-wal", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

		cr_assert_eq(fd_write_all(fd, "log", 3), 0);
		(void)close(fd);
	}
	refused(ERR_IO, "store_damaged", "emptied");
}

Test(store_fault, impossible_rows_are_damage_and_not_a_crash)
{
	static const char *const t[] = {
		"UPDATE sandbox SET status = 'dancing'",
		"UPDATE sandbox SET status = ''",
		"UPDATE sandbox SET size = 'gigantic'",
		"UPDATE sandbox SET network = 'a-very-long-word'",
		"UPDATE sandbox SET slot = 's-000000000000000000000000000000000000000000'",
		"UPDATE sandbox SET account = CAST(zeroblob(10) AS TEXT)",
		"UPDATE sandbox SET cpu_millis = -1",
		"UPDATE sandbox SET memory_mb = 4294967296",
		"UPDATE sandbox SET timeout_s = 9223372036854775807",
		"UPDATE sandbox SET metadata = CAST(x'7b007d' AS TEXT)",
		"UPDATE sandbox SET termination_reason = 'because it was a long and eventful day'",
	};
	struct sandbox_row r = row_of(1, "acc_1", 5), got;
	struct store *s = must_open();
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		must_insert(s, &r);
		store_close(s);
		sql(t[i]);
		s = must_open();
		e = ERR_INIT;
		cr_assert_eq(store_sandbox_get(s, r.id, &got, &e), -EIO, "%s", t[i]);
		cr_assert_str_eq(e.reason, "store_damaged");
		cr_assert_not_null(strstr(e.msg, "impossible"));
		store_close(s);
		sql("DELETE FROM sandbox");
		s = must_open();
	}
	store_close(s);
}

Test(store_fault, missing_tables_are_damage)
{
	store_close(must_open());
	sql("DROP TABLE idempotency");
	refused(ERR_IO, "store_damaged", "tables are not what they should be");
}

Test(store_fault, a_symlink_is_not_followed)
{
	struct err e = ERR_INIT;
	struct store *s = NULL;

	cr_assert_eq(symlink("elsewhere", DB), 0);
	cr_assert_lt(store_open(DB, &s, &e), 0);
	cr_assert_null(s);
	cr_assert_eq(e.kind, ERR_IO, "%s", e.msg);
	cr_assert_neq(access("elsewhere", F_OK), 0);
}

/* Rows until the disk is full, then the same again with room: one error kind, nothing lost, nothing half. */
static void until_full(struct store *s, int *ret_n)
{
	struct err e = ERR_INIT;
	int r = 0, n = 0;

	for (; n < 20000; n++) {
		struct sandbox_row row = row_of(n, "acc_1", 5000 + n);

		r = store_sandbox_insert(s, &row, &e);
		if (r < 0)
			break;
	}
	cr_assert_lt(r, 0, "it never was full");
	cr_assert_eq(e.kind, ERR_FULL, "after %d: %s: %s", n, err_kind_name(e.kind), e.msg);
	cr_assert_not_null(strstr(e.msg, "disk is full"), "%s", e.msg);
	*ret_n = n;
}

Test(store_fault, full_disk)
{
	struct sandbox_row got, more;
	struct err e = ERR_INIT;
	struct store *s;
	int n = 0;

	cr_assert_eq(mount("tmpfs", dir, "tmpfs", 0, "size=3m"), 0);
	cr_assert_eq(chdir(dir), 0);
	s = must_open();
	until_full(s, &n);
	cr_assert_gt(n, 50);
	for (int i = 0; i < n; i++) {
		cr_assert_eq(store_sandbox_get(s, row_of(i, "", 0).id, &got, &e), 0, "%d: %s", i, e.msg);
		sandbox_row_clear(&got);
	}
	cr_assert_eq(store_sandbox_get(s, row_of(n, "", 0).id, &got, &e), -ENOENT);
	cr_assert_eq(mount(NULL, dir, NULL, MS_REMOUNT, "size=8m"), 0);
	more = row_of(n, "acc_1", 5000);
	must_insert(s, &more);
	store_close(s);
	s = must_open();
	cr_assert_eq(store_sandbox_get(s, more.id, &got, &e), 0, "%s", e.msg);
	sandbox_row_clear(&got);
	store_close(s);
	cr_assert_eq(chdir("/"), 0);
}

Test(store_fault, full_from_the_start)
{
	struct err e = ERR_INIT;
	struct store *s = NULL;
	char junk[4096] = { 0 };
	int fd;

	cr_assert_eq(mount("tmpfs", dir, "tmpfs", 0, "size=64k"), 0);
	cr_assert_eq(chdir(dir), 0);
	fd = open("junk", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	while (write(fd, junk, sizeof(junk)) > 0)
		;
	(void)close(fd);
	cr_assert_lt(store_open(DB, &s, &e), 0);
	cr_assert_eq(e.kind, ERR_FULL, "%s: %s", err_kind_name(e.kind), e.msg);
	cr_assert_eq(unlink("junk"), 0);
	cr_assert_eq(mount(NULL, dir, NULL, MS_REMOUNT, "size=8m"), 0);
	store_close(must_open()); /* what was left behind is no obstacle */
	cr_assert_eq(chdir("/"), 0);
}

Test(store_fault, file_size_limit)
{
	struct rlimit lim = { 256 << 10, 256 << 10 };
	struct store *s = must_open();
	int n;

	(void)signal(SIGXFSZ, SIG_IGN);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &lim), 0);
	until_full(s, &n);
	store_close(s);
}

Test(store_fault, a_locked_file_is_busy_and_not_an_endless_wait)
{
	struct sandbox_row r = row_of(1, "acc_1", 5);
	struct store *s = must_open();
	struct err e = ERR_INIT;
	int64_t t0 = clock_mono_us();
	sqlite3 *db = NULL;

	cr_assert_eq(sqlite3_open(DB, &db), SQLITE_OK);
	cr_assert_eq(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	cr_assert_eq(store_sandbox_insert(s, &r, &e), -EBUSY);
	cr_assert_eq(e.kind, ERR_BUSY);
	cr_assert_lt(clock_mono_us() - t0, 5000000);
	cr_assert_eq(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
	must_insert(s, &r);
	(void)sqlite3_close(db);
	store_close(s);
}

/* A kill -9 in the middle of writing: every row that was acknowledged is there after it. */
Test(store_fault, kill_loses_no_acknowledged_row)
{
	struct sandbox_row got;
	struct err e = ERR_INIT;
	struct store *s;
	int p[2], last = -1, n;
	pid_t pid;

	cr_assert_eq(pipe2(p, O_CLOEXEC), 0);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (pid == 0) {
		s = must_open();
		for (n = 0;; n++) {
			struct sandbox_row r = row_of(n, "acc_1", n);

			if (store_sandbox_insert(s, &r, NULL) < 0 || write(p[1], &n, sizeof(n)) != sizeof(n))
				_exit(1);
		}
	}
	(void)close(p[1]);
	while (last < 500 && fd_read_all(p[0], &n, sizeof(n)) == sizeof(n))
		last = n;
	cr_assert_eq(kill(pid, SIGKILL), 0);
	cr_assert_eq(waitpid(pid, NULL, 0), pid);
	while (fd_read_all(p[0], &n, sizeof(n)) == sizeof(n))
		last = n;
	cr_assert_geq(last, 500);
	cr_assert_eq(access(DB "-wal", F_OK), 0);
	s = must_open(); /* goes through the check */
	for (int i = 0; i <= last; i++) {
		cr_assert_eq(store_sandbox_get(s, row_of(i, "", 0).id, &got, &e), 0, "%d of %d: %s", i, last, e.msg);
		sandbox_row_clear(&got);
	}
	store_close(s);
}

static void as_user(uid_t id)
{
	if (setgroups(0, NULL) < 0 || setresgid(id, id, id) < 0 || setresuid(id, id, id) < 0)
		_exit(3);
}

/* As the emulator is started by root with --state-dir in a 0700 folder: the process can neither read nor
 * enter the parent, only its working directory. */
Test(store_fault, works_below_an_unreadable_parent)
{
	struct sandbox_row r = row_of(1, "acc_1", 5), got;
	int status, round;
	pid_t pid;

	cr_assert_eq(mkdir("state", 0700), 0);
	cr_assert_eq(chown("state", 54321, 54321), 0);
	cr_assert_eq(chmod(".", 0700), 0);
	cr_assert_eq(chdir("state"), 0);
	for (round = 0; round < 2; round++) {
		pid = fork();
		cr_assert_geq(pid, 0);
		if (pid == 0) {
			struct err e = ERR_INIT;
			struct store *s;
			char cwd[4096];
			int rc;

			as_user(54321);
			if (access(dir, R_OK) == 0 || access("..", X_OK) == 0)
				_exit(4); /* the test tests nothing */
			(void)!getcwd(cwd, sizeof(cwd));
			rc = store_open(DB, &s, &e);
			if (rc >= 0 && round == 0)
				rc = store_sandbox_insert(s, &r, &e);
			if (rc >= 0)
				rc = store_sandbox_update(s, &r, &e);
			if (rc >= 0)
				rc = store_sandbox_get(s, r.id, &got, &e);
			if (rc < 0) {
				(void)dprintf(STDERR_FILENO, "%s\n", e.msg);
				_exit(5);
			}
			if (round == 0)
				_exit(0); /* not closed: the next open recovers from the log */
			store_close(s);
			_exit(access(DB "-wal", F_OK) == 0 ? 6 : 0);
		}
		cr_assert_eq(waitpid(pid, &status, 0), pid);
		cr_assert_eq(status, 0, "round %d: status %d", round, WEXITSTATUS(status));
	}
	(void)unlink(DB);
	cr_assert_eq(chdir(".."), 0);
	cr_assert_eq(rmdir("state"), 0, "%s", strerror(errno));
}

Test(store_fault, a_file_it_may_not_write_is_an_error)
{
	int status;
	pid_t pid;

	store_close(must_open());
	cr_assert_eq(chmod(".", 0755), 0);
	cr_assert_eq(chmod(DB, 0644), 0);
	pid = fork();
	if (pid == 0) {
		struct err e = ERR_INIT;
		struct store *s;

		as_user(54321);
		_exit(store_open(DB, &s, &e) < 0 && e.kind == ERR_IO && strstr(e.msg, "no right to write") ? 0 : 1);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0);
}

/* ---- a power cut ---- */

static unsigned int n_syncs;

/* SQLite's calls come here: it is linked dynamically. */
int fdatasync(int fd)
{
	n_syncs++;
	return (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd)
{
	n_syncs++;
	return (int)syscall(SYS_fsync, fd);
}

Test(store_fault, a_promise_is_on_the_disk_and_the_rest_costs_no_sync)
{
	struct store *s = must_open();
	struct sandbox_row r = row_of(1, "acc_1", 5000);
	struct err e = ERR_INIT;
	unsigned int before;

	must_insert(s, &r); /* the log's header may be synced once */
	before = n_syncs;
	r.status = SANDBOX_RUNNING;
	cr_assert_eq(store_sandbox_update(s, &r, &e), 0, "%s", e.msg);
	cr_assert_eq(n_syncs, before);
	r.status = SANDBOX_PAUSED;
	cr_assert_eq(store_sandbox_update_synced(s, &r, &e), 0, "%s", e.msg);
	cr_assert_eq(n_syncs, before + 1);
	r.status = SANDBOX_RUNNING;
	cr_assert_eq(store_sandbox_update(s, &r, &e), 0, "%s", e.msg);
	cr_assert_eq(n_syncs, before + 1, "and it is back to what it was");
	store_close(s);
}
