/* What this host can build from, found and opened with the caller's own rights. Programs asked here
 * (apt-get, npm) are the host's own, run as the caller. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <string.h>
#include <sys/stat.h>

#include "emulator/base/buf.h"
#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "rootfs/proc.h"
#include "rootfs/template.h"

#define NPM_DEFAULT "https://registry.npmjs.org/"

static void dirp_close(DIR **d)
{
	if (*d)
		(void)closedir(*d);
}

/* "ID=debian", "VERSION_CODENAME=bookworm" */
static void os_release(const char *text, const char *key, char *ret, size_t cap)
{
	size_t k = strlen(key), n;

	for (const char *p = text; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL) {
		if (strncmp(p, key, k) != 0)
			continue;
		p += k;
		p += *p == '"';
		n = strspn(p, "abcdefghijklmnopqrstuvwxyz0123456789._-");
		(void)snprintf(ret, cap, "%.*s", (int)MIN(n, cap - 1), p);
		return;
	}
}

static void find_host(struct template_sources *s)
{
	char text[8192];

	if (fd_read_file(AT_FDCWD, "/etc/os-release", text, sizeof(text)) < 0)
		return;
	os_release(text, "ID=", s->host_id, sizeof(s->host_id));
	os_release(text, "VERSION_CODENAME=", s->host_codename, sizeof(s->host_codename));
}

/* ---- apt ---- */

/* What may stand in a sources.list line we write: nothing that could end the line or start an option. */
static bool word_ok(const char *w)
{
	return *w && strspn(w, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:/_+~%-") == strlen(w);
}

/* bookworm, bookworm-updates, bookworm-security. */
static bool suite_wanted(const struct template_sources *s, const char *suite)
{
	size_t n = strlen(s->host_codename);

	if (n == 0 || strncmp(suite, s->host_codename, n) != 0)
		return false;
	return !suite[n] || strcmp(suite + n, "-updates") == 0 || strcmp(suite + n, "-security") == 0;
}

static void add_apt(struct template_sources *s, const char *uri, const char *suite, const char *component)
{
	if (!word_ok(uri) || !word_ok(suite) || !word_ok(component) || !suite_wanted(s, suite))
		return;
	if (strncmp(uri, "http://", 7) != 0 && strncmp(uri, "https://", 8) != 0)
		return;
	for (size_t i = 0; i < s->n_apt; i++) {
		size_t n = strlen(s->apt[i].components);

		if (strcmp(s->apt[i].uri, uri) != 0 || strcmp(s->apt[i].suite, suite) != 0)
			continue;
		if (!strstr(s->apt[i].components, component))
			(void)snprintf(s->apt[i].components + n, sizeof(s->apt[i].components) - n, " %s", component);
		return;
	}
	if (s->n_apt == TEMPLATE_APT_SOURCES || strlen(uri) >= sizeof(s->apt[0].uri) ||
	    strlen(suite) >= sizeof(s->apt[0].suite) || strlen(component) >= sizeof(s->apt[0].components))
		return;
	(void)snprintf(s->apt[s->n_apt].uri, sizeof(s->apt[0].uri), "%s", uri);
	(void)snprintf(s->apt[s->n_apt].suite, sizeof(s->apt[0].suite), "%s", suite);
	(void)snprintf(s->apt[s->n_apt].components, sizeof(s->apt[0].components), "%s", component);
	s->n_apt++;
}

/* apt itself knows best what its sources files say, in both their formats. */
static void find_apt(struct template_sources *s)
{
	const char *const argv[] = {
		"apt-get", "indextargets", "Created-By: Packages", "--format", "$(REPO_URI)|$(RELEASE)|$(COMPONENT)",
		NULL
	};
	const char *const proxy_argv[] = { "apt-config", "dump", "Acquire::http::Proxy", "--format", "%v%n", NULL };
	const struct proc_spec list = {
		.argv = argv, .env = (const char *const *)environ, .stdin_fd = -1, .timeout_s = 10
	};
	const struct proc_spec proxy = {
		.argv = proxy_argv, .env = (const char *const *)environ, .stdin_fd = -1, .timeout_s = 10
	};
	_cleanup_buf_ struct buf out = BUF_INIT(256u << 10), p = BUF_INIT(4096);
	char *save = NULL;

	if (proc_run(&proxy, &p, NULL) == 0 && p.len > 0) {
		p.p[strcspn(p.p, "\n")] = '\0';
		if (word_ok(p.p) && strlen(p.p) < sizeof(s->apt_proxy))
			(void)snprintf(s->apt_proxy, sizeof(s->apt_proxy), "%s", p.p);
	}
	if (proc_run(&list, &out, NULL) < 0 || out.len == 0)
		return;
	for (char *line = strtok_r(out.p, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *inner = NULL, *uri = strtok_r(line, "|", &inner);
		char *suite = strtok_r(NULL, "|", &inner), *component = strtok_r(NULL, "|", &inner);

		if (uri && suite && component)
			add_apt(s, uri, suite, component);
	}
}

/* ---- CPython 3.12 ---- */

/* A prefix of its own, not the distribution's /usr: bin/python3.12 beside its lib/python3.12. */
static bool try_prefix(struct template_sources *s, const char *path)
{
	_cleanup_close_ int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || strlen(path) >= sizeof(s->python_path))
		return false;
	if (fstatat(fd, "bin/python3.12", &st, 0) < 0 || !S_ISREG(st.st_mode) || !(st.st_mode & 0111))
		return false;
	if (fstatat(fd, "lib/python3.12/encodings", &st, 0) < 0 || !S_ISDIR(st.st_mode))
		return false;
	s->python_fd = TAKE_FD(fd);
	(void)snprintf(s->python_path, sizeof(s->python_path), "%s", path);
	return true;
}

/* The highest 3.12.N in a folder of versions: folder/<prefix>3.12.N<anything>[/below]. */
static bool try_versions(struct template_sources *s, const char *folder, const char *prefix, const char *below)
{
	_cleanup_(dirp_close) DIR *d = opendir(folder);
	char best[256] = "", path[1024];
	struct dirent *de;
	long best_n = -1;

	while (d && (de = readdir(d))) {
		size_t k = strlen(prefix);
		char *end;
		long n;

		if (strncmp(de->d_name, prefix, k) != 0 || strncmp(de->d_name + k, "3.12.", 5) != 0)
			continue;
		n = strtol(de->d_name + k + 5, &end, 10);
		if (end == de->d_name + k + 5 || n <= best_n || (*end && *end != '-'))
			continue;
		best_n = n;
		(void)snprintf(best, sizeof(best), "%s", de->d_name);
	}
	if (best_n < 0 || text_format(path, sizeof(path), "%s/%s%s", folder, best, below) < 0)
		return false;
	return try_prefix(s, path);
}

static bool try_home(struct template_sources *s, const char *home)
{
	char path[1024];

	if (!home || !*home)
		return false;
	if (text_format(path, sizeof(path), "%s/.pyenv/versions", home) > 0 && try_versions(s, path, "", ""))
		return true;
	return text_format(path, sizeof(path), "%s/.local/share/uv/python", home) > 0 &&
	       try_versions(s, path, "cpython-", "");
}

static void find_python(struct template_sources *s)
{
	const char *root = getenv("PYENV_ROOT"), *sudo_user = getenv("SUDO_USER");
	const struct passwd *pw;
	char path[1024];

	if (root && text_format(path, sizeof(path), "%s/versions", root) > 0 && try_versions(s, path, "", ""))
		return;
	if (try_home(s, getenv("HOME")))
		return;
	/* Under sudo the interpreter is the user's. */
	pw = sudo_user ? getpwnam(sudo_user) : NULL;
	if (pw && try_home(s, pw->pw_dir))
		return;
	if (try_prefix(s, "/usr/local") || try_versions(s, "/opt/hostedtoolcache/Python", "", "/x64"))
		return;
	(void)try_versions(s, "/opt/python", "", "");
}

/* ---- npm ---- */

static bool use_registry(struct template_sources *s, const char *url)
{
	size_t n = url ? strlen(url) : 0;

	if (n == 0 || n + 2 > sizeof(s->npm_registry) || !word_ok(url))
		return false;
	if (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0)
		return false;
	(void)snprintf(s->npm_registry, sizeof(s->npm_registry), "%s%s", url, url[n - 1] == '/' ? "" : "/");
	return true;
}

static void find_npm(struct template_sources *s)
{
	const char *const argv[] = { "npm", "config", "get", "registry", NULL };
	const struct proc_spec spec = {
		.argv = argv, .env = (const char *const *)environ, .stdin_fd = -1, .timeout_s = 10
	};
	_cleanup_buf_ struct buf out = BUF_INIT(4096);

	if (use_registry(s, getenv("npm_config_registry")) || use_registry(s, getenv("NPM_CONFIG_REGISTRY")))
		return;
	if (proc_run(&spec, &out, NULL) == 0 && out.len > 0) {
		out.p[strcspn(out.p, "\r\n")] = '\0';
		if (use_registry(s, out.p))
			return;
	}
	(void)use_registry(s, NPM_DEFAULT);
}

void template_sources_open(struct template_sources *ret)
{
	*ret = (struct template_sources){ .python_fd = -1 };
	find_host(ret);
	find_apt(ret);
	find_python(ret);
	find_npm(ret);
}

void template_sources_close(struct template_sources *s)
{
	closep(&s->python_fd);
}
