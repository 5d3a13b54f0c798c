#pragma once
/* Layers: folders disk/l/<id>, read-only once they are there, shared by every template that lists them.
 * A layer is made in disk/l/.tmp-<ulid>/u and renamed when complete and on disk, so a half-made one is
 * never seen. Next to it disk/l/<id>.json says what it is made of; a recipe is looked up there.
 *
 * The id is the first 24 hex digits of the layer's digest: for one unpacked from an archive the SHA-256
 * of the uncompressed tar stream, for one made by running commands that of a canonical listing of its
 * tree (names, types, modes, owners, contents; no times).
 *
 * Runs inside the emulator's user namespace as its id 0, in CLI commands or a worker: it blocks. All
 * writers hold the lock (layer_lock). */

#include <sys/types.h>

#include "emulator/base/err.h"
#include "emulator/base/text.h"

#define LAYER_ID_SIZE 25
#define LAYER_ROOT "u"

struct layer_env {
	int state_fd; /* opened in this process's own mount namespace (stack.c says why) */
	uid_t sandbox_uid;
	bool single_id;
};

/* What a layer contributes to the description of a template that has it. Empty: nothing. */
struct layer_facts {
	char recipe[96];       /* how it was made; looked up by layer_find */
	char distribution[96]; /* from its own os-release */
	char interpreter[64];
	char libraries[1024]; /* "numpy 1.26.4, requests 2.31.0" */
	char source[320];
	char stand_in[256];
};

struct layer_info {
	char id[LAYER_ID_SIZE];
	char digest[TEXT_SHA256_SIZE];
	uint64_t size_bytes;
	int64_t created_ms;
	struct layer_facts facts;
};

/* A layer in the making. */
struct layer_new {
	int l_fd;      /* disk/l */
	int dir_fd;    /* disk/l/.tmp-X, mode 0711 */
	int root_fd;   /* disk/l/.tmp-X/u: the layer's root folder */
	char name[40]; /* ".tmp-X"; empty when there is none */
};
#define LAYER_NEW_INIT ((struct layer_new){ .l_fd = -1, .dir_fd = -1, .root_fd = -1 })

/* One writer at a time in a state dir: waits for the lock; returns an fd that holds it. Removes what a
 * writer that died left behind. */
int layer_lock(int state_fd, struct err *e);

int layer_begin(const struct layer_env *env, struct layer_new *ret, struct err *e);
void layer_abort(struct layer_new *n); /* also after commit: then only closes */
#define _cleanup_layer_ _cleanup_(layer_abort)

/* digest: hex, with the files' size; or NULL for that of the tree (size is then measured). Takes over n's
 * folder. When a layer with the same digest is there already, that one is used. *ret is filled. */
int layer_commit(struct layer_new *n, const char *digest, uint64_t size, const struct layer_facts *facts,
		 struct layer_info *ret, struct err *e);

bool layer_id_valid(const char *id);

/* Removes one, whatever lists or uses it: that is for the caller to know. With the lock. 0 if it is gone. */
int layer_remove(int state_fd, const char *id, struct err *e);

/* -ENOENT (ERR_NOT_FOUND) when the folder or its description is missing or damaged. */
int layer_load(int state_fd, const char *id, struct layer_info *ret, struct err *e);

/* The newest complete layer with this recipe, made at or after since_ms; or -ENOENT. */
int layer_find(int state_fd, const char *recipe, int64_t since_ms, struct layer_info *ret);

/* Removes each layer for which used() is false. While any sandbox has a folder in disk/s nothing is
 * removed: its overlay may be made of these. */
int layer_sweep(int state_fd, bool (*used)(void *arg, const char *id), void *arg, struct err *e);
