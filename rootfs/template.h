#pragma once
/* Templates: a name and a stack of read-only layers, with what they really are. A template is one JSON
 * file, templates/<name>.json in the state dir, written whole (rename); a layer is a folder disk/l/<id>
 * shared by every template that lists it, unpacked from inside the emulator's user namespace, so its
 * owners are already the sandboxes'. Layers are made in disk/l/.tmp-* and renamed when complete.
 *
 * Called by the CLI (build, import, rm, list) and by the daemon (load). All functions work relative to
 * state_fd and must run inside the emulator's user namespace, except template_load and template_each. */

#include <sys/types.h>

#include "emulator/base/err.h"

#define TEMPLATE_MAX_LAYERS 32
#define TEMPLATE_NAME_MAX 64

struct template
{
	char name[TEMPLATE_NAME_MAX + 1];
	char *layers[TEMPLATE_MAX_LAYERS]; /* folder names under disk/l, the topmost first */
	size_t n_layers;
	char *distribution; /* "Debian 12 (bookworm)": from the image's own os-release */
	char *interpreter;  /* "CPython 3.12.1", "Node 22.11.0", or NULL */
	char *source;	    /* "mmdebstrap + pyenv", "import FILE", ... */
	char *digest;	    /* "sha256:..." over the layers' digests */
	char *libraries;    /* "numpy 1.26.4, requests 2.31.0": those that import; or NULL */
	char *stand_in;	    /* NULL, or in what it differs from its name (divergence "template-stand-in") */
	int64_t created_ms;
	uint64_t size_bytes;
};

void template_free(struct template *t);

/* The four names of the cloud, NULL-terminated. */
extern const char *const template_names[];
bool template_is_cloud(const char *name);

/* [a-z0-9][a-z0-9._-]*, at most TEMPLATE_NAME_MAX; or a custom template's id (template_custom.h). */
bool template_name_valid(const char *name);

/* ERR_NOT_FOUND when there is no such template here; ERR_UNAVAILABLE ("template_unavailable", with the
 * command that builds it) when it is one of the cloud's but was not built. */
int template_load(int state_fd, const char *name, struct template **ret, struct err *e);

int template_each(int state_fd, int (*fn)(void *arg, const struct template *t), void *arg, struct err *e);

/* Progress for a person: at the start of each step with detail NULL, and about once a second inside a long
 * one with what goes on in it. Printable text. */
typedef void (*template_progress_fn)(void *arg, const char *step, const char *detail);

/* What this host can build from. Opened with the caller's own rights, before the emulator's user
 * namespace is entered: there a folder of root's or a 0700 home can't be reached by path any more. */
#define TEMPLATE_APT_SOURCES 8

enum template_base { TEMPLATE_BASE_AUTO, TEMPLATE_BASE_UBUNTU, TEMPLATE_BASE_DEBIAN };

struct template_sources {
	enum template_base base; /* AUTO: Ubuntu if its mirror answers, else Debian as a stand-in */
	int python_fd;		 /* O_PATH: the prefix of a CPython 3.12 on this host, or -1 */
	char python_path[256];	 /* for a person */
	char host_id[32];	 /* "debian", from /etc/os-release */
	char host_codename[32];	 /* "bookworm" */
	struct {
		char uri[200], suite[48], components[64];
	} apt[TEMPLATE_APT_SOURCES]; /* the host's own mirrors of host_codename */
	size_t n_apt;
	char apt_proxy[256];
	char npm_registry[256]; /* with a slash at its end */
};

/* Never fails for what is missing: that source is then not there. */
void template_sources_open(struct template_sources *ret);
void template_sources_close(struct template_sources *s);

struct template_ops {
	int state_fd; /* opened in the calling process's own mount namespace (rootfs/stack.c) */
	const struct template_sources *sources; /* for template_build */
	uid_t sandbox_uid;			/* E's id of a sandbox's root: 1, or 0 with a single-id map */
	bool single_id;				/* everything is owned by sandbox_uid, whatever the archive says */
	int64_t force_since_ms;			/* with force: layers made before this are made again */
	template_progress_fn progress;
	void *progress_arg;
};

/* Builds one of template_names from this host's sources (see template_build.c). */
int template_build(const struct template_ops *o, const char *name, bool force, struct err *e);

/* Makes template `name` of one archive (tar, tar.gz, tar.zst), read from fd, which may be a pipe. What a
 * sandbox needs and the archive lacks (/workspace, mount points) goes into a second layer on top. */
int template_import(const struct template_ops *o, const char *name, int fd, const char *source, struct err *e);

/* Forgets a template and removes the layers no other template has; those stay for now while a sandbox
 * lives in this state dir. */
int template_remove(const struct template_ops *o, const char *name, struct err *e);
