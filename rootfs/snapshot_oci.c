#include "rootfs/snapshot_oci.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/sys.h"
#include "rootfs/json.h"
#include "rootfs/newfile.h"
#include "rootfs/snapshot_inflate.h"
#include "rootfs/snapshot_tape.h"
#include "rootfs/snapshot_tar.h"
#include "rootfs/template.h"

#define LAYER_TYPE "application/vnd.oci.image.layer.v1.tar"
#define CONFIG_TYPE "application/vnd.oci.image.config.v1+json"
#define MANIFEST_TYPE "application/vnd.oci.image.manifest.v1+json"
#define LAYERS_MAX (TEMPLATE_MAX_LAYERS + 1)

struct oci {
	const struct snapshot_open *o;
	const struct layer_env *env;
	struct tape tape;
	int64_t when; /* seconds */
	struct {
		char digest[TEXT_SHA256_SIZE];
		uint64_t size;
	} layers[LAYERS_MAX]; /* the lowest first */
	size_t n_layers;
	struct err *e;
};

int snapshot_template(int state_fd, const struct snapshot_info *i, struct template **ret, struct err *e)
{
	struct template *t = NULL;
	const char *digest;
	int r = template_load(state_fd, i->template_name, &t, e);

	if (r < 0)
		return err_set(e, ERR_UNAVAILABLE, ENOENT, "template_unavailable",
			       "it was made of template \"%s\" (%s), which is not here; build or import that first",
			       i->template_name, i->template_digest);
	digest = t->digest ? t->digest : "";
	if (strcmp(digest, i->template_digest) == 0) {
		*ret = t;
		return 0;
	}
	r = err_set(e, ERR_UNAVAILABLE, ESTALE, "template_unavailable",
		    "it was made of template \"%s\" as it was then (%s); the one here is another (%s)",
		    i->template_name, i->template_digest, digest);
	template_free(t);
	return r;
}

/* ---- layers ---- */

static int add_blob(struct oci *c, const char *digest, int fd, uint64_t size)
{
	char name[96];

	for (size_t i = 0; i < c->n_layers; i++)
		if (strcmp(c->layers[i].digest, digest) == 0)
			return 0; /* it is in already */
	(void)text_format(name, sizeof(name), "blobs/sha256/%s", digest);
	return tape_file(&c->tape, name, fd, size, c->when, c->e);
}

static int add_layer(struct oci *c, const char *digest, int fd, uint64_t size)
{
	int r = add_blob(c, digest, fd, size);

	if (r < 0)
		return r;
	(void)snprintf(c->layers[c->n_layers].digest, sizeof(c->layers[0].digest), "%s", digest);
	c->layers[c->n_layers++].size = size;
	return 0;
}

/* A file without a name: its size and digest must be known before it goes into the archive. */
static int open_scratch(struct oci *c, struct newfile *f)
{
	_cleanup_close_ int trash = openat(c->env->state_fd, "disk/trash", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = trash < 0 ? -errno : newfile_open(f, trash);

	return r < 0 ? err_errno(c->e, -r, "cannot make a file in the state dir") : 0;
}

static int add_template_layer(struct oci *c, const char *id)
{
	_cleanup_newfile_ struct newfile f = NEWFILE_INIT;
	_cleanup_close_ int dir = -1;
	struct snapshot_tar_spec ts = { .sandbox_uid = c->env->sandbox_uid,
					.single_id = c->env->single_id,
					.plain = true };
	struct snapshot_tar_result res;
	char path[64];
	int r;

	if (!layer_id_valid(id))
		return err_set(c->e, ERR_INVALID, EINVAL, NULL, "the template names a layer that can't be");
	(void)text_format(path, sizeof(path), "disk/l/%s", id);
	dir = sys_openat2(c->env->state_fd, path, O_RDONLY | O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	if (dir < 0)
		return err_errno(c->e, -dir, "the template's layer %s", id);
	r = open_scratch(c, &f);
	if (r < 0)
		return r;
	ts.upper_fd = dir;
	ts.out_fd = f.fd;
	r = snapshot_tar_write(&ts, &res, c->e);
	return r < 0 ? r : add_layer(c, res.digest, f.fd, res.tar_bytes);
}

static int add_own_layer(struct oci *c)
{
	_cleanup_newfile_ struct newfile f = NEWFILE_INIT;
	struct snapshot_inflated got;
	int r = open_scratch(c, &f);

	if (r < 0)
		return r;
	r = snapshot_inflate(c->o->tar_fd, f.fd, c->o->info.tar_bytes, &got);
	if (r == -EBADMSG || (r == 0 && strcmp(got.digest, c->o->info.tar_digest) != 0))
		return err_set(c->e, ERR_UNAVAILABLE, EBADMSG, "snapshot_damaged",
			       "the snapshot of %s is damaged: its content is not what was written", c->o->info.id);
	return r < 0 ? err_errno(c->e, -r, "cannot read the layer") : add_layer(c, got.digest, f.fd, got.bytes);
}

static int add_layers(struct oci *c)
{
	struct template *t;
	int r = snapshot_template(c->env->state_fd, &c->o->info, &t, c->e);

	if (r < 0)
		return r;
	for (size_t i = t->n_layers; r == 0 && i > 0; i--) /* the topmost is the first */
		r = add_template_layer(c, t->layers[i - 1]);
	template_free(t);
	return r < 0 ? r : add_own_layer(c);
}

/* ---- the documents ---- */

static const char *architecture(char ret[static 32])
{
	struct utsname u = { 0 };

	(void)uname(&u);
	(void)snprintf(ret, 32, "%.31s",
		       strcmp(u.machine, "x86_64") == 0	   ? "amd64"
		       : strcmp(u.machine, "aarch64") == 0 ? "arm64"
							   : u.machine);
	return ret;
}

static struct json_object *text(const char *s)
{
	return json_object_new_string(s);
}

static struct json_object *descriptor(const char *type, const char *digest, uint64_t size)
{
	struct json_object *o = json_object_new_object();
	char full[TEXT_SHA256_SIZE + 8];

	(void)text_format(full, sizeof(full), "sha256:%s", digest);
	(void)(json_put(o, "mediaType", text(type)) && json_put(o, "digest", text(full)) &&
	       json_put(o, "size", json_object_new_uint64(size)));
	return o;
}

static struct json_object *config_document(const struct oci *c)
{
	struct json_object *o = json_object_new_object(), *fs = json_object_new_object(),
			   *ids = json_object_new_array(), *run = json_object_new_object(),
			   *cmd = json_object_new_array(), *history = json_object_new_array();
	char iso[CLOCK_ISO_SIZE], arch[32], full[TEXT_SHA256_SIZE + 8];

	clock_iso(c->o->info.paused_ms, iso);
	for (size_t i = 0; i < c->n_layers; i++) {
		struct json_object *h = json_object_new_object();

		(void)text_format(full, sizeof(full), "sha256:%s", c->layers[i].digest);
		(void)json_object_array_add(ids, text(full));
		(void)json_put(h, "created", text(iso));
		(void)json_put(h, "created_by", text(i + 1 == c->n_layers ? c->o->info.id : c->o->info.template_name));
		(void)json_object_array_add(history, h);
	}
	(void)json_object_array_add(cmd, text("/bin/sh"));
	(void)(json_put(run, "Cmd", cmd) && json_put(run, "WorkingDir", text("/workspace")));
	(void)(json_put(fs, "type", text("layers")) && json_put(fs, "diff_ids", ids));
	(void)(json_put(o, "created", text(iso)) && json_put(o, "architecture", text(architecture(arch))) &&
	       json_put(o, "os", text("linux")) && json_put(o, "config", run) && json_put(o, "rootfs", fs) &&
	       json_put(o, "history", history));
	return o;
}

static struct json_object *manifest_document(const struct oci *c, const char *config_digest, size_t config_size)
{
	struct json_object *o = json_object_new_object(), *layers = json_object_new_array(),
			   *notes = json_object_new_object();

	for (size_t i = 0; i < c->n_layers; i++)
		(void)json_object_array_add(layers, descriptor(LAYER_TYPE, c->layers[i].digest, c->layers[i].size));
	(void)(json_put(notes, "eu.orkestr.emulator.sandbox", text(c->o->info.id)) &&
	       json_put(notes, "eu.orkestr.emulator.template", text(c->o->info.template_name)) &&
	       json_put(notes, "eu.orkestr.emulator.template.digest", text(c->o->info.template_digest)));
	(void)(json_put(o, "schemaVersion", json_object_new_int(2)) && json_put(o, "mediaType", text(MANIFEST_TYPE)) &&
	       json_put(o, "config", descriptor(CONFIG_TYPE, config_digest, config_size)) &&
	       json_put(o, "layers", layers) && json_put(o, "annotations", notes));
	return o;
}

/* Adds a document as a blob (name NULL) or under its name. Puts o. */
static int add_document(struct oci *c, const char *name, struct json_object *o,
			char ret_digest[static TEXT_SHA256_SIZE], size_t *ret_size)
{
	const char *s = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	char blob[96];
	int r;

	if (!s) {
		json_object_put(o);
		return err_errno(c->e, ENOMEM, "export");
	}
	*ret_size = strlen(s);
	text_sha256(s, *ret_size, ret_digest);
	(void)text_format(blob, sizeof(blob), "blobs/sha256/%s", ret_digest);
	r = tape_text(&c->tape, name ? name : blob, s, *ret_size, c->when, c->e);
	json_object_put(o);
	return r;
}

static int add_documents(struct oci *c, const char *tag)
{
	static const char layout[] = "{\"imageLayoutVersion\":\"1.0.0\"}";
	struct json_object *index, *list, *d, *notes;
	char digest[TEXT_SHA256_SIZE];
	size_t size = 0;
	int r = add_document(c, NULL, config_document(c), digest, &size);

	if (r == 0)
		r = add_document(c, NULL, manifest_document(c, digest, size), digest, &size);
	if (r < 0)
		return r;
	index = json_object_new_object();
	list = json_object_new_array();
	notes = json_object_new_object();
	d = descriptor(MANIFEST_TYPE, digest, size);
	(void)(json_put(notes, "org.opencontainers.image.ref.name", text(tag)) && json_put(d, "annotations", notes));
	(void)json_object_array_add(list, d);
	(void)(json_put(index, "schemaVersion", json_object_new_int(2)) && json_put(index, "manifests", list));
	r = add_document(c, "index.json", index, digest, &size);
	return r < 0 ? r : tape_text(&c->tape, "oci-layout", layout, strlen(layout), c->when, c->e);
}

int snapshot_export_oci(const struct snapshot_open *o, const struct layer_env *env, const char *tag, int out_fd,
			struct err *e)
{
	struct oci c = { .o = o, .env = env, .when = o->info.paused_ms / 1000, .e = e };
	int r = tape_open(&c.tape, out_fd, e);

	/* Podman's and skopeo's reader gives a folder that is not in the archive to root, which only root can do. */
	if (r == 0)
		r = tape_folder(&c.tape, "blobs", c.when, e);
	if (r == 0)
		r = tape_folder(&c.tape, "blobs/sha256", c.when, e);
	if (r == 0)
		r = add_layers(&c);
	if (r == 0)
		r = add_documents(&c, tag);
	return tape_close(&c.tape, r, e);
}
