/* The layer below all four templates: a minimal Debian-family system from mmdebstrap, and on it the few
 * files a sandbox needs (image.c).
 *
 * mmdebstrap runs as the root of a nested user namespace (stack.c, on the host's own root): with the
 * sandboxes' 65536 ids it needs neither host root nor fakeroot, and every maintainer script runs with
 * the ids it will see in a sandbox. Its tar goes straight into the layer.
 *
 * Ubuntu 24.04 is what the templates' names promise; where its mirror can't be reached, the Debian of
 * this host (or bookworm) stands in, and says so wherever the template is shown. */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/utsname.h>

#include "emulator/base/buf.h"
#include "emulator/base/fd.h"
#include "emulator/base/sys.h"
#include "emulator/base/text.h"
#include "rootfs/fetch.h"
#include "rootfs/image.h"
#include "rootfs/proc.h"
#include "rootfs/stack.h"
#include "rootfs/template-internal.h"
#include "rootfs/unpack.h"

#define RECIPE_REVISION 1 /* raise when what is below changes what a base holds */
#define UBUNTU_CODENAME "noble"
#define DEBIAN_CODENAME "bookworm"
#define PROBE_S 4
#define BOOTSTRAP_S 1200
#define UBUNTU_KEYRING "/usr/share/keyrings/ubuntu-archive-keyring.gpg"
#define DEBIAN_KEYRING "/usr/share/keyrings/debian-archive-keyring.gpg"

/* Where the host has no Ubuntu keyring: the package as it was released with 24.04, so it never changes.
 * The hash is the one in noble's signed index (key F6ECB3762474EDA9D21B7022871920D1991BC93C). */
#define KEYRING_DEB "pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb"
#define KEYRING_SHA256 "36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8"

/* What a shell user and the recipes on top expect; bash and coreutils come with the variant. */
#define PACKAGES "apt,ca-certificates,curl,git,iproute2,less,nano,netbase,procps,tzdata,unzip,xz-utils"

#define MAX_LINES 8

struct base {
	const char *codename;
	const char *keyring;	    /* of the host, or NULL: KEYRING_DEB on standard input */
	char lines[MAX_LINES][360]; /* for sources.list */
	size_t n_lines;
	char mirror[208]; /* the first line's, to be probed */
};

const char *build_arch(void)
{
	static const struct {
		const char *machine, *arch;
	} names[] = { { "x86_64", "amd64" }, { "aarch64", "arm64" } };
	struct utsname u;

	if (uname(&u) < 0)
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(u.machine, names[i].machine) == 0)
			return names[i].arch;
	return NULL;
}

static void add_line(struct base *a, const char *uri, const char *suite, const char *components)
{
	if (a->n_lines == 0)
		(void)snprintf(a->mirror, sizeof(a->mirror), "%s%s", uri, uri[strlen(uri) - 1] == '/' ? "" : "/");
	if (a->n_lines < MAX_LINES)
		(void)snprintf(a->lines[a->n_lines++], sizeof(a->lines[0]), "deb %s %s %s", uri, suite, components);
}

/* The host's own mirrors, if it is of that distribution and release. */
static void add_host_lines(struct base *a, const struct template_sources *s)
{
	for (size_t i = 0; i < s->n_apt; i++)
		if (strcmp(s->apt[i].suite, a->codename) == 0)
			add_line(a, s->apt[i].uri, s->apt[i].suite, s->apt[i].components);
	for (size_t i = 0; a->n_lines > 0 && i < s->n_apt; i++)
		if (strcmp(s->apt[i].suite, a->codename) != 0)
			add_line(a, s->apt[i].uri, s->apt[i].suite, s->apt[i].components);
}

static void choose_ubuntu(struct base *a, const struct template_sources *s)
{
	const char *uri = strcmp(build_arch(), "amd64") == 0 ? "http://archive.ubuntu.com/ubuntu"
							     : "http://ports.ubuntu.com/ubuntu-ports";

	*a = (struct base){ .codename = UBUNTU_CODENAME };
	a->keyring = access(UBUNTU_KEYRING, R_OK) == 0 ? UBUNTU_KEYRING : NULL;
	if (strcmp(s->host_id, "ubuntu") == 0 && strcmp(s->host_codename, UBUNTU_CODENAME) == 0)
		add_host_lines(a, s);
	if (a->n_lines > 0)
		return;
	add_line(a, uri, UBUNTU_CODENAME, "main universe");
	add_line(a, uri, UBUNTU_CODENAME "-updates", "main universe");
	add_line(a, uri, UBUNTU_CODENAME "-security", "main universe");
}

static void choose_debian(struct base *a, const struct template_sources *s)
{
	bool host = strcmp(s->host_id, "debian") == 0 && *s->host_codename;

	*a = (struct base){ .codename = host ? s->host_codename : DEBIAN_CODENAME, .keyring = DEBIAN_KEYRING };
	if (host)
		add_host_lines(a, s);
	if (a->n_lines > 0)
		return;
	add_line(a, "http://deb.debian.org/debian", a->codename, "main");
	if (!host) {
		add_line(a, "http://deb.debian.org/debian", DEBIAN_CODENAME "-updates", "main");
		add_line(a, "http://deb.debian.org/debian-security", DEBIAN_CODENAME "-security", "main");
	}
}

static bool mirror_answers(struct build *b, const struct base *a)
{
	char url[320];

	(void)snprintf(url, sizeof(url), "%sdists/%s/InRelease", a->mirror, a->codename);
	build_step(b, "asking %s", url);
	return fetch_answers(url, PROBE_S);
}

static int missing_mmdebstrap(struct build *b, struct err *e)
{
	const char *const argv[] = { "mmdebstrap", "--version", NULL };
	const struct proc_spec s = {
		.argv = argv, .env = (const char *const *)environ, .stdin_fd = -1, .timeout_s = 20
	};

	if (b->env.single_id)
		return err_set(e, ERR_UNAVAILABLE, EPERM, "template_unavailable",
			       "a system can't be unpacked with a single id; give this user a range in /etc/subuid and "
			       "/etc/subgid (doctor says how), or use: orkestr-emulator template import %s FILE.tar",
			       b->name);
	if (!build_arch())
		return err_set(e, ERR_UNAVAILABLE, ENOSYS, "template_unavailable",
			       "templates can be built on amd64 and arm64 only; use: orkestr-emulator template import "
			       "%s FILE.tar",
			       b->name);
	if (proc_run(&s, NULL, NULL) < 0)
		return err_set(e, ERR_UNAVAILABLE, ENOENT, "template_unavailable",
			       "mmdebstrap is missing: sudo apt-get install -y mmdebstrap (or: orkestr-emulator "
			       "template import %s FILE.tar)",
			       b->name);
	return 0;
}

/* The keyring package, checked, as an fd. */
static int fetch_keyring(struct build *b, const struct base *a, struct err *e)
{
	_cleanup_buf_ struct buf deb = BUF_INIT(1u << 20);
	char url[320], sha[TEXT_SHA256_SIZE];
	int r;

	(void)snprintf(url, sizeof(url), "%s%s", a->mirror, KEYRING_DEB);
	build_step(b, "fetching Ubuntu's signing keys (checked against a built-in hash)");
	r = fetch(url, NULL, 20, &deb, e);
	if (r < 0)
		return r;
	text_sha256(deb.p ? deb.p : "", deb.len, sha);
	if (strcmp(sha, KEYRING_SHA256) != 0)
		return err_set(e, ERR_IO, EBADMSG, NULL, "%s is not the package it should be (wrong SHA-256)", url);
	r = fd_memfile("keyring", deb.p, deb.len);
	return r < 0 ? err_errno(e, -r, "cannot keep the signing keys") : r;
}

/* $1: the keyring, or "" to take it from the package on standard input. The host's names, copied in while
 * packages were configured, are taken out again. dash can't redirect to fds above 9, which apt's hooks
 * use: no other fd may be open here (proc.c closes them). */
static const char bootstrap_script[] =
	"set -e\n"
	"cd /tmp\n"
	"export HOME=/tmp\n"
	"keyring=$1 suite=$2 packages=$3; shift 3\n"
	"if [ -z \"$keyring\" ]; then\n"
	"  keyring=/tmp/ubuntu-archive-keyring.gpg\n"
	"  dpkg-deb --fsys-tarfile - | tar -xOf - .\"" UBUNTU_KEYRING "\" >$keyring\n"
	"fi\n"
	"exec mmdebstrap --mode=root --format=tar --variant=minbase --keyring=\"$keyring\" \\\n"
	"  --include=\"$packages\" --skip=output/dev \\\n"
	"  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \\\n"
	"  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \\\n"
	"  --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-include=/usr/share/locale/locale.alias' \\\n"
	"  --dpkgopt=force-unsafe-io \\\n"
	"  --aptopt='APT::Install-Recommends \"false\"' --aptopt='Acquire::Languages \"none\"' \\\n"
	"  --customize-hook='cd \"$1\" && rm -f etc/resolv.conf etc/hosts etc/hostname etc/machine-id "
	"var/lib/dbus/machine-id' \\\n"
	"  --customize-hook='cd \"$1\" && rm -rf var/log/* var/cache/debconf/*-old var/lib/dpkg/*-old' \\\n"
	"  --customize-hook='sed -i \"s/ *\\[[^]]*\\]//; /^$/d\" \"$1\"/etc/apt/sources.list' \\\n"
	"  \"$suite\" - \"$@\" </dev/null\n";

static ssize_t read_proc(void *arg, void *p, size_t n)
{
	return proc_read(arg, p, n);
}

/* mmdebstrap's own reason is worth more than what a cut-off archive looks like. */
static int unpack_from(struct build *b, const struct layer_new *n, struct stack_proc *p, struct unpack_result *u,
		       struct err *e)
{
	struct unpack_spec us;
	struct err why = ERR_INIT, unpack_why = ERR_INIT;
	int r;

	build_unpack_spec(b, n, &us);
	us.read = read_proc;
	us.read_arg = stack_proc(p);
	r = unpack_archive(&us, u, &unpack_why);
	if (r < 0 && unpack_why.kind != ERR_INVALID) {
		if (e)
			*e = unpack_why;
		return r;
	}
	if (proc_finish(stack_proc(p), NULL, &why) < 0) {
		if (e)
			*e = why;
		return -EIO;
	}
	if (r < 0 && e)
		*e = unpack_why;
	return r;
}

static int bootstrap(struct build *b, const struct base *a, struct layer_new *n, struct unpack_result *u, struct err *e)
{
	_cleanup_close_ int keyring_fd = a->keyring ? -1 : fetch_keyring(b, a, e);
	const char *args[MAX_LINES + 5] = { a->keyring ? a->keyring : "", a->codename, PACKAGES };
	const char *vars[4] = { NULL };
	char proxy[3][300];
	size_t n_vars = 0;
	struct build_script s = { .doing = "base",
				  .text = bootstrap_script,
				  .args = args,
				  .vars = vars,
				  .on_host = true,
				  .timeout_s = BOOTSTRAP_S };
	static const char *const names[] = { "http_proxy", "https_proxy", "no_proxy" };
	struct build_call call = { .argv = { NULL } };
	struct stack_proc *p;
	int r;

	if (!a->keyring && keyring_fd < 0)
		return keyring_fd;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const char *v = getenv(names[i]);

		if (!v && i == 0 && *b->o->sources->apt_proxy && strcmp(b->o->sources->apt_proxy, "DIRECT") != 0)
			v = b->o->sources->apt_proxy;
		if (v && text_format(proxy[n_vars], sizeof(proxy[0]), "%s=%s", names[i], v) > 0) {
			vars[n_vars] = proxy[n_vars];
			n_vars++;
		}
	}
	for (size_t i = 0; i < a->n_lines; i++)
		args[3 + i] = a->lines[i];
	s.stdin_fd = keyring_fd;
	build_call_fill(b, n, &s, &call);
	build_step(b, "mmdebstrap %s from %s", a->codename, a->mirror);
	r = stack_start(&call.spec, &p, e);
	if (r < 0)
		return r;
	r = unpack_from(b, n, p, u, e);
	stack_free(p);
	return r;
}

static int make_base(struct build *b, const struct base *a, const char *recipe, struct err *e)
{
	_cleanup_layer_ struct layer_new n = LAYER_NEW_INIT;
	struct layer_facts f = { .recipe = "" };
	struct unpack_result u = { 0 };
	int r = layer_begin(&b->env, &n, e);

	if (r == 0)
		r = bootstrap(b, a, &n, &u, e);
	if (r < 0)
		return r;
	(void)text_format(f.recipe, sizeof(f.recipe), "%s", recipe);
	image_distribution(n.root_fd, f.distribution, sizeof(f.distribution));
	(void)snprintf(f.source, sizeof(f.source), "mmdebstrap %s from %s", a->codename, a->mirror);
	if (!b->ubuntu)
		(void)snprintf(f.stand_in, sizeof(f.stand_in), "%s instead of Ubuntu 24.04", f.distribution);
	return build_push(b, &n, u.digest, u.file_bytes, &f, e);
}

static int add_scaffold(struct build *b, struct err *e)
{
	_cleanup_close_ int image_fd = -1;
	char recipe[96], path[64];
	bool any = false;
	int r;

	(void)snprintf(recipe, sizeof(recipe), "scaffold %s r%d", b->stack[0].id, RECIPE_REVISION);
	if (build_reuse(b, recipe))
		return 0;
	(void)snprintf(path, sizeof(path), "disk/l/%s", b->stack[0].id);
	image_fd = sys_openat2(b->env.state_fd, path, O_RDONLY | O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	if (image_fd < 0)
		return err_errno(e, -image_fd, "cannot open the base layer");
	r = template_scaffold(&b->env, image_fd, true, recipe, &b->stack[b->n], &any, e);
	if (r == 0 && any)
		b->n++;
	return r;
}

static void recipe_name(const struct base *a, const char *distribution, char ret[static 96])
{
	(void)snprintf(ret, 96, "base %s-%s %s r%d", distribution, a->codename, build_arch(), RECIPE_REVISION);
}

/* Ubuntu that is there; Ubuntu that can be fetched; Debian that is there; Debian. */
static int choose_and_make(struct build *b, struct err *e)
{
	const struct template_sources *s = b->o->sources;
	char ubuntu_recipe[96], debian_recipe[96];
	struct base ubuntu, debian;

	choose_ubuntu(&ubuntu, s);
	choose_debian(&debian, s);
	recipe_name(&ubuntu, "ubuntu", ubuntu_recipe);
	recipe_name(&debian, "debian", debian_recipe);
	if (s->base != TEMPLATE_BASE_DEBIAN) {
		b->ubuntu = true;
		if (build_reuse(b, ubuntu_recipe))
			return 0;
		if (mirror_answers(b, &ubuntu))
			return make_base(b, &ubuntu, ubuntu_recipe, e);
		if (s->base == TEMPLATE_BASE_UBUNTU)
			return err_set(e, ERR_UNAVAILABLE, ENETUNREACH, "template_unavailable",
				       "%s does not answer with Ubuntu 24.04", ubuntu.mirror);
	}
	b->ubuntu = false;
	if (build_reuse(b, debian_recipe))
		return 0;
	if (s->base == TEMPLATE_BASE_AUTO)
		build_step(b, "Ubuntu's mirror does not answer: Debian %s stands in", debian.codename);
	if (access(DEBIAN_KEYRING, R_OK) < 0)
		return err_set(e, ERR_UNAVAILABLE, ENOENT, "template_unavailable",
			       "Debian's signing keys are missing: sudo apt-get install -y debian-archive-keyring");
	if (!mirror_answers(b, &debian))
		return err_set(
			e, ERR_UNAVAILABLE, ENETUNREACH, "template_unavailable",
			"neither %s nor %s answers; without a mirror use: orkestr-emulator template import %s FILE.tar",
			ubuntu.mirror, debian.mirror, b->name);
	return make_base(b, &debian, debian_recipe, e);
}

int build_base(struct build *b, struct err *e)
{
	int r = missing_mmdebstrap(b, e);

	if (r == 0)
		r = choose_and_make(b, e);
	return r < 0 ? r : add_scaffold(b, e);
}
