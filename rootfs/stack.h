#pragma once
/* Runs one command on a stack of layers, the way a sandbox would see it: in a user namespace of its own
 * below the emulator's, with the sandboxes' ids, as its root. What it writes lands in the upper of a
 * layer in the making (rootfs/layer.h). It is how layers are built (apt, npm) and checked (does the
 * interpreter really run).
 *
 * Not the isolation of a sandbox: no seccomp filter, no limits, and the host's network, which apt and
 * npm need. It runs this program's own recipes, never what a client or an imported image asks for. */

#include "emulator/base/err.h"
#include "rootfs/layer.h"

struct buf;

#define STACK_MAX_LAYERS 40

struct stack_spec {
	const struct layer_env *env;
	/* Topmost first. None: the command runs on the host's own root, with the new layer's work folder
	 * on /tmp (mmdebstrap). */
	const char *const *layers;
	size_t n_layers;
	const struct layer_new *upper;
	const char *const *argv;
	const char *const *vars; /* added to the environment: "K=V", NULL-terminated, or NULL */
	int stdin_fd;		 /* 0 or below: /dev/null */
	uint32_t timeout_s;
	void (*line)(void *arg, const char *line); /* each line of its standard error */
	void *line_arg;
};

/* Starts it; its standard output is read with proc_read, its end with proc_finish (rootfs/proc.h). */
struct stack_proc;
int stack_start(const struct stack_spec *s, struct stack_proc **ret, struct err *e);
struct proc *stack_proc(struct stack_proc *p);
void stack_free(struct stack_proc *p); /* kills what still runs */

/* Start, collect standard output in out (NULL: thrown away), finish. */
int stack_run(const struct stack_spec *s, struct buf *out, struct err *e);
