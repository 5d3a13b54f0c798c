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

struct template {
	char name[TEMPLATE_NAME_MAX + 1];
	char *layers[TEMPLATE_MAX_LAYERS]; /* folder names under disk/l, the topmost first */
	size_t n_layers;
	char *distribution; /* "Debian 12 (bookworm)": from the image's own os-release */
	char *interpreter;  /* "CPython 3.12.1", "Node 22.11.0", or NULL */
	char *source;	    /* "mmdebstrap + pyenv", "import FILE", ... */
	char *digest;	    /* "sha256:..." over the layers' digests */
	char *stand_in;	    /* NULL, or in what it differs from its name (divergence "template-stand-in") */
	int64_t created_ms;
	uint64_t size_bytes;
};

void template_free(struct template *t);

/* The four names of the cloud, NULL-terminated. */
extern const char *const template_names[];

/* [a-z0-9][a-z0-9._-]*, at most TEMPLATE_NAME_MAX. */
bool template_name_valid(const char *name);

/* ERR_NOT_FOUND when there is no such template here; ERR_UNAVAILABLE ("template_unavailable", with the
 * command that builds it) when it is one of the cloud's but was not built. */
int template_load(int state_fd, const char *name, struct template **ret, struct err *e);

int template_each(int state_fd, int (*fn)(void *arg, const struct template *t), void *arg, struct err *e);

/* Progress for a person: one call a step, and about once a second inside a long one. fraction: 0..1, or
 * negative when unknown. */
typedef void (*template_progress_fn)(void *arg, const char *what, double fraction);

struct template_ops {
	int state_fd;
	uid_t sandbox_uid; /* E's id of a sandbox's root: 1, or 0 with a single-id map */
	bool single_id;	   /* everything is owned by sandbox_uid, whatever the archive says */
	template_progress_fn progress;
	void *progress_arg;
};

/* Builds one of template_names from this host's sources (see template_build.c). */
int template_build(const struct template_ops *o, const char *name, bool force, struct err *e);

/* Makes template `name` of one archive (tar, tar.gz, tar.zst), read from fd, which may be a pipe. */
int template_import(const struct template_ops *o, const char *name, int fd, const char *source, struct err *e);

/* Forgets a template and the layers no other template has. in_use(arg, layer) keeps a layer; NULL: none is. */
int template_remove(const struct template_ops *o, const char *name, struct err *e);
