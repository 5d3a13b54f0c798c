#pragma once
/* Between template.c (the files), and what makes templates: template_build.c and its sources. */

#include "rootfs/layer.h"
#include "rootfs/stack.h"
#include "rootfs/template.h"

/* Writes templates/<name>.json for these layers, the bottom one first. */
int template_save(int state_fd, const char *name, const struct layer_info *layers, size_t n, struct err *e);

/* Removes the layers no template lists (layer_sweep's rule applies). */
int template_sweep_layers(int state_fd, struct err *e);

/* Adds the layer with what image_fd lacks, if anything. *ret_any says whether ret was filled. */
int template_scaffold(const struct layer_env *env, int image_fd, bool replace, const char *recipe,
		      struct layer_info *ret, bool *ret_any, struct err *e);

/* ---- a build in progress ---- */

struct build {
	const struct template_ops *o;
	struct layer_env env;
	const char *name; /* of the template */
	bool force;
	struct layer_info *stack; /* TEMPLATE_MAX_LAYERS, the bottom one first */
	size_t n;
	bool ubuntu;	/* the base is Ubuntu 24.04 (else a Debian stand-in) */
	char step[160]; /* what a line of a helper's output belongs to */
	int64_t last_detail_us;
};

/* The next step. */
void build_step(struct build *b, const char *fmt, ...) _printf_(2, 3);

/* The layer with this recipe, if there is a usable one, goes on the stack: true. */
bool build_reuse(struct build *b, const char *recipe);

/* Completes n and puts it on the stack. digest: as for layer_commit. */
int build_push(struct build *b, struct layer_new *n, const char *digest, uint64_t size, const struct layer_facts *f,
	       struct err *e);

struct buf;
/* A shell script on the stack as it is, with n as its upper: "$1".. are args (NULL-terminated, or NULL).
 * Its standard error is progress; its standard output goes to out, or is thrown away. */
struct build_script {
	const char *doing, *text;
	const char *const *args, *const *vars;
	int stdin_fd; /* 0: /dev/null */
	bool on_host; /* not on the stack but on the host's root, /tmp being the layer's */
	uint32_t timeout_s;
};
int build_script_run(struct build *b, const struct layer_new *n, const struct build_script *s, struct buf *out,
		     struct err *e);

/* The same in two steps, to read its standard output: fill, then stack_start(&call.spec). */
#define BUILD_MAX_ARGS 64
struct build_call {
	struct stack_spec spec;
	const char *argv[BUILD_MAX_ARGS + 6];
	const char *layers[TEMPLATE_MAX_LAYERS];
};
void build_call_fill(struct build *b, const struct layer_new *n, const struct build_script *s, struct build_call *ret);

/* An archive into n, showing progress; the caller says what to read and where to. */
struct unpack_spec;
void build_unpack_spec(struct build *b, const struct layer_new *n, struct unpack_spec *ret);

/* Debian's name for this machine ("amd64"), or NULL where no template can be built. */
const char *build_arch(void);

int build_base(struct build *b, struct err *e);	       /* template_base.c: base and scaffold */
int build_python_bare(struct build *b, struct err *e); /* template_python.c, on a base */
int build_python_libs(struct build *b, struct err *e); /* template_python.c, on bare */
int build_node(struct build *b, struct err *e);	       /* template_node.c, on a base */

/* apt-get install of args in a layer; for build_script.text. Progress on standard error. */
extern const char build_apt_install[];
