#pragma once
/* Part of sandbox_fakes.h, which includes it: the snapshots. */

/* ---- snapshots: a mark per sandbox in the state dir, made in a worker ---- */

static uint64_t snapshot_takes_ms;
static struct snapshot_info snapshot_saved; /* what snapshot_load says; id "": there is none */

int snapshot_write(const struct snapshot_dir *dir, const struct snapshot_spec *s, struct snapshot_info *ret _unused_,
		   struct err *e)
{
	int fd;

	(void)usleep((unsigned int)snapshot_takes_ms * 1000);
	if (strcmp(fail_step, "snapshot") == 0)
		return err_set(e, ERR_FULL, ENOSPC, NULL, "snapshot failed");
	fd = openat(dir->state_fd, s->id, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	return fd < 0 ? -EIO : close(fd);
}

static _unused_ bool snapshot_there(const char *id)
{
	return faccessat(state_fd, id, F_OK, 0) == 0;
}

int snapshot_load(const struct snapshot_dir *dir _unused_, const char *id, struct snapshot_info *ret, struct err *e)
{
	if (strcmp(snapshot_saved.id, id) != 0)
		return err_set(e, ERR_NOT_FOUND, ENOENT, NULL, "no snapshot");
	*ret = snapshot_saved;
	return 0;
}

int snapshot_unpack(const struct snapshot_dir *dir _unused_, const struct snapshot_info *i _unused_,
		    const char *slot _unused_, uid_t uid _unused_, bool single _unused_,
		    const volatile bool *cancelled _unused_, struct err *e)
{
	return strcmp(fail_step, "unpack") == 0
		       ? err_set(e, ERR_UNAVAILABLE, EBADMSG, "snapshot_damaged", "unpack failed")
		       : 0;
}

int snapshot_discard(const struct snapshot_dir *dir _unused_, const char *id, struct err *e _unused_)
{
	note("discard");
	(void)unlinkat(state_fd, id, 0);
	return 0;
}

int snapshot_reclaim(const struct snapshot_dir *dir _unused_,
		     enum snapshot_fate (*fate)(void *arg, const char *id) _unused_, void *arg _unused_,
		     struct err *e _unused_)
{
	return 0;
}

int snapshot_sweep(const struct snapshot_dir *dir _unused_, enum snapshot_fate (*fate)(void *arg, const char *id),
		   void *arg, struct err *e _unused_)
{
	if (snapshot_saved.id[0] && fate(arg, snapshot_saved.id) != SNAPSHOT_KEEP)
		note("swept");
	return 0;
}

static bool snapshot_taken; /* somebody else has it */

int snapshot_claim(const struct snapshot_dir *dir _unused_, const char *id _unused_, struct err *e)
{
	return snapshot_taken ? err_set(e, ERR_NOT_FOUND, ENOENT, "snapshot_gone", "taken") : 0;
}

int snapshot_unclaim(const struct snapshot_dir *dir _unused_, const char *id _unused_, struct err *e _unused_)
{
	return 0;
}

bool snapshot_available(const struct snapshot_dir *dir _unused_, const char *id _unused_)
{
	return !snapshot_taken;
}

int snapshot_each(const struct snapshot_dir *dir _unused_, void (*fn)(void *arg, const char *id) _unused_,
		  void *arg _unused_, struct err *e _unused_)
{
	return 0;
}

int snapshot_empty_trash(const struct snapshot_dir *dir _unused_, struct err *e _unused_)
{
	return 0;
}

int snapshot_manifest(const struct snapshot_dir *dir _unused_, const char *id _unused_, struct json_object **ret,
		      struct err *e _unused_)
{
	*ret = json_object_new_object();
	return 0;
}

int snapshot_lost(int dir _unused_, const char *slot _unused_, struct json_object **ret _unused_, struct err *e)
{
	return err_set(e, ERR_NOT_FOUND, ENOENT, NULL, "nothing was lost");
}

bool snapshot_read_info(struct json_object *manifest _unused_, struct snapshot_info *ret)
{
	*ret = snapshot_saved;
	return snapshot_saved.id[0];
}

bool snapshot_id_valid(const char *id)
{
	return *id;
}
