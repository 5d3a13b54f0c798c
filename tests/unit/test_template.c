/* Templates: their files, good and damaged; import end to end in the emulator's user namespace; what an
 * image says about itself; what the registry and the host may say. Nothing here needs a network: building
 * is tested by really doing it (`make demo`). */

#include "tests/unit/archive.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "emulator/base/buf.h"
#include "emulator/idmap.h"
#include "rootfs/image.h"
#include "rootfs/json.h"
#include "rootfs/layer.h"
#include "rootfs/proc.h"
#include "rootfs/template-internal.h"
#include "rootfs/template.h"
#include "rootfs/tree.h"
#include "rootfs/unpack.h"
#include "tests/unit/state_fixture.h"

#define ID_A "0123456789abcdef01234567"

TestSuite(template, .init = make_state, .fini = remove_state, .timeout = 120);
TestSuite(json, .timeout = 20);
TestSuite(proc, .timeout = 60);

static void write_file(const char *path, const char *text)
{
	_cleanup_close_ int fd = openat(state_fd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0, "%s", path);
	cr_assert_eq(fd_write_all(fd, text, strlen(text)), 0);
}

Test(template, names)
{
	static const char *const good[] = { "a", "0", "python-3.12", "x.y_z-1", "node-22" };
	static const char *const bad[] = { "",	".",   "..",  ".a",  "-a",   "_a",
					   "A", "a/b", "a b", "a\n", "../x", "caf\xc3\xa9" };
	char longest[TEMPLATE_NAME_MAX + 2];

	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		cr_expect(template_name_valid(good[i]), "%s", good[i]);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		cr_expect_not(template_name_valid(bad[i]), "'%s'", bad[i]);
	for (size_t i = 0; template_names[i]; i++)
		cr_expect(template_name_valid(template_names[i]));
	memset(longest, 'a', sizeof(longest));
	longest[TEMPLATE_NAME_MAX + 1] = '\0';
	cr_expect_not(template_name_valid(longest));
	longest[TEMPLATE_NAME_MAX] = '\0';
	cr_expect(template_name_valid(longest));
}

Test(template, missing)
{
	struct template *t = NULL;

	cr_expect_eq(template_load(state_fd, "python-3.12", &t, &e), -ENOENT);
	cr_expect_eq(e.kind, ERR_UNAVAILABLE);
	cr_expect_str_eq(e.reason, "template_unavailable");
	cr_expect_not_null(strstr(e.msg, "template build python-3.12"));
	cr_expect_eq(template_load(state_fd, "mine", &t, &e), -ENOENT);
	cr_expect_eq(e.kind, ERR_NOT_FOUND);
	cr_expect_str_eq(e.reason, "template_not_found");
	cr_expect_eq(template_load(state_fd, "../../etc/passwd", &t, &e), -ENOENT);
	cr_expect_eq(e.kind, ERR_NOT_FOUND);
	cr_expect_null(t);
}

#define TAIL ", \"digest\": \"sha256:00\", \"created_ms\": 5, \"size_bytes\": 7}"

Test(template, damaged_files)
{
	static const char *const bad[] = {
		"",
		"{",
		"null",
		"[]",
		"{}",
		"\"x\"",
		"{\"name\": \"t\"}",
		"{\"name\": \"other\", \"layers\": [\"" ID_A "\"]" TAIL,
		"{\"name\": \"t\", \"layers\": []" TAIL,
		"{\"name\": \"t\", \"layers\": \"" ID_A "\"" TAIL,
		"{\"name\": \"t\", \"layers\": [7]" TAIL,
		"{\"name\": \"t\", \"layers\": [\"../../../../../../../etc\"]" TAIL,
		"{\"name\": \"t\", \"layers\": [\"" ID_A "\\u0000x\"]" TAIL,
		"{\"name\": \"t\", \"layers\": [\"" ID_A "\"], \"source\": 7" TAIL,
		"{\"name\": \"t\", \"layers\": [\"" ID_A "\"], \"source\": \"a\\u001b[2J\"" TAIL,
		"{\"name\": \"t\", \"layers\": [\"" ID_A
		"\"], \"digest\": \"x\", \"created_ms\": -5, \"size_bytes\": 7}",
		"{\"name\": \"t\", \"layers\": [\"" ID_A "\"], \"digest\": \"x\", \"created_ms\": 5}",
		"{\"name\": \"t\", \"layers\": [\"" ID_A "\"]" TAIL " trailing",
		"{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}}}}}}",
	};
	struct template *t = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		write_file("templates/t.json", bad[i]);
		cr_expect_lt(template_load(state_fd, "t", &t, &e), 0, "%s", bad[i]);
		cr_expect_eq(e.kind, ERR_UNAVAILABLE, "%s: %s", bad[i], e.msg);
	}
	{
		_cleanup_free_ char *big = malloc(1u << 20);

		memset(big, ' ', 1u << 20);
		big[(1u << 20) - 1] = '\0';
		write_file("templates/t.json", big);
		cr_expect_lt(template_load(state_fd, "t", &t, &e), 0, "too large");
	}
	cr_assert_eq(unlinkat(state_fd, "templates/t.json", 0), 0);
	cr_assert_eq(mkfifoat(state_fd, "templates/t.json", 0600), 0);
	cr_expect_lt(template_load(state_fd, "t", &t, &e), 0, "a fifo must not hang");
	cr_assert_eq(unlinkat(state_fd, "templates/t.json", 0), 0);
	cr_assert_eq(symlinkat("/etc/passwd", state_fd, "templates/t.json"), 0);
	cr_expect_lt(template_load(state_fd, "t", &t, &e), 0);
	cr_expect_null(t);
}

static int collect(void *arg, const struct template *t)
{
	char *s = arg;

	(void)snprintf(s + strlen(s), 200 - strlen(s), "%s ", t->name);
	return strcmp(t->name, "stop") == 0 ? 7 : 0;
}

Test(template, load_and_each)
{
	struct template *t = NULL;
	char names[200] = "";

	cr_assert_eq(template_each(state_fd, collect, names, &e), 0);
	cr_expect_str_eq(names, "");
	write_file("templates/t.json",
		   "{\"name\": \"t\", \"layers\": [\"" ID_A "\"], \"stand_in\": \"another\"" TAIL "\n");
	cr_expect_lt(template_load(state_fd, "t", &t, &e), 0, "the layer is missing");
	cr_expect_eq(e.kind, ERR_UNAVAILABLE);
	cr_assert_eq(mkdirat(state_fd, "disk/l/" ID_A, 0755), 0);
	cr_assert_eq(template_load(state_fd, "t", &t, &e), 0, "%s", e.msg);
	cr_expect_str_eq(t->name, "t");
	cr_expect_eq(t->n_layers, 1);
	cr_expect_str_eq(t->layers[0], ID_A);
	cr_expect_str_eq(t->stand_in, "another");
	cr_expect_null(t->interpreter);
	cr_expect_eq(t->created_ms, 5);
	cr_expect_eq(t->size_bytes, 7);
	template_free(t);
	template_free(NULL);
	write_file("templates/b.json", "{\"name\": \"b\", \"layers\": [\"" ID_A "\"]" TAIL);
	write_file("templates/broken.json", "{");
	write_file("templates/.tmp-x.json", "{");
	write_file("templates/UPPER.json", "{");
	cr_assert_eq(template_each(state_fd, collect, names, &e), 0);
	cr_expect_str_eq(names, "b t ", "sorted; what is damaged is left out");
	write_file("templates/stop.json", "{\"name\": \"stop\", \"layers\": [\"" ID_A "\"]" TAIL);
	names[0] = '\0';
	cr_assert_eq(template_each(state_fd, collect, names, &e), 7);
	cr_expect_str_eq(names, "b stop ");
}

static struct layer_info info(const char *id, const char *source, const char *interpreter, const char *stand_in)
{
	struct layer_info i = { .size_bytes = 10 };

	(void)snprintf(i.id, sizeof(i.id), "%s", id);
	(void)snprintf(i.digest, sizeof(i.digest), "%s%s", id, "0123456789012345678901234567890123456789");
	(void)snprintf(i.facts.source, sizeof(i.facts.source), "%s", source);
	(void)snprintf(i.facts.interpreter, sizeof(i.facts.interpreter), "%s", interpreter);
	(void)snprintf(i.facts.stand_in, sizeof(i.facts.stand_in), "%s", stand_in);
	return i;
}

Test(template, save_joins_the_layers_facts)
{
	struct layer_info l[3] = { info(ID_A, "base", "", "one thing"),
				   info("1123456789abcdef01234567", "", "CPython 3.11.2", ""),
				   info("2123456789abcdef01234567", "top", "CPython 3.12.1", "another thing") };
	struct template *t = NULL;
	char first[80];

	for (size_t i = 0; i < 3; i++) {
		char path[64];

		(void)snprintf(path, sizeof(path), "disk/l/%.24s", l[i].id);
		cr_assert_eq(mkdirat(state_fd, path, 0755), 0);
	}
	cr_assert_eq(template_save(state_fd, "t", l, 3, &e), 0, "%s", e.msg);
	cr_assert_eq(template_load(state_fd, "t", &t, &e), 0, "%s", e.msg);
	cr_expect_eq(t->n_layers, 3);
	cr_expect_str_eq(t->layers[0], l[2].id, "the topmost first");
	cr_expect_str_eq(t->layers[2], l[0].id);
	cr_expect_str_eq(t->source, "base + top");
	cr_expect_str_eq(t->stand_in, "one thing; another thing");
	cr_expect_str_eq(t->interpreter, "CPython 3.12.1", "the topmost that knows");
	cr_expect_eq(t->size_bytes, 30);
	cr_expect_eq(strlen(t->digest), strlen("sha256:") + 64);
	(void)snprintf(first, sizeof(first), "%s", t->digest);
	template_free(t);
	cr_assert_eq(template_save(state_fd, "t", l, 2, &e), 0);
	cr_assert_eq(template_load(state_fd, "t", &t, &e), 0);
	cr_expect_str_neq(t->digest, first);
	template_free(t);
}

/* ---- what an image says ---- */

static int image_of(const struct ent *t)
{
	_cleanup_bytes_ struct bytes b = make_archive(t, PLAIN);
	_cleanup_close_ int fd = archive_fd(&b);
	struct unpack_spec s = {
		.read = unpack_read_fd, .read_arg = &fd, .single_id = true, .limits = UNPACK_LIMITS_DEFAULT
	};
	struct unpack_result u;

	(void)tree_remove(state_fd, "image", NULL);
	cr_assert_eq(mkdirat(state_fd, "image", 0755), 0);
	s.root_fd = openat(state_fd, "image", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cr_assert_eq(unpack_archive(&s, &u, &e), 0, "%s", e.msg);
	return s.root_fd;
}

Test(template, image_facts)
{
	static const struct {
		const char *what, *distribution, *interpreter;
		struct ent t[5];
	} cases[] = {
		{ "nothing", "", "", { { DIR_, "etc" } } },
		{ "debian",
		  "Debian GNU/Linux 12 (bookworm)",
		  "",
		  { { FILE_, "etc/os-release", "NAME=\"x\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n" } } },
		{ "only usr/lib",
		  "Alpine Linux",
		  "",
		  { { FILE_, "usr/lib/os-release", "ID=alpine\nNAME=\"Alpine Linux\"\n" } } },
		{ "a link out of the image",
		  "",
		  "",
		  { { LINK_, "etc/os-release", "../../../../../../../../etc/os-release" } } },
		{ "a link inside",
		  "X",
		  "",
		  { { LINK_, "etc/os-release", "/usr/lib/r" }, { FILE_, "usr/lib/r", "PRETTY_NAME=X" } } },
		{ "control bytes", "a[2Jb", "", { { FILE_, "etc/os-release", "PRETTY_NAME=\"a\033[2Jb\"\n" } } },
		{ "a folder", "", "", { { DIR_, "etc/os-release" } } },
		{ "a fifo", "", "", { { FIFO_, "etc/os-release" } } },
		{ "python by its header",
		  "",
		  "CPython 3.12.7",
		  { { FILE_, "usr/local/bin/python3.12", "" },
		    { FILE_, "usr/local/include/python3.12/patchlevel.h",
		      "#define PY_VERSION      \t\"3.12.7\"\n" } } },
		{ "python by dpkg",
		  "",
		  "CPython 3.11.2",
		  { { FILE_, "usr/bin/python3.11", "" },
		    { FILE_, "var/lib/dpkg/status",
		      "Package: a\nVersion: 9\n\nPackage: python3.11-minimal\nStatus: x\nVersion: "
		      "3.11.2-6+deb12u6\n\n" } } },
		{ "python, version unknown", "", "CPython 3.13", { { FILE_, "usr/bin/python3.13", "" } } },
		{ "a version of another package",
		  "",
		  "CPython 3.11",
		  { { FILE_, "usr/bin/python3.11", "" },
		    { FILE_, "var/lib/dpkg/status",
		      "\nPackage: python3.11-minimal\nStatus: x\n\nPackage: b\nVersion: 1.2\n\n" } } },
		{ "an odd header",
		  "",
		  "CPython 3.12",
		  { { FILE_, "usr/bin/python3.12", "" },
		    { FILE_, "usr/include/python3.12/patchlevel.h", "#define PY_VERSION \"<script>\"\n" } } },
		{ "node by its header",
		  "",
		  "Node 22.11.0",
		  { { FILE_, "usr/local/bin/node", "" },
		    { FILE_, "usr/bin/python3.11", "" },
		    { FILE_, "usr/local/include/node/node_version.h",
		      "#define NODE_MAJOR_VERSION 22\n#define NODE_MINOR_VERSION 11\n#define NODE_PATCH_VERSION "
		      "0\n" } } },
		{ "node, version unknown", "", "Node", { { FILE_, "usr/bin/node", "" } } },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_close_ int fd = image_of(cases[i].t);
		char distribution[96], interpreter[64];

		image_distribution(fd, distribution, sizeof(distribution));
		image_interpreter(fd, interpreter, sizeof(interpreter));
		cr_expect_str_eq(distribution, cases[i].distribution, "%s: %s", cases[i].what, distribution);
		cr_expect_str_eq(interpreter, cases[i].interpreter, "%s: %s", cases[i].what, interpreter);
	}
}

/* ---- import, in the emulator's user namespace ---- */

struct import_job {
	const struct idmap *m;
	int fds[4];
};

static int count_layers(void)
{
	_cleanup_buf_ struct buf out = BUF_INIT(65536);
	const char *const argv[] = { "sh", "-c", "ls -A disk/l | grep -vc json", NULL };
	const struct proc_spec s = { .argv = argv, .env = (const char *const *)environ, .stdin_fd = -1 };

	(void)proc_run(&s, &out, NULL);
	return out.p ? (int)strtol(out.p, NULL, 10) : -1;
}

static int import_in_e(void *arg)
{
	const struct import_job *j = arg;
	struct template_ops o = { .state_fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
				  .sandbox_uid = idmap_sandbox_uid(j->m, 0),
				  .single_id = j->m->kind == IDMAP_SINGLE };
	struct template *t = NULL;
	struct stat st;
	char path[128];

	CHECK_E(o.state_fd >= 0 && tree_prepare_state(o.state_fd, &e) == 0);
	CHECK_E(template_import(&o, "one", j->fds[0], "a\033file.tar", &e) == 0);
	CHECK_E(template_load(o.state_fd, "one", &t, &e) == 0);
	CHECK_E(t->n_layers == 2 && strcmp(t->distribution, "Toy 1") == 0 &&
		strcmp(t->source, "import a?file.tar") == 0);
	/* The scaffold on top has what the archive lacks, and only that. */
	(void)snprintf(path, sizeof(path), "disk/l/%s/workspace", t->layers[0]);
	CHECK_E(fstatat(o.state_fd, path, &st, 0) == 0 && (st.st_mode & 07777) == 0755 && st.st_uid == o.sandbox_uid);
	(void)snprintf(path, sizeof(path), "disk/l/%s/tmp", t->layers[0]);
	CHECK_E(fstatat(o.state_fd, path, &st, 0) == 0 && (st.st_mode & 07777) == 01777);
	(void)snprintf(path, sizeof(path), "disk/l/%s/etc/resolv.conf", t->layers[0]);
	CHECK_E(fstatat(o.state_fd, path, &st, 0) == 0 && S_ISREG(st.st_mode) && st.st_size == 0);
	(void)snprintf(path, sizeof(path), "disk/l/%s/etc/hosts", t->layers[0]);
	CHECK_E(fstatat(o.state_fd, path, &st, 0) < 0);
	(void)snprintf(path, sizeof(path), "disk/l/%s/etc/hosts", t->layers[1]);
	CHECK_E(fstatat(o.state_fd, path, &st, 0) == 0 && st.st_uid == (o.single_id ? 0 : 1 + 5u));
	CHECK_E(count_layers() == 2);
	/* The same archive, compressed and through a pipe: the same layers, shared. */
	CHECK_E(template_import(&o, "node-22", j->fds[1], "-", &e) == 0);
	template_free(t);
	CHECK_E(template_load(o.state_fd, "node-22", &t, &e) == 0);
	CHECK_E(t->n_layers == 2 && count_layers() == 2);
	CHECK_E(t->stand_in && strstr(t->stand_in, "imported"));
	template_free(t);
	/* A hostile one leaves nothing, and not even a template of that name. */
	CHECK_E(template_import(&o, "bad", j->fds[2], "x", &e) == -EINVAL && e.kind == ERR_INVALID);
	CHECK_E(template_load(o.state_fd, "bad", &t, &e) < 0 && count_layers() == 2);
	CHECK_E(template_import(&o, "Bad Name", j->fds[3], "x", &e) == -EINVAL);
	CHECK_E(template_import(&o, "void", j->fds[3], "x", &e) == -EINVAL);
	/* Layers go with the last template that has them, and not while a sandbox lives. */
	CHECK_E(template_remove(&o, "nope", &e) == -ENOENT && e.kind == ERR_NOT_FOUND);
	CHECK_E(template_remove(&o, "../one", &e) == -EINVAL);
	CHECK_E(template_remove(&o, "one", &e) == 0 && count_layers() == 2);
	CHECK_E(template_load(o.state_fd, "node-22", &t, &e) == 0);
	template_free(t);
	CHECK_E(tree_make_slot(o.state_fd, "s-01hxyz0123456789abcdefghjk", o.sandbox_uid, &e) == 0);
	CHECK_E(template_remove(&o, "node-22", &e) == 0 && count_layers() == 2);
	CHECK_E(tree_trash_slot(o.state_fd, "s-01hxyz0123456789abcdefghjk", &e) == 0);
	CHECK_E(template_sweep_layers(o.state_fd, &e) == 0 && count_layers() == 0);
	return 0;
}

static int pipe_of(const struct bytes *b)
{
	int p[2];

	cr_assert_eq(pipe2(p, O_CLOEXEC), 0);
	cr_assert_lt(b->n, 65536u, "fits a pipe");
	cr_assert_eq(fd_write_all(p[1], b->p, b->n), 0);
	(void)close(p[1]);
	return p[0];
}

static void import_with(const struct idmap *m)
{
	static const struct ent good[] = { { DIR_, "etc" },
					   { FILE_, "etc/os-release", "PRETTY_NAME=\"Toy 1\"\n" },
					   { FILE_, "etc/hosts", "mine", .uid = 5 },
					   { DIR_, "proc" },
					   { END } };
	static const struct ent evil[] = {
		{ FILE_, "etc/x", "x" }, { LINK_, "l", "/tmp" }, { FILE_, "l/evil", "x" }, { END }
	};
	static const struct ent none[] = { { DIR_, "etc" }, { END } };
	_cleanup_bytes_ struct bytes plain = make_archive(good, PLAIN), gz = make_archive(good, GZIP),
				     bad = make_archive(evil, ZSTD), empty = make_archive(none, PLAIN);
	struct import_job j = { m, { archive_fd(&plain), pipe_of(&gz), archive_fd(&bad), archive_fd(&empty) } };
	int status;
	pid_t pid;

	cr_assert_eq(tree_remove(state_fd, "disk", &e), 0);
	cr_assert_eq(tree_remove(state_fd, "templates", &e), 0);
	cr_assert_eq(tree_remove(state_fd, "snapshots", &e), 0);
	cr_assert_eq(fchown(state_fd, m->own_uid, m->own_gid), 0);
	/* mkdtemp's 0700 folder is below root's /tmp: the id inside can only get there as its current folder. */
	cr_assert_eq(fchdir(state_fd), 0);
	cr_assert_eq(idmap_spawn(m, import_in_e, &j, &pid, NULL, &e), 0, "%s", e.msg);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0);
	cr_assert_neq(access("/tmp/evil", F_OK), 0);
}

Test(template, import_with_a_range_of_ids)
{
	struct idmap m;

	idmap_choose(&m);
	if (m.kind == IDMAP_SINGLE)
		cr_skip_test("no range of ids here");
	import_with(&m);
}

Test(template, import_with_one_id)
{
	struct idmap m = { .kind = IDMAP_SINGLE, .caller_uid = geteuid(), .caller_gid = getegid() };

	m.own_uid = m.caller_uid;
	m.own_gid = m.caller_gid;
	import_with(&m);
}

Test(template, build_says_what_it_cannot)
{
	struct template_sources s = { .python_fd = -1 };
	struct template_ops o = { .state_fd = state_fd, .sources = &s, .single_id = true };

	cr_expect_eq(template_build(&o, "python-2.7", false, &e), -EINVAL);
	cr_expect_eq(e.kind, ERR_INVALID);
	cr_expect_not_null(strstr(e.msg, "import"));
	cr_expect_lt(template_build(&o, "python-3.12", false, &e), 0);
	cr_expect_eq(e.kind, ERR_UNAVAILABLE, "%s", e.msg);
	cr_expect_not_null(strstr(e.msg, "template import"), "%s", e.msg);
}

/* ---- the host's sources ---- */

Test(template, sources_of_a_made_up_host)
{
	static const struct ent t[] = {
		{ FILE_, "versions/3.12.3/bin/python3.12", "", .mode = 0755 },
		{ FILE_, "versions/3.12.3/lib/python3.12/encodings/__init__.py", "" },
		{ FILE_, "versions/3.12.10/bin/python3.12", "", .mode = 0755 },
		{ FILE_, "versions/3.12.10/lib/python3.12/encodings/__init__.py", "" },
		{ FILE_, "versions/3.12.x/bin/python3.12", "", .mode = 0755 },
		{ FILE_, "versions/3.13.9/bin/python3.13", "", .mode = 0755 },
		{ END },
	};
	_cleanup_close_ int fd = image_of(t);
	struct template_sources s;
	char path[128];

	cr_assert(fd >= 0);
	(void)snprintf(path, sizeof(path), "%s/image", state);
	cr_assert_eq(setenv("PYENV_ROOT", path, 1), 0);
	cr_assert_eq(setenv("npm_config_registry", "https://npm.example/path", 1), 0);
	template_sources_open(&s);
	(void)snprintf(path, sizeof(path), "%s/image/versions/3.12.10", state);
	cr_expect_str_eq(s.python_path, path, "the highest: %s", s.python_path);
	cr_expect_geq(s.python_fd, 0);
	cr_expect_str_eq(s.npm_registry, "https://npm.example/path/");
	template_sources_close(&s);
	cr_expect_eq(s.python_fd, -1);
	cr_assert_eq(setenv("npm_config_registry", "file:///etc", 1), 0);
	cr_assert_eq(setenv("NPM_CONFIG_REGISTRY", "https://x/\ny", 1), 0);
	template_sources_open(&s);
	cr_expect_eq(strncmp(s.npm_registry, "http", 4), 0, "%s", s.npm_registry);
	cr_expect_null(strstr(s.npm_registry, "x/\ny"));
	template_sources_close(&s);
}

/* ---- JSON and child processes, as used here ---- */

Test(json, parse_is_strict)
{
	static const struct {
		const char *text;
		size_t n;
		bool ok;
	} cases[] = {
		{ "{}", 2, true },
		{ "{} \n", 4, true },
		{ "[1]", 3, true },
		{ "", 0, false },
		{ "{} x", 4, false },
		{ "{\"a\":1,}", 8, false },
		{ "{\"a\":\"\xff\"}", 9, false },
		{ "{}\0", 3, false },
		{ "[[[[[[[[[[1]]]]]]]]]]", 21, false },
		{ "{\"a\"", 4, false },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_json_ struct json_object *o = NULL;

		cr_expect_eq(json_parse(cases[i].text, cases[i].n, 8, &o, &e) == 0, cases[i].ok, "%s", cases[i].text);
	}
}

static void keep_line(void *arg, const char *line)
{
	char *s = arg;

	(void)snprintf(s + strlen(s), 100 - strlen(s), "%s|", line);
}

Test(proc, output_errors_and_time)
{
	const char *argv[] = { "/bin/sh", "-c", NULL, NULL };
	char lines[100] = "";
	const char *const env[] = { "PATH=/usr/bin:/bin", "X=y", NULL };
	struct proc_spec s = {
		.argv = argv, .env = env, .stdin_fd = -1, .timeout_s = 20, .line = keep_line, .line_arg = lines
	};
	_cleanup_buf_ struct buf out = BUF_INIT(64);

	argv[2] = "echo \"$X\"; read z || echo eof; printf 'a\\033b\\nc' >&2; ls /proc/self/fd | wc -l";
	cr_assert_eq(proc_run(&s, &out, &e), 0, "%s", e.msg);
	cr_expect_str_eq(out.p, "y\neof\n4\n", "no other fd than 0, 1, 2 and the one that lists: %s", out.p);
	cr_expect_str_eq(lines, "a?b|c|");
	argv[2] = "echo first >&2; echo 'E: the cause' >&2; echo last >&2; exit 7";
	cr_expect_eq(proc_run(&s, NULL, &e), -EIO);
	cr_expect_str_eq(e.msg, "/bin/sh failed (7): E: the cause; last");
	argv[2] = "kill -9 $$";
	cr_expect_lt(proc_run(&s, NULL, &e), 0);
	cr_expect_not_null(strstr(e.msg, "(137)"));
	buf_reset(&out);
	argv[2] = "while :; do echo more; done";
	cr_expect_eq(proc_run(&s, &out, &e), -EMSGSIZE);
	cr_expect_eq(e.kind, ERR_TOO_LARGE);
	s.timeout_s = 1;
	argv[2] = "exec sleep 30";
	cr_expect_eq(proc_run(&s, NULL, &e), -ETIMEDOUT);
	cr_expect_eq(e.kind, ERR_TIMEOUT);
	argv[0] = "no-such-program";
	cr_expect_lt(proc_run(&s, NULL, &e), 0);
	cr_expect_not_null(strstr(e.msg, "No such file"), "%s", e.msg);
}
