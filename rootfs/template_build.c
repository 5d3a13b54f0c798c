#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "emulator/base/buf.h"
#include "emulator/base/clock.h"
#include "rootfs/proc.h"
#include "rootfs/stack.h"
#include "rootfs/template-internal.h"
#include "rootfs/unpack.h"

/* The lists and the downloads are on tmpfs while a script runs (stack.c). */
const char build_apt_install[] = "set -e\n"
				 "exec >&2\n"
				 "apt-get -q update\n"
				 "apt-get -q install --yes --no-install-recommends \"$@\"\n";

void build_step(struct build *b, const char *fmt, ...)
{
	va_list ap;
	int n = snprintf(b->step, sizeof(b->step), "%s: ", b->name);

	va_start(ap, fmt);
	(void)vsnprintf(b->step + n, sizeof(b->step) - (size_t)n, fmt, ap);
	va_end(ap);
	b->last_detail_us = clock_mono_us();
	if (b->o->progress)
		b->o->progress(b->o->progress_arg, b->step, NULL);
}

bool build_reuse(struct build *b, const char *recipe)
{
	if (b->n == TEMPLATE_MAX_LAYERS)
		return false;
	if (layer_find(b->env.state_fd, recipe, b->force ? b->o->force_since_ms : 0, &b->stack[b->n]) < 0)
		return false;
	b->n++;
	return true;
}

int build_push(struct build *b, struct layer_new *n, const char *digest, uint64_t size, const struct layer_facts *f,
	       struct err *e)
{
	int r;

	if (b->n == TEMPLATE_MAX_LAYERS)
		return err_set(e, ERR_INTERNAL, E2BIG, NULL, "too many layers");
	build_step(b, "writing the layer to disk");
	r = layer_commit(n, digest, size, f, &b->stack[b->n], e);
	if (r == 0)
		b->n++;
	return r;
}

static void show_line(void *arg, const char *line)
{
	struct build *b = arg;

	/* About once a second: a package manager says more than a person reads. */
	if (!b->o->progress || clock_mono_us() - b->last_detail_us < 1000000)
		return;
	b->last_detail_us = clock_mono_us();
	b->o->progress(b->o->progress_arg, b->step, line);
}

static void show_unpack(void *arg, uint64_t bytes, uint64_t entries)
{
	char line[96];

	(void)snprintf(line, sizeof(line), "%llu MB, %llu files", (unsigned long long)(bytes >> 20),
		       (unsigned long long)entries);
	show_line(arg, line);
}

void build_unpack_spec(struct build *b, const struct layer_new *n, struct unpack_spec *ret)
{
	*ret = (struct unpack_spec){
		.root_fd = n->root_fd,
		.sandbox_uid = b->env.sandbox_uid,
		.single_id = b->env.single_id,
		.limits = { .max_bytes = 4ull << 30, .max_entries = 1000000 },
		.progress = show_unpack,
		.progress_arg = b,
	};
}

void build_call_fill(struct build *b, const struct layer_new *n, const struct build_script *s, struct build_call *ret)
{
	size_t k = 0;

	ret->argv[k++] = "/bin/sh";
	ret->argv[k++] = "-c";
	ret->argv[k++] = s->text;
	ret->argv[k++] = s->doing;
	for (size_t i = 0; s->args && s->args[i] && i < BUILD_MAX_ARGS; i++)
		ret->argv[k++] = s->args[i];
	for (size_t i = 0; i < b->n; i++)
		ret->layers[i] = b->stack[b->n - 1 - i].id;
	ret->spec = (struct stack_spec){
		.env = &b->env,
		.layers = ret->layers,
		.n_layers = s->on_host ? 0 : b->n,
		.upper = n,
		.argv = ret->argv,
		.vars = s->vars,
		.stdin_fd = s->stdin_fd,
		.timeout_s = s->timeout_s,
		.line = show_line,
		.line_arg = b,
	};
}

int build_script_run(struct build *b, const struct layer_new *n, const struct build_script *s, struct buf *out,
		     struct err *e)
{
	struct build_call c = { .argv = { NULL } };
	int r;

	build_step(b, "%s", s->doing);
	build_call_fill(b, n, s, &c);
	r = stack_run(&c.spec, out, e);
	if (r < 0)
		err_prefix(e, "%s", s->doing);
	return r;
}

static int build_for(struct build *b, struct err *e)
{
	int r = build_base(b, e);

	if (r < 0)
		return r;
	if (strcmp(b->name, "python-3.12-bare") == 0)
		return build_python_bare(b, e);
	if (strcmp(b->name, "python-3.12") == 0) {
		r = build_python_bare(b, e);
		return r < 0 ? r : build_python_libs(b, e);
	}
	if (strcmp(b->name, "node-22") == 0)
		return build_node(b, e);
	return 0; /* ubuntu-24.04 is the base itself */
}

int template_build(const struct template_ops *o, const char *name, bool force, struct err *e)
{
	_cleanup_free_ struct layer_info *stack = calloc(TEMPLATE_MAX_LAYERS + 1, sizeof(*stack));
	_cleanup_close_ int lock = -1;
	struct template *there = NULL;
	struct build b = {
		.o = o,
		.env = { o->state_fd, o->sandbox_uid, o->single_id },
		.name = name,
		.force = force,
		.stack = stack,
	};
	int r;

	if (!template_is_cloud(name))
		return err_set(
			e, ERR_INVALID, EINVAL, NULL,
			"there is no recipe for template %s; build knows python-3.12, python-3.12-bare, node-22 and "
			"ubuntu-24.04, and `template import` takes any archive",
			name);
	if (!stack)
		return err_set(e, ERR_CAPACITY, ENOMEM, NULL, "out of memory");
	if (!o->sources)
		return err_set(e, ERR_INTERNAL, EINVAL, NULL, "no sources to build from");
	lock = layer_lock(o->state_fd, e);
	if (lock < 0)
		return lock;
	if (!force && template_load(o->state_fd, name, &there, NULL) == 0) {
		template_free(there);
		build_step(&b, "is there already (--force builds it again)");
		return 0;
	}
	r = build_for(&b, e);
	/* Only this name promises a distribution. */
	if (strcmp(name, "ubuntu-24.04") != 0)
		b.stack[0].facts.stand_in[0] = '\0';
	if (r == 0)
		r = template_save(o->state_fd, name, b.stack, b.n, e);
	if (r == 0)
		r = template_sweep_layers(o->state_fd, e);
	if (r == 0)
		build_step(&b, "ready");
	else
		err_prefix(e, "%s", name);
	return r;
}
