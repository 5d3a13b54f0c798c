/* Custom templates without a sandbox: their names, the scrub, the layer and its removal, the log, the rows. */

#include "tests/unit/store_fixture.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

#include "emulator/base/fd.h"
#include "emulator/store_tmpl.h"
#include "emulator/tmpl-internal.h"
#include "rootfs/layer.h"
#include "rootfs/template-internal.h"
#include "rootfs/template_custom.h"
#include "rootfs/template_scrub.h"
#include "rootfs/tree.h"
#include "tests/unit/state_fixture.h"

#define ID "tmpl_01M81S2M166ME1AWBYGY0EJ8DS"
#define ID2 "tmpl_01M81S2M166ME1AWBYGY0EJ8DT"
#define SLOT "s-01m81s2m166me1awbygy0ej8ds"

TestSuite(tmpl, .init = make_state, .fini = remove_state, .timeout = 60);
TestSuite(tmpl_store, .init = enter, .fini = leave, .timeout = 60);

static void make(int at, const char *path)
{
	_cleanup_close_ int fd = -1;
	char part[256];

	for (const char *p = strchr(path, '/'); p; p = strchr(p + 1, '/')) {
		(void)snprintf(part, sizeof(part), "%.*s", (int)(p - path), path);
		(void)mkdirat(at, part, 0755);
	}
	if (path[strlen(path) - 1] == '/')
		return;
	fd = openat(at, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	cr_assert(fd >= 0 && write(fd, "x", 1) == 1, "%s", path);
}

static bool there(int at, const char *path)
{
	struct stat st;

	return fstatat(at, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

Test(tmpl, ids)
{
	static const char *const bad[] = {
		"",	      "tmpl_",
		"tmpl_1",     "tmpl_01m81s2m166me1awbygy0ej8ds",
		ID "0",	      "tmpl_01M81S2M166ME1AWBYGY0EJ8DU",
		"tmpl_../..", "TMPL_01M81S2M166ME1AWBYGY0EJ8DS",
	};

	cr_expect(template_custom_id_valid(ID) && template_name_valid(ID));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		cr_expect(!template_custom_id_valid(bad[i]) && (i == 0 || !template_name_valid(bad[i])), "%s", bad[i]);
}

Test(tmpl, scrub)
{
	static const char *const gone[] = {
		"tmp/a",
		"tmp/b/c",
		"var/tmp/x",
		"run/pid",
		"var/log/syslog",
		"var/log/app/deep/x.log",
		"etc/machine-id",
		"var/lib/dbus/machine-id",
		"var/cache/apt/bin",
		"var/lib/apt/lists/a/b/c",
		"root/.npm/_cacache/i/x",
		"root/.bash_history",
	};
	static const char *const kept[] = {
		"etc/passwd", "var/lib/dpkg/status", "root/.profile", "root/.cache/browsers/x", "tmpfile", "var/logs",
	};
	_cleanup_close_ int u = -1;

	cr_assert(mkdirat(state_fd, "u", 0755) == 0);
	u = openat(state_fd, "u", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; i < ARRAY_SIZE(gone); i++)
		make(u, gone[i]);
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
		make(u, kept[i]);
	cr_assert(mknodat(u, "var/log/removed", S_IFCHR, makedev(0, 0)) == 0, "a whiteout");
	cr_assert(symlinkat("/etc", u, "var/cache/dnf") == 0 && symlinkat("passwd", u, "var/log/link") == 0);
	cr_assert(template_scrub(u, &e) == 0, "%s", e.msg);
	for (size_t i = 0; i < ARRAY_SIZE(gone); i++)
		cr_expect_not(there(u, gone[i]), "%s", gone[i]);
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
		cr_expect(there(u, kept[i]), "%s", kept[i]);
	cr_expect(there(u, "var/log/app/deep") && there(u, "var/lib/apt/lists/a/b"), "folders stay");
	cr_expect(there(u, "tmp") && !there(u, "tmp/b") && there(u, "var/log/removed"));
	cr_expect(there(u, "var/cache/dnf") && !there(u, "var/log/link"));
}

/* ---- layers ---- */

static void make_base(struct layer_info *ret)
{
	const struct layer_env env = { state_fd, 1, false };
	const struct layer_facts f = { .recipe = "test", .distribution = "Base 1", .stand_in = "not the real one" };
	_cleanup_layer_ struct layer_new n = LAYER_NEW_INIT;

	cr_assert(layer_begin(&env, &n, &e) == 0, "%s", e.msg);
	make(n.root_fd, "etc/base");
	cr_assert(layer_commit(&n, NULL, 0, &f, ret, &e) == 0, "%s", e.msg);
	cr_assert(template_save(state_fd, "base", ret, 1, &e) == 0, "%s", e.msg);
}

static int capture(const char *id, const char *base, const char *file, struct template_custom_result *ret)
{
	struct template_custom_spec s = {
		.state_fd = state_fd, .sandbox_uid = 1, .id = id, .name = "n", .base = base, .n_steps = 2
	};
	struct template *t;
	char digest[80], path[128];

	cr_assert(template_load(state_fd, base, &t, &e) == 0, "%s", e.msg);
	(void)snprintf(digest, sizeof(digest), "%s", t->digest);
	template_free(t);
	s.base_digest = digest;
	cr_assert(tree_make_slot(state_fd, SLOT, 1, &e) == 0, "%s", e.msg);
	(void)snprintf(path, sizeof(path), "disk/s/" SLOT "/u/%s", file);
	make(state_fd, path);
	cr_assert(template_custom_take(state_fd, SLOT, id, &e) == 0, "%s", e.msg);
	cr_assert(tree_trash_slot(state_fd, SLOT, &e) == 0);
	return template_custom_capture(&s, ret, &e);
}

Test(tmpl, capture_and_remove)
{
	struct template_custom_result r, r2;
	struct layer_info base;
	struct template *t;
	char path[64];

	make_base(&base);
	cr_assert(capture(ID, "base", "opt/made", &r) == 0, "%s", e.msg);
	cr_assert(template_load(state_fd, ID, &t, &e) == 0, "%s", e.msg);
	cr_expect(t->n_layers == 2 && strcmp(t->layers[1], base.id) == 0 && r.layer_bytes == 1 && r.size_bytes == 2);
	cr_expect(strcmp(t->digest, r.digest) == 0 && strcmp(t->distribution, "Base 1") == 0);
	cr_expect(strstr(t->source, "2 custom steps") && strcmp(t->stand_in, "not the real one") == 0);
	(void)snprintf(path, sizeof(path), "disk/l/%s/opt/made", t->layers[0]);
	cr_expect(there(state_fd, path) && !there(state_fd, "disk/b/" ID));
	*strrchr(path, '/') = '\0';

	/* Another one that comes to the same has the same layer, and keeps it. */
	cr_assert(capture(ID2, "base", "opt/made", &r2) == 0, "%s", e.msg);
	cr_expect_str_eq(r.digest, r2.digest);
	cr_assert(tree_make_slot(state_fd, SLOT, 1, &e) == 0); /* somebody lives here */
	cr_assert(template_custom_remove(state_fd, ID, &e) == 0, "%s", e.msg);
	cr_expect(there(state_fd, path) && !there(state_fd, "templates/" ID ".json"));
	cr_assert(template_custom_remove(state_fd, ID, &e) == 0, "gone already is as good");
	cr_assert(template_custom_remove(state_fd, ID2, &e) == 0, "%s", e.msg);
	(void)snprintf(path, sizeof(path), "disk/l/%s", t->layers[0]);
	cr_expect_not(there(state_fd, path));
	(void)snprintf(path, sizeof(path), "disk/l/%s.json", t->layers[0]);
	cr_expect_not(there(state_fd, path));
	(void)snprintf(path, sizeof(path), "disk/l/%s/etc/base", base.id);
	cr_expect(there(state_fd, path), "the base's layer is not its own");
	template_free(t);
}

Test(tmpl, a_layer_that_is_there_keeps_its_description)
{
	struct template_custom_result r;
	struct layer_info base, i;

	make_base(&base);
	cr_assert(capture(ID, "base", "etc/base", &r) == 0, "%s", e.msg);
	cr_assert(layer_load(state_fd, base.id, &i, &e) == 0);
	cr_expect_str_eq(i.facts.recipe, "test");
	cr_assert(template_custom_remove(state_fd, ID, &e) == 0);
	cr_assert(layer_load(state_fd, base.id, &i, &e) == 0, "and is nobody's to remove");
}

Test(tmpl, a_base_that_was_replaced)
{
	struct template_custom_spec s = { .state_fd = state_fd, .id = ID, .base = "base", .base_digest = "sha256:00" };
	struct template_custom_result r;
	struct layer_info base;

	make_base(&base);
	make(state_fd, "disk/b/" ID "/x");
	cr_expect(template_custom_capture(&s, &r, &e) < 0);
	cr_expect(e.kind == ERR_UNAVAILABLE && strstr(e.msg, "was replaced"));
	cr_expect(there(state_fd, "disk/b/" ID "/x") && !there(state_fd, "templates/" ID ".json"));
	cr_assert(template_custom_drop_all(state_fd, &e) == 0 && !there(state_fd, "disk/b/" ID));
	cr_assert(tree_empty_trash(state_fd, &e) == 0);
	cr_expect(template_custom_take(state_fd, "../../etc", ID, &e) < 0 &&
		  template_custom_take(state_fd, SLOT, "../x", &e) < 0);
}

/* ---- the log ---- */

static char *read_log(void)
{
	_cleanup_close_ int fd = tmpl_log_open_read(state_fd, ID, &e);
	char *p = calloc(1, 16u << 20);

	cr_assert(fd >= 0 && p && fd_read_all(fd, p, (16u << 20) - 1) >= 0, "%s", e.msg);
	return p;
}

static size_t count_lines(char *text)
{
	size_t n = 0;

	for (char *p = text, *nl; (nl = strchr(p, '\n')); p = nl + 1, n++) {
		struct json_object *o;

		*nl = '\0';
		o = json_tokener_parse(p);
		cr_expect(json_object_is_type(o, json_type_object), "%.200s", p);
		json_object_put(o);
	}
	return n;
}

Test(tmpl, log_is_bounded_and_valid_whatever_comes)
{
	struct exec_result r = { .reason = EXEC_EXITED };
	static char block[100000];
	struct tmpl_log l;
	char *text;

	memset(block, 0xff, sizeof(block));
	cr_assert(tmpl_log_start(&l, state_fd, ID, &e) == 0, "%s", e.msg);
	cr_expect(tmpl_log_start(&(struct tmpl_log){ 0 }, state_fd, ID, &e) < 0, "never a second one");
	tmpl_log_step(&l, 1, "echo \xc3\x28 \"x\"");
	for (int i = 0; i < 60; i++)
		tmpl_log_output(&l, 1, EXEC_STDERR, block, sizeof(block));
	tmpl_log_output(&l, 1, EXEC_STDOUT, "\0a\n", 3);
	tmpl_log_step_end(&l, 1, &r);
	tmpl_log_end(&l, NULL);
	cr_expect(l.fd == -1);
	text = read_log();
	cr_expect_not_null(strstr(text, "\"missed_bytes\":"));
	cr_expect_not_null(strstr(text, "\"status\":\"deleted\""));
	cr_expect_eq(count_lines(text), 1 + (TMPL_LOG_MAX / sizeof(block)) + 1 + 1 + 1);
	free(text);
	tmpl_log_delete(state_fd, ID);
	cr_expect(tmpl_log_open_read(state_fd, ID, &e) == -ENOENT);
	tmpl_log_delete(state_fd, ID);
}

Test(tmpl, log_of_an_emulator_that_was_killed)
{
	struct tmpl_row row = { .status = TMPL_FAILED, .error_code = "interrupted" };
	struct tmpl_log l;
	char *text;

	cr_assert(tmpl_log_start(&l, state_fd, ID, &e) == 0);
	tmpl_log_note(&l, "begun");
	cr_assert(write(l.fd, "\"torn", 5) == 5);
	closep(&l.fd);
	cr_assert(tmpl_log_reopen(&l, state_fd, ID) == 0);
	tmpl_log_end(&l, &row);
	text = read_log();
	cr_expect_not_null(strstr(text, "\n\"torn\n{"), "what was torn is a line of its own: %s", text);
	cr_expect_not_null(strstr(text, "\"code\":\"interrupted\""));
	free(text);
	cr_expect(tmpl_log_reopen(&l, state_fd, ID2) == -ENOENT);
}

/* ---- rows ---- */

static struct tmpl_row tmpl_row_of(const char *id, const char *account, int64_t ms)
{
	struct tmpl_row r = { .status = TMPL_BUILDING,
			      .name = (char *)(uintptr_t) "caf\xc3\xa9",
			      .base = (char *)(uintptr_t) "python-3.12",
			      .steps = (char *)(uintptr_t) "[\"true\"]",
			      .network = "restricted",
			      .timeout_s = 1800,
			      .created_ms = ms };

	(void)snprintf(r.id, sizeof(r.id), "%s", id);
	(void)snprintf(r.account, sizeof(r.account), "%s", account);
	return r;
}

static int note_id(void *arg, const struct tmpl_row *r)
{
	char *all = arg;

	(void)snprintf(all + strlen(all), 256 - strlen(all), "%s ", r->id);
	return 0;
}

Test(tmpl_store, rows)
{
	struct tmpl_row a = tmpl_row_of(ID, "acc_a", 1), b = tmpl_row_of(ID2, "acc_a", 2), got = { .id = "" };
	struct store *s = must_open();
	char all[256] = "";

	cr_assert(store_tmpl_insert(s, &a, &e) == 0 && store_tmpl_insert(s, &b, &e) == 0, "%s", e.msg);
	cr_expect(store_tmpl_insert(s, &a, &e) < 0 && e.kind == ERR_EXISTS);
	a.status = TMPL_FAILED;
	a.ended_ms = 9;
	a.error = (char *)(uintptr_t) "step 1";
	a.failed_step = (char *)(uintptr_t) "{\"number\":1}";
	a.layer_bytes = 3;
	a.size_bytes = UINT64_C(1) << 40;
	(void)snprintf(a.error_code, sizeof(a.error_code), "step_failed");
	(void)snprintf(a.digest, sizeof(a.digest), "sha256:ab");
	cr_assert(store_tmpl_update(s, &a, &e) == 0, "%s", e.msg);
	store_close(s);
	s = must_open();
	cr_assert(store_tmpl_get(s, ID, &got, &e) == 0, "%s", e.msg);
	cr_expect(got.status == TMPL_FAILED && got.ended_ms == 9 && got.created_ms == 1 && got.timeout_s == 1800);
	cr_expect(got.layer_bytes == 3 && got.size_bytes == UINT64_C(1) << 40);
	cr_expect_str_eq(got.account, "acc_a");
	cr_expect_str_eq(got.name, a.name);
	cr_expect_str_eq(got.base, a.base);
	cr_expect_str_eq(got.steps, a.steps);
	cr_expect_str_eq(got.network, "restricted");
	cr_expect_str_eq(got.error, "step 1");
	cr_expect_str_eq(got.error_code, "step_failed");
	cr_expect_str_eq(got.failed_step, "{\"number\":1}");
	cr_expect_str_eq(got.digest, "sha256:ab");
	tmpl_row_clear(&got);
	cr_assert(store_tmpl_each(s, "acc_a", note_id, all, &e) == 0);
	cr_expect_str_eq(all, ID2 " " ID " ", "newest first");
	all[0] = '\0';
	cr_assert(store_tmpl_each(s, "acc_b", note_id, all, &e) == 0 && !all[0]);
	cr_assert(store_tmpl_delete(s, ID, &e) == 0 && store_tmpl_delete(s, ID, &e) == 0);
	cr_expect(store_tmpl_get(s, ID, &got, &e) == -ENOENT && strcmp(e.reason, "template_not_found") == 0);
	cr_expect(store_tmpl_update(s, &a, &e) == -ENOENT);
	cr_assert(store_tmpl_each(s, NULL, note_id, all, &e) == 0);
	cr_expect_str_eq(all, ID2 " ", "everyone's");
	store_close(s);
}
