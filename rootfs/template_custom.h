#pragma once
/* Custom templates on disk: what a build's steps left in their sandbox's upper folder becomes a layer on
 * top of the base's, by rename; nothing is copied. The state machine around it is emulator/tmpl.c.
 *
 *   disk/s/<slot>/u --take--> disk/b/<id> --capture--> disk/l/<layer>, templates/<id>.json
 *
 * A custom template's name is its id, "tmpl_" and a ULID. Its own layers have the recipe
 * TEMPLATE_CUSTOM_RECIPE, which says that they go with the last template that lists them. */

#include <sys/types.h>

#include "emulator/base/err.h"

#define TEMPLATE_CUSTOM_PREFIX "tmpl_"
#define TEMPLATE_CUSTOM_ID_SIZE 32 /* "tmpl_" + ULID + NUL */
#define TEMPLATE_CUSTOM_RECIPE "custom"

bool template_custom_id_valid(const char *id);

/* At once, by one rename: of a sandbox without any process left, before its folder goes. */
int template_custom_take(int state_fd, const char *slot, const char *id, struct err *e);

/* Moves what take() took to the trash. 0 also when there is nothing. */
int template_custom_drop(int state_fd, const char *id, struct err *e);

/* Start-up: everything that was taken and not captured goes to the trash. */
int template_custom_drop_all(int state_fd, struct err *e);

struct template_custom_spec {
	int state_fd;
	uid_t sandbox_uid;
	bool single_id;
	const char *id, *name;
	const char *base, *base_digest; /* as it was when the build began */
	size_t n_steps;
};

struct template_custom_result {
	char digest[80]; /* the template's */
	uint64_t layer_bytes, size_bytes;
};

/* Scrubs what was taken (template_scrub.h), makes it a layer and writes the template's file. Blocking, in a
 * worker: waits for the templates' lock, and reads every file once. ERR_UNAVAILABLE "template_unavailable"
 * when the base is another by now. */
int template_custom_capture(const struct template_custom_spec *s, struct template_custom_result *ret, struct err *e);

/* Removes the template's file, and those of its own layers that no other template has, whether or not
 * sandboxes live here: the caller knows that none was made of it. Blocking, in a worker. 0 if it is gone. */
int template_custom_remove(int state_fd, const char *id, struct err *e);

/* Removes layers that no template lists, unless a sandbox lives here. Blocking, in a worker. */
int template_custom_sweep(int state_fd, struct err *e);
