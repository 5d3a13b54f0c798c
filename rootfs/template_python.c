/* CPython 3.12 on the base: two layers, so that python-3.12-bare and python-3.12 share the interpreter.
 *
 * On Ubuntu 24.04 it is the distribution's own. On a Debian stand-in it is a prefix of this host (pyenv
 * and the like), copied to /usr/local: CPython finds its library by its own location, so it may move.
 * Where neither is there, Debian's python3 stands in, and says so. Whatever it is, it must import what
 * the tests below import, run on the finished stack, or the build fails. */

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "emulator/base/buf.h"
#include "rootfs/fetch.h"
#include "rootfs/proc.h"
#include "rootfs/stack.h"
#include "rootfs/template-internal.h"
#include "rootfs/unpack.h"

#define RECIPE_REVISION 1
#define APT_S 900
#define CHECK_S 120
#define PROBE_S 4
#define PYPI "https://pypi.org/simple/"

/* The shared libraries that the standard library's extensions need, where the interpreter is not the
 * distribution's. Names of Debian 12; later ones provide them. */
static const char *const prefix_needs[] = { "libssl3",	 "libffi8",    "libsqlite3-0", "libreadline8",
					    "liblzma5",	 "libbz2-1.0", "libncursesw6", "zlib1g",
					    "libexpat1", "libuuid1",   "libgdbm6",     NULL };

/* Import names of what python-3.12 has where they can be had; reported are those that really import. */
#define LIBRARY_CHECK                                                                                                  \
	"import importlib, importlib.metadata as m, sys\n"                                                             \
	"found = []\n"                                                                                                 \
	"for name in sys.argv[1:]:\n"                                                                                  \
	"    module, _, dist = name.partition('=')\n"                                                                  \
	"    try:\n"                                                                                                   \
	"        importlib.import_module(module)\n"                                                                    \
	"        version = m.version(dist or module)\n"                                                                \
	"        found.append((dist or module) + (' ' + version if version != '0.0.0' else ''))\n"                     \
	"    except Exception:\n"                                                                                      \
	"        pass\n"                                                                                               \
	"print(', '.join(found))\n"

static const char *const libraries[] = {
	"numpy",
	"pandas",
	"requests",
	"httpx",
	"urllib3",
	"certifi",
	"idna",
	"yaml=PyYAML",
	"jinja2=Jinja2",
	"markupsafe=MarkupSafe",
	"bs4=beautifulsoup4",
	"lxml",
	"PIL=pillow",
	"dateutil=python-dateutil",
	"pytz",
	"six",
	"packaging",
	"attr=attrs",
	"click",
	"rich",
	"tabulate",
	"tqdm",
	"pydantic",
	"pytest",
	"openpyxl",
	"charset_normalizer=charset-normalizer",
	"setuptools",
	"wheel",
	"pip",
	NULL,
};

/* Ubuntu's packages for them. */
static const char *const ubuntu_packages[] = {
	"python3-pip",	      "python3-venv",
	"python3-setuptools", "python3-wheel",
	"python3-numpy",      "python3-pandas",
	"python3-requests",   "python3-httpx",
	"python3-yaml",	      "python3-jinja2",
	"python3-bs4",	      "python3-lxml",
	"python3-pil",	      "python3-dateutil",
	"python3-tz",	      "python3-six",
	"python3-packaging",  "python3-attr",
	"python3-click",      "python3-rich",
	"python3-tabulate",   "python3-tqdm",
	"python3-pydantic",   "python3-pytest",
	"python3-openpyxl",   NULL,
};

/* Debian's pure-Python packages that a foreign CPython may be given (with all they need). */
static const char *const pure_packages[] = {
	"python3-requests",
	"python3-urllib3",
	"python3-certifi",
	"python3-idna",
	"python3-charset-normalizer",
	"python3-chardet",
	"python3-dateutil",
	"python3-six",
	"python3-packaging",
	"python3-attr",
	"python3-jinja2",
	"python3-markupsafe",
	"python3-yaml",
	"python3-tabulate",
	"python3-httpx",
	"python3-httpcore",
	"python3-h11",
	"python3-sniffio",
	"python3-anyio",
	"python3-rfc3986",
	"python3-click",
	"python3-rich",
	"python3-pygments",
	"python3-markdown-it",
	"python3-mdurl",
	"python3-commonmark",
	"python3-typing-extensions",
	"python3-tz",
	"python3-tqdm",
	"python3-bs4",
	"python3-soupsieve",
	"python3-html5lib",
	"python3-webencodings",
	"python3-openpyxl",
	"python3-et-xmlfile",
	"python3-pytest",
	"python3-pluggy",
	"python3-iniconfig",
	NULL,
};

static const char *const pypi_packages[] = {
	"numpy", "pandas",   "requests",	"httpx",    "PyYAML",	  "Jinja2", "beautifulsoup4",
	"lxml",	 "pillow",   "python-dateutil", "attrs",    "click",	  "rich",   "tabulate",
	"tqdm",	 "pydantic", "pytest",		"openpyxl", "setuptools", "wheel",  NULL,
};

/* ---- checks ---- */

/* $1: the interpreter. What a build without OpenSSL, SQLite or ctypes lacks shows only when imported. */
static const char check_script[] =
	"exec \"$1\" -c 'import ssl, sqlite3, ctypes, lzma, bz2, zlib, hashlib, json, multiprocessing, platform\n"
	"print(platform.python_implementation(), platform.python_version())'\n";

static void first_line(struct buf *b, char *ret, size_t cap)
{
	size_t n = 0;

	while (n < b->len && n < cap - 1 && b->p[n] >= 0x20 && b->p[n] < 0x7f) {
		ret[n] = b->p[n];
		n++;
	}
	ret[n] = '\0';
}

static int check_interpreter(struct build *b, const struct layer_new *n, const char *python, struct layer_facts *f,
			     struct err *e)
{
	_cleanup_buf_ struct buf out = BUF_INIT(4096);
	const char *const args[] = { python, NULL };
	const struct build_script s = {
		.doing = "running the interpreter", .text = check_script, .args = args, .timeout_s = CHECK_S
	};
	int r = build_script_run(b, n, &s, &out, e);

	if (r < 0)
		return r;
	first_line(&out, f->interpreter, sizeof(f->interpreter));
	if (strncmp(f->interpreter, "CPython 3.", 10) != 0)
		return err_set(e, ERR_INTERNAL, EINVAL, NULL, "%s does not say what it is", python);
	return 0;
}

static int check_libraries(struct build *b, const struct layer_new *n, struct layer_facts *f, struct err *e)
{
	_cleanup_buf_ struct buf out = BUF_INIT(sizeof(f->libraries) - 1);
	const char *args[ARRAY_SIZE(libraries) + 1] = { LIBRARY_CHECK };
	const struct build_script s = { .doing = "importing the libraries",
					.text = "code=$1; shift; exec python3 -c \"$code\" \"$@\"",
					.args = args,
					.timeout_s = CHECK_S };
	int r;

	for (size_t i = 0; libraries[i]; i++)
		args[i + 1] = libraries[i];
	r = build_script_run(b, n, &s, &out, e);
	if (r == 0)
		first_line(&out, f->libraries, sizeof(f->libraries));
	return r;
}

/* ---- the interpreter ---- */

/* "Externally managed" keeps pip from installing; a sandbox is thrown away, and the cloud's has none. */
static const char link_script[] =
	"set -e\n"
	"ldconfig\n" /* a shared libpython was linked to be found where it came from */
	"rm -f /usr/lib/python3*/EXTERNALLY-MANAGED\n"
	"[ -e /usr/local/bin/python3 ] || [ \"$1\" = python3 ] || ln -s \"$1\" /usr/local/bin/python3\n"
	"ln -sfn \"$1\" /usr/local/bin/python\n";

static int run_simple(struct build *b, const struct layer_new *n, const char *doing, const char *text,
		      const char *const *args, uint32_t timeout_s, struct err *e)
{
	const struct build_script s = { .doing = doing, .text = text, .args = args, .timeout_s = timeout_s };

	return build_script_run(b, n, &s, NULL, e);
}

static int bare_from_apt(struct build *b, struct layer_new *n, struct layer_facts *f, struct err *e)
{
	const char *const packages[] = { "python3", NULL };
	const char *const link[] = { "/usr/bin/python3", NULL };
	int r = run_simple(b, n, "apt-get install python3", build_apt_install, packages, APT_S, e);

	if (r == 0)
		r = run_simple(b, n, "linking python", link_script, link, CHECK_S, e);
	if (r == 0)
		r = check_interpreter(b, n, b->ubuntu ? "/usr/bin/python3.12" : "/usr/local/bin/python", f, e);
	if (r < 0)
		return r;
	(void)snprintf(f->source, sizeof(f->source), "the distribution's python3");
	if (strncmp(f->interpreter, "CPython 3.12.", 13) != 0)
		(void)snprintf(f->stand_in, sizeof(f->stand_in), "%s instead of CPython 3.12", f->interpreter);
	return 0;
}

static int chdir_to(void *arg, _unused_ int sync_fd)
{
	if (fchdir(*(int *)arg) == 0)
		return 0;
	(void)dprintf(STDERR_FILENO, "entering the interpreter's folder: %s\n", strerror(errno));
	return -errno;
}

static ssize_t read_proc(void *arg, void *p, size_t n)
{
	return proc_read(arg, p, n);
}

/* What an interpreter is, without site-packages, test suites and static libraries. */
static const char *const prefix_tar[] = {
	"tar",
	"--create",
	"--format=pax",
	"--sort=name",
	"--exclude=lib/python3.12/site-packages/*",
	"--exclude=lib/python3.12/test",
	"--exclude=lib/python3.12/*/test",
	"--exclude=lib/python3.12/*/tests",
	"--exclude=lib/python3.12/idlelib",
	"--exclude=lib/python3.12/config-*/*.a",
	"--exclude=*.opt-[12].pyc",
	"bin/python3.12",
	"lib/python3.12",
};
/* Only there in some builds. */
static const char *const prefix_optional[] = { "include/python3.12", "lib/libpython3.12.so",
					       "lib/libpython3.12.so.1.0" };

/* tar reads the prefix through the fd that the caller's rights opened. */
static int copy_prefix(struct build *b, const struct layer_new *n, struct err *e)
{
	const char *argv[ARRAY_SIZE(prefix_tar) + ARRAY_SIZE(prefix_optional) + 1];
	int fd = b->o->sources->python_fd;
	const struct proc_spec ps = { .argv = argv,
				      .env = (const char *const *)environ,
				      .stdin_fd = -1,
				      .timeout_s = APT_S,
				      .child = chdir_to,
				      .hook_arg = &fd };
	_cleanup_proc_ struct proc p = PROC_INIT;
	struct unpack_result u;
	struct unpack_spec us;
	struct err why = ERR_INIT;
	size_t k = ARRAY_SIZE(prefix_tar);
	int r;

	memcpy(argv, prefix_tar, sizeof(prefix_tar));
	for (size_t i = 0; i < ARRAY_SIZE(prefix_optional); i++)
		if (faccessat(fd, prefix_optional[i], F_OK, 0) == 0)
			argv[k++] = prefix_optional[i];
	argv[k] = NULL;
	r = proc_start(&p, &ps, e);
	if (r < 0)
		return r;
	build_step(b, "copying %s", b->o->sources->python_path);
	build_unpack_spec(b, n, &us);
	us.read = read_proc;
	us.read_arg = &p;
	us.as_root = true;
	us.prefix = "usr/local";
	r = unpack_archive(&us, &u, e);
	/* tar's own reason is closer to the truth than what its half archive looks like. */
	if (proc_finish(&p, NULL, &why) == 0)
		return r;
	if (e)
		*e = why;
	return -EIO;
}

static int bare_from_prefix(struct build *b, struct layer_new *n, struct layer_facts *f, struct err *e)
{
	const char *const link[] = { "python3.12", NULL };
	int r = run_simple(b, n, "apt-get install what the interpreter needs", build_apt_install, prefix_needs, APT_S,
			   e);

	if (r == 0)
		r = copy_prefix(b, n, e);
	if (r == 0)
		r = run_simple(b, n, "linking python", link_script, link, CHECK_S, e);
	if (r == 0)
		r = check_interpreter(b, n, "/usr/local/bin/python3.12", f, e);
	if (r == 0)
		(void)snprintf(f->source, sizeof(f->source), "CPython of this host (%s)", b->o->sources->python_path);
	return r;
}

int build_python_bare(struct build *b, struct err *e)
{
	_cleanup_layer_ struct layer_new n = LAYER_NEW_INIT;
	bool prefix = !b->ubuntu && b->o->sources->python_fd >= 0;
	struct layer_facts f = { .recipe = "" };
	int r;

	(void)snprintf(f.recipe, sizeof(f.recipe), "python-bare %s %s r%d", prefix ? "host" : "apt", b->stack[0].id,
		       RECIPE_REVISION);
	if (build_reuse(b, f.recipe))
		return 0;
	r = layer_begin(&b->env, &n, e);
	if (r == 0)
		r = prefix ? bare_from_prefix(b, &n, &f, e) : bare_from_apt(b, &n, &f, e);
	return r < 0 ? r : build_push(b, &n, NULL, 0, &f, e);
}

/* ---- pip and libraries ---- */

/* Test suites are a third of these two. */
static const char slim_script[] = "cd /usr/lib/python3/dist-packages && rm -rf pandas/tests\n"
				  "find numpy -name tests -type d -prune -exec rm -rf {} +\n";

static int libs_from_apt(struct build *b, struct layer_new *n, struct layer_facts *f, struct err *e)
{
	const char *const link[] = { "/usr/bin/python3", NULL };
	int r = run_simple(b, n, "apt-get install pip and libraries", build_apt_install, ubuntu_packages, APT_S, e);

	if (r == 0)
		r = run_simple(b, n, "linking python", link_script, link, CHECK_S, e);
	if (r == 0)
		r = run_simple(b, n, "leaving out test suites", slim_script, NULL, CHECK_S, e);
	(void)snprintf(f->source, sizeof(f->source), "the distribution's python3-* packages");
	return r;
}

static const char pip_script[] =
	"set -e\n"
	"exec >&2\n"
	"python3.12 -m ensurepip --default-pip --root-user-action=ignore 2>&1 || python3.12 -m ensurepip "
	"--default-pip\n"
	"[ \"$#\" = 0 ] || pip install --root-user-action=ignore --no-cache-dir --disable-pip-version-check \\\n"
	"  --no-compile --progress-bar off \"$@\"\n";

/* Each package's files go to site-packages; what needs a compiled module of another Python stays there
 * but does not import, so it is tried one by one and thrown out. */
static const char pure_script[] =
	"set -e\n"
	"exec >&2\n"
	"site=/usr/local/lib/python3.12/site-packages\n"
	"mkdir -p /tmp/d /tmp/x && cd /tmp/d\n"
	"apt-get -q update\n"
	"for p in \"$@\"; do apt-get -q download \"$p\" || echo \"$p: not in this distribution\"; done\n"
	"for d in *.deb; do dpkg-deb -x \"$d\" /tmp/x; done\n"
	"cd /tmp/x/usr/lib/python3/dist-packages\n"
	"rm -rf pkg_resources setuptools\n"
	"find . -name '*.so' -delete\n"
	"cp -R . \"$site\"/\n"
	"cd \"$site\"\n"
	"for m in *; do\n"
	"  case $m in *-info|pip|__pycache__|README.txt|*.pth|_*) continue;; esac\n"
	"  m=${m%.py}\n"
	"  python3.12 -c \"import $m\" 2>/dev/null || { echo \"$m: does not import under 3.12, left out\"; rm -rf "
	"\"$m\" \"$m.py\" \"$m\"-*info; }\n"
	"done\n";

static int libs_from_pypi_or_debian(struct build *b, struct layer_new *n, struct layer_facts *f, struct err *e)
{
	const char *index = getenv("PIP_INDEX_URL");
	const char *const none[] = { NULL };
	const char *vars[2] = { NULL };
	struct build_script pip = {
		.doing = "installing pip", .text = pip_script, .args = none, .timeout_s = APT_S, .vars = vars
	};
	char var[512];
	int r;

	if (index && snprintf(var, sizeof(var), "PIP_INDEX_URL=%s", index) < (int)sizeof(var))
		vars[0] = var;
	build_step(b, "asking PyPI");
	if (fetch_answers(index ? index : PYPI "requests/", PROBE_S)) {
		pip.args = pypi_packages;
		pip.doing = "pip install";
		(void)snprintf(f->source, sizeof(f->source), "pip and libraries from PyPI");
		return build_script_run(b, n, &pip, NULL, e);
	}
	r = build_script_run(b, n, &pip, NULL, e);
	if (r == 0)
		r = run_simple(b, n, "libraries from Debian's pure-Python packages", pure_script, pure_packages, APT_S,
			       e);
	(void)snprintf(f->source, sizeof(f->source), "pip of CPython, pure-Python libraries of the distribution");
	(void)snprintf(f->stand_in, sizeof(f->stand_in), "no compiled libraries such as numpy: PyPI did not answer");
	return r;
}

int build_python_libs(struct build *b, struct err *e)
{
	_cleanup_layer_ struct layer_new n = LAYER_NEW_INIT;
	bool prefix = !b->ubuntu && b->o->sources->python_fd >= 0;
	struct layer_facts f = { .recipe = "" };
	int r;

	(void)snprintf(f.recipe, sizeof(f.recipe), "python-libs %s r%d", b->stack[b->n - 1].id, RECIPE_REVISION);
	if (build_reuse(b, f.recipe))
		return 0;
	r = layer_begin(&b->env, &n, e);
	if (r == 0)
		r = prefix ? libs_from_pypi_or_debian(b, &n, &f, e) : libs_from_apt(b, &n, &f, e);
	if (r == 0)
		r = check_libraries(b, &n, &f, e);
	return r < 0 ? r : build_push(b, &n, NULL, 0, &f, e);
}
