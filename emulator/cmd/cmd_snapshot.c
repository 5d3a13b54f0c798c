/* `snapshot`: what paused sandboxes are kept as, looked at and moved about with or without a running emulator.
 *
 * Nothing is asked of the emulator and nothing is locked against it: a snapshot is two files, and who renames one of
 * them has it (rootfs/snapshot_dir.h). A running emulator notices at once, another one at its next start.
 *
 *   caller's rights   options, the state dir, the folder of snapshots, the file that is read or written
 *   E's 0             the work itself, with those fds; the file written has no name until it is whole */

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "emulator/account.h"
#include "emulator/base/clock.h"
#include "emulator/base/text.h"
#include "emulator/cmd/cmd.h"
#include "emulator/idmap.h"
#include "emulator/snapshot_row.h"
#include "emulator/statedir.h"
#include "rootfs/json.h"
#include "rootfs/newfile.h"
#include "rootfs/snapshot_archive.h"
#include "rootfs/snapshot_oci.h"
#include "rootfs/template.h"
#include "rootfs/tree.h"

static const char help_text[] =
	"Usage: orkestr-emulator snapshot COMMAND [OPTION]...\n"
	"\n"
	"A paused sandbox is kept as a snapshot: its disk's difference to its template, and a manifest.\n"
	"\n"
	"  list [--json]             what is here\n"
	"  export ID FILE            into one file that `import` reads, elsewhere too. FILE may be - (standard "
	"output)\n"
	"  export --oci ID FILE      into an OCI image archive: the template's layers and the sandbox's own, for\n"
	"                            skopeo, umoci and container engines (skopeo inspect oci-archive:FILE)\n"
	"  import FILE               as a new paused sandbox, whose id is printed; a resume brings its disk back,\n"
	"                            without the processes. FILE may be - (standard input)\n"
	"  rm ID...                  its sandbox is then terminated\n"
	"\n"
	"  --state-dir DIR     the emulator's state dir (default: the one that serve uses)\n"
	"  --snapshot-dir DIR  the folder given to serve --snapshot-dir, if one was\n"
	"  --key KEY           import: the sandbox is that API key's (default: the same key's as before)\n"
	"  --account ID        import: the same by the account's id, which list shows\n"
	"  --without-env       export: leave the values of env out, which may be secrets (--oci never has them)\n"
	"  --tag NAME          export --oci: the image's name in the archive (default: latest)\n"
	"  -h, --help          this text\n"
	"\n"
	"All of it works while an emulator runs on that state dir, and without one. Nothing is locked: a snapshot is\n"
	"taken by renaming its manifest, which only one can do. A running emulator notices at once; else the next\n"
	"start does. An export of a sandbox that is resumed meanwhile is whole, and that of the pause.\n"
	"An import unpacks everything once to see that a resume will work, and refuses what is damaged, hostile, or\n"
	"made of a template that is not here.\n";

struct options {
	const char *state_dir, *snapshot_dir, *key, *account, *tag;
	bool json, oci, without_env, help;
	struct cmd_rest rest;
};

struct work {
	struct options o;
	const char *command;
	int (*run)(struct work *w, struct err *e);
	struct snapshot_dir d;
	struct layer_env env;
	int shared_fd, file_fd;
	char account[ACCOUNT_ID_SIZE]; /* "": the manifest's */
};

/* ---- list ---- */

struct listing {
	struct work *w;
	struct json_object *array; /* or NULL: a table */
	size_t n;
	bool failed;
};

static const char *member(struct json_object *o, const char *key, char *ret, size_t cap)
{
	return json_get_string(o, key, ret, cap) < 0 ? "-" : ret;
}

static size_t count_of(struct json_object *o, const char *key)
{
	struct json_object *a;

	return json_object_object_get_ex(o, key, &a) && json_object_is_type(a, json_type_array)
		       ? json_object_array_length(a)
		       : 0;
}

static void list_one(void *arg, const char *id)
{
	struct listing *l = arg;
	struct json_object *o = NULL, *row = NULL;
	char account[64] = "-", paused[64];
	struct snapshot_info i;
	struct err e = ERR_INIT;

	if (snapshot_load(&l->w->d, id, &i, &e) < 0 || snapshot_manifest(&l->w->d, id, &o, &e) < 0) {
		l->failed |= e.kind != ERR_NOT_FOUND; /* else it was taken just now */
		if (e.kind != ERR_NOT_FOUND)
			(void)fprintf(stderr, "orkestr-emulator snapshot list: %s\n", e.msg);
		return;
	}
	if (json_object_object_get_ex(o, "row", &row))
		(void)json_get_string(row, "account", account, sizeof(account));
	if (l->array) {
		json_object_object_del(o, "row");
		(void)json_put(o, "account", json_object_new_string(account));
		(void)json_object_array_add(l->array, o);
		return;
	}
	if (l->n++ == 0)
		(void)printf("%-31s %-21s %-25s %-20s %9s %9s\n", "ID", "ACCOUNT", "PAUSED", "TEMPLATE", "SIZE",
			     "PROCESSES");
	(void)printf("%-31s %-21s %-25s %-20s %6.1f MB %9zu\n", id, account,
		     member(o, "paused_at", paused, sizeof(paused)), i.template_name, (double)i.size_bytes / 1e6,
		     count_of(o, "processes"));
	json_object_put(o);
}

static int run_list(struct work *w, struct err *e)
{
	struct listing l = { .w = w, .array = w->o.json ? json_object_new_array() : NULL };
	int r = MIN(snapshot_each(&w->d, list_one, &l, e), 0);

	if (l.array && r == 0)
		(void)printf("%s\n", json_object_to_json_string_ext(l.array, JSON_C_TO_STRING_PRETTY |
										     JSON_C_TO_STRING_NOSLASHESCAPE));
	else if (r == 0 && l.n == 0)
		(void)puts("No snapshots.");
	json_object_put(l.array);
	if (r == 0 && l.failed)
		return err_set(e, ERR_INVALID, EBADMSG, NULL, "some are damaged");
	return r;
}

/* ---- export ---- */

static int run_export(struct work *w, struct err *e)
{
	_cleanup_snapshot_ struct snapshot_open s = SNAPSHOT_OPEN_INIT;
	struct json_object *row;
	int r = snapshot_open(&w->d, w->o.rest.v[0], &s, e);

	if (r < 0)
		return r;
	if (w->o.oci)
		return snapshot_export_oci(&s, &w->env, w->o.tag ? w->o.tag : "latest", w->file_fd, e);
	if (w->o.without_env && json_object_object_get_ex(s.manifest, "row", &row) &&
	    !json_put(row, "env", json_object_new_object()))
		return err_errno(e, ENOMEM, "export");
	return snapshot_export(&s, w->file_fd, e);
}

/* ---- import ---- */

static int check_manifest(void *arg, struct json_object *manifest, const struct snapshot_info *i, struct err *e)
{
	struct work *w = arg;
	struct sandbox_row row = { 0 };
	struct template *t = NULL;
	struct json_object *o;
	int r;

	if (w->account[0] && json_object_object_get_ex(manifest, "row", &o) &&
	    json_object_is_type(o, json_type_object) && !json_put(o, "account", json_object_new_string(w->account)))
		return err_errno(e, ENOMEM, "import");
	r = snapshot_row_from_json(manifest, &row, e);
	sandbox_row_clear(&row);
	if (r == 0)
		r = snapshot_template(w->env.state_fd, i, &t, e);
	template_free(t);
	return r;
}

static int run_import(struct work *w, struct err *e)
{
	struct snapshot_import s = {
		.d = &w->d, .env = &w->env, .in_fd = w->file_fd, .check = check_manifest, .arg = w
	};
	char ulid[TEXT_ULID_SIZE], id[SNAPSHOT_ID_SIZE];
	int r;

	text_ulid(clock_real_ms(), ulid);
	(void)text_format(id, sizeof(id), "sbx_%s", ulid);
	s.id = id;
	r = snapshot_import(&s, e);
	if (r == 0)
		(void)puts(id);
	return r;
}

/* ---- rm ---- */

static int run_rm(struct work *w, struct err *e)
{
	int r = 0;

	for (int i = 0; r == 0 && i < w->o.rest.n; i++) {
		if (!snapshot_available(&w->d, w->o.rest.v[i]))
			return err_set(e, ERR_NOT_FOUND, ENOENT, NULL, "there is no snapshot %.40s", w->o.rest.v[i]);
		r = snapshot_remove(&w->d, w->o.rest.v[i], e);
		if (r == 0)
			(void)printf("%s\n", w->o.rest.v[i]);
	}
	return r;
}

/* ---- in E ---- */

static int in_userns(void *arg)
{
	struct work *w = arg;
	struct err e = ERR_INIT;
	int r = tree_prepare_state(w->env.state_fd, &e);

	if (r == 0)
		r = snapshot_dir_open(w->env.state_fd, w->shared_fd, NULL, &w->d, &e);
	if (r == 0)
		r = w->run(w, &e);
	snapshot_dir_close(&w->d);
	if (r == 0 && (fflush(stdout) != 0 || ferror(stdout)))
		r = err_errno(&e, errno, "cannot write the output");
	if (r == 0)
		return CMD_OK;
	(void)fprintf(stderr, "orkestr-emulator snapshot %s: %s\n", w->command, e.msg);
	return CMD_FAILED;
}

static int run(struct work *w)
{
	_cleanup_close_ int state_fd = -1;
	struct err e = ERR_INIT;
	char path[PATH_MAX];
	struct idmap m;
	int r;

	idmap_choose(&m);
	r = strcmp(w->command, "import") == 0
		    ? statedir_open(w->o.state_dir, &m, &state_fd, path, sizeof(path), &e)
		    : statedir_open_existing(w->o.state_dir, &m, &state_fd, path, sizeof(path), &e);
	if (r >= 0 && w->o.snapshot_dir)
		r = statedir_open_snapshots(w->o.snapshot_dir, &m, false, &w->shared_fd, &e);
	w->env = (struct layer_env){ .state_fd = state_fd,
				     .sandbox_uid = idmap_sandbox_uid(&m, 0),
				     .single_id = m.kind == IDMAP_SINGLE };
	if (r >= 0)
		r = cmd_in_userns(&m, in_userns, w, &e);
	closep(&w->shared_fd);
	if (r >= 0)
		return r;
	(void)fprintf(stderr, "orkestr-emulator snapshot %s: %s\n", w->command, e.msg);
	return CMD_FAILED;
}

static int file_failed(const struct work *w, const char *file, int errnum)
{
	(void)fprintf(stderr, "orkestr-emulator snapshot %s: %s: %s\n", w->command, file, strerror(errnum));
	return CMD_FAILED;
}

/* The file appears when it is whole, with the caller's rights. */
static int export_to(struct work *w, const char *file)
{
	_cleanup_newfile_ struct newfile f = NEWFILE_INIT;
	_cleanup_close_ int dirfd = -1;
	const char *slash = strrchr(file, '/'), *base = slash ? slash + 1 : file;
	char dir[PATH_MAX];
	int r;

	if (strcmp(file, "-") == 0) {
		w->file_fd = STDOUT_FILENO;
		return isatty(STDOUT_FILENO) ? file_failed(w, "standard output is a terminal", EINVAL) : run(w);
	}
	if (!*base ||
	    text_format(dir, sizeof(dir), "%.*s", slash ? (int)(slash - file) + 1 : 1, slash ? file : ".") < 0)
		return file_failed(w, file, EINVAL);
	dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = dirfd < 0 ? -errno : newfile_open(&f, dirfd);
	if (r < 0)
		return file_failed(w, file, -r);
	w->file_fd = f.fd;
	r = run(w);
	if (r != CMD_OK)
		return r;
	r = fsync(f.fd) < 0 ? -errno : newfile_publish(&f, base, false);
	return r < 0 ? file_failed(w, file, -r) : CMD_OK;
}

static int import_from(struct work *w, const char *file)
{
	_cleanup_close_ int fd = -1;

	w->file_fd = STDIN_FILENO;
	if (strcmp(file, "-") != 0) {
		fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY);
		if (fd < 0)
			return file_failed(w, file, errno);
		w->file_fd = fd;
	}
	return run(w);
}

/* ---- the command line ---- */

static int set_account(struct work *w, struct err *e)
{
	if (w->o.key && w->o.account)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "give either --key or --account");
	if (w->o.key)
		return account_id_of(w->o.key, w->account, e);
	if (!w->o.account)
		return 0;
	if (!account_id_valid(w->o.account))
		return err_set(e, ERR_INVALID, EINVAL, NULL,
			       "--account must be an account's id, acc_..., as list shows it");
	return text_format(w->account, sizeof(w->account), "%s", w->o.account) < 0 ? -EINVAL : 0;
}

/* Image names in a layout: image-spec, "org.opencontainers.image.ref.name". */
static bool tag_valid(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

	return n > 0 && n <= 128 && !s[n] && s[0] != '.' && s[0] != '-';
}

static int check_options(struct work *w, int min, int max, struct err *e)
{
	const char *c = w->command;
	const struct options *o = &w->o;

	if (o->rest.n < min || o->rest.n > max)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "%s",
			       strcmp(c, "export") == 0	  ? "export needs an ID and a FILE"
			       : strcmp(c, "import") == 0 ? "import needs a FILE"
			       : strcmp(c, "rm") == 0	  ? "rm needs an ID"
							  : "list takes no argument");
	if ((o->json && strcmp(c, "list") != 0) || ((o->oci || o->without_env || o->tag) && strcmp(c, "export") != 0) ||
	    ((o->key || o->account) && strcmp(c, "import") != 0))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "an option given is not one of %s", c);
	if (o->tag && (!o->oci || !tag_valid(o->tag)))
		return err_set(e, ERR_INVALID, EINVAL, NULL,
			       "--tag goes with --oci and is letters, digits, '.', '_' and '-'");
	return set_account(w, e);
}

static int dispatch(struct work *w)
{
	if (strcmp(w->command, "export") == 0) {
		w->run = run_export;
		return export_to(w, w->o.rest.v[1]);
	}
	if (strcmp(w->command, "import") == 0) {
		w->run = run_import;
		return import_from(w, w->o.rest.v[0]);
	}
	w->run = strcmp(w->command, "rm") == 0 ? run_rm : run_list;
	return run(w);
}

int cmd_snapshot(int argc, char **argv)
{
	static const struct {
		const char *name;
		int min, max;
	} commands[] = { { "list", 0, 0 }, { "export", 2, 2 }, { "import", 1, 1 }, { "rm", 1, INT_MAX } };
	struct work w = { .shared_fd = -1, .file_fd = -1, .d = SNAPSHOT_DIR_INIT };
	const struct cmd_option options[] = { CMD_VALUE("state-dir", &w.o.state_dir),
					      CMD_VALUE("snapshot-dir", &w.o.snapshot_dir),
					      CMD_VALUE("key", &w.o.key),
					      CMD_VALUE("account", &w.o.account),
					      CMD_VALUE("tag", &w.o.tag),
					      CMD_FLAG("json", &w.o.json),
					      CMD_FLAG("oci", &w.o.oci),
					      CMD_FLAG("without-env", &w.o.without_env),
					      CMD_HELP(&w.o.help),
					      CMD_END };
	struct err e = ERR_INIT;

	for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(commands); i++) {
		if (strcmp(argv[1], commands[i].name) != 0)
			continue;
		w.command = commands[i].name;
		if (cmd_parse(argc - 1, argv + 1, options, &w.o.rest, &e) < 0)
			return cmd_usage("snapshot", &e);
		if (!w.o.help)
			return check_options(&w, commands[i].min, commands[i].max, &e) < 0 ? cmd_usage("snapshot", &e)
											   : dispatch(&w);
	}
	if (w.o.help || (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))) {
		(void)fputs(help_text, stdout);
		return CMD_OK;
	}
	(void)err_set(&e, ERR_INVALID, EINVAL, NULL, "%s",
		      argc > 1 ? "the commands are list, export, import and rm"
			       : "which one: list, export, import or rm?");
	return cmd_usage("snapshot", &e);
}
