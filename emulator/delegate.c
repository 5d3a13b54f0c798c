/* sd-bus by dlopen: a table of the functions used here. The manager's private socket is asked first: it
 * needs no D-Bus daemon (minimal Debian has none for users) and answers faster; the bus is the documented
 * way and comes second. Interface: org.freedesktop.systemd1(5). */

#include "emulator/delegate.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <systemd/sd-bus.h>
#include <time.h>

#include "emulator/base/clock.h"
#include "emulator/base/text.h"

#define DELEGATE_TIMEOUT_US 5000000
#define SYSTEMD "org.freedesktop.systemd1"
#define MANAGER_PATH "/org/freedesktop/systemd1"
#define MANAGER "org.freedesktop.systemd1.Manager"

struct sdbus {
	void *lib;
	__typeof__(sd_bus_new) *new;
	__typeof__(sd_bus_set_address) *set_address;
	__typeof__(sd_bus_set_bus_client) *set_bus_client;
	__typeof__(sd_bus_start) *start;
	__typeof__(sd_bus_set_method_call_timeout) *set_timeout;
	__typeof__(sd_bus_flush_close_unref) *close;
	__typeof__(sd_bus_call_method) *call_method;
	__typeof__(sd_bus_call) *call;
	__typeof__(sd_bus_message_new_method_call) *new_call;
	__typeof__(sd_bus_message_append) *append;
	__typeof__(sd_bus_message_read) *read;
	__typeof__(sd_bus_message_unref) *unref;
	__typeof__(sd_bus_match_signal) *match_signal;
	__typeof__(sd_bus_slot_unref) *slot_unref;
	__typeof__(sd_bus_process) *process;
	__typeof__(sd_bus_wait) *wait;
	__typeof__(sd_bus_get_property_string) *get_string;
	__typeof__(sd_bus_error_has_name) *error_has_name;
	__typeof__(sd_bus_error_free) *error_free;
};

static void unload(struct sdbus *s)
{
	if (s->lib)
		(void)dlclose(s->lib);
	s->lib = NULL;
}

static int load(struct sdbus *s, struct err *e)
{
	const struct {
		const char *name;
		void *at;
	} symbols[] = {
		{ "sd_bus_new", &s->new },
		{ "sd_bus_set_address", &s->set_address },
		{ "sd_bus_set_bus_client", &s->set_bus_client },
		{ "sd_bus_start", &s->start },
		{ "sd_bus_set_method_call_timeout", &s->set_timeout },
		{ "sd_bus_flush_close_unref", &s->close },
		{ "sd_bus_call_method", &s->call_method },
		{ "sd_bus_call", &s->call },
		{ "sd_bus_message_new_method_call", &s->new_call },
		{ "sd_bus_message_append", &s->append },
		{ "sd_bus_message_read", &s->read },
		{ "sd_bus_message_unref", &s->unref },
		{ "sd_bus_match_signal", &s->match_signal },
		{ "sd_bus_slot_unref", &s->slot_unref },
		{ "sd_bus_process", &s->process },
		{ "sd_bus_wait", &s->wait },
		{ "sd_bus_get_property_string", &s->get_string },
		{ "sd_bus_error_has_name", &s->error_has_name },
		{ "sd_bus_error_free", &s->error_free },
	};

	s->lib = dlopen("libsystemd.so.0", RTLD_NOW | RTLD_LOCAL);
	if (!s->lib)
		return err_set(e, ERR_UNAVAILABLE, ENOENT, NULL,
			       "libsystemd.so.0 is missing, so systemd can't be asked for a cgroup: "
			       "sudo apt-get install libsystemd0");
	for (size_t i = 0; i < ARRAY_SIZE(symbols); i++) {
		void *p = dlsym(s->lib, symbols[i].name);

		if (!p)
			return err_set(e, ERR_UNAVAILABLE, ENOSYS, NULL, "libsystemd.so.0 is too old: no %s",
				       symbols[i].name);
		memcpy(symbols[i].at, &p, sizeof(p)); /* dlsym(3): how ISO C allows it */
	}
	return 0;
}

bool delegate_systemd_runs(void)
{
	struct stat st;

	return lstat("/run/systemd/system", &st) == 0 && S_ISDIR(st.st_mode);
}

static int connect_to(const struct sdbus *s, const char *address, bool is_bus, sd_bus **ret)
{
	sd_bus *bus = NULL;
	int k = s->new (&bus);

	if (k >= 0)
		k = s->set_address(bus, address);
	if (k >= 0)
		k = s->set_bus_client(bus, is_bus);
	if (k >= 0)
		k = s->set_timeout(bus, DELEGATE_TIMEOUT_US);
	if (k >= 0)
		k = s->start(bus);
	/* The first call shows whether anyone listens behind the socket. Over a bus, signals are sent only
	 * to who has subscribed. */
	if (k >= 0)
		k = s->call_method(bus, SYSTEMD, MANAGER_PATH, MANAGER, "Subscribe", NULL, NULL, NULL);
	if (k < 0) {
		if (bus)
			s->close(bus);
		return k;
	}
	*ret = bus;
	return 0;
}

/* The user's runtime folder: what the environment says if it is the user's own, else the usual place. */
static const char *runtime_dir(char *ret, size_t cap)
{
	const char *dir = getenv("XDG_RUNTIME_DIR");
	struct stat st;

	if (dir && *dir == '/' && stat(dir, &st) == 0 && st.st_uid == geteuid() && text_format(ret, cap, "%s", dir) > 0)
		return ret;
	return text_format(ret, cap, "/run/user/%u", geteuid()) > 0 ? ret : NULL;
}

static int connect_manager(const struct sdbus *s, sd_bus **ret, struct err *e)
{
	char dir[PATH_MAX / 4], priv[PATH_MAX], bus[PATH_MAX];
	bool root = geteuid() == 0;
	int k;

	if (root) {
		(void)text_format(priv, sizeof(priv), "unix:path=/run/systemd/private");
		(void)text_format(bus, sizeof(bus), "unix:path=/run/dbus/system_bus_socket");
	} else {
		if (!runtime_dir(dir, sizeof(dir)))
			return err_set(e, ERR_INVALID, ENAMETOOLONG, NULL, "XDG_RUNTIME_DIR is too long");
		(void)text_format(priv, sizeof(priv), "unix:path=%s/systemd/private", dir);
		(void)text_format(bus, sizeof(bus), "unix:path=%s/bus", dir);
	}
	k = connect_to(s, priv, false, ret);
	if (k < 0)
		k = connect_to(s, bus, true, ret);
	if (k >= 0)
		return 0;
	if (root)
		return err_set(e, ERR_UNAVAILABLE, -k, NULL, "systemd does not answer (%s)", strerror(-k));
	return err_set(
		e, ERR_UNAVAILABLE, -k, NULL,
		"this user has no systemd session to ask for a cgroup (%s): log in on a console or by ssh, or run "
		"'sudo loginctl enable-linger $USER' once",
		strerror(-k));
}

/* One job and its end, as JobRemoved tells it. */
struct job {
	const struct sdbus *s;
	char path[128]; /* object path; empty until the call has returned */
	char early[8][128];
	char early_result[8][16]; /* signals that came before that */
	size_t n_early;
	char result[16]; /* "done", "failed", ...; empty while it runs */
};

static int on_job_removed(sd_bus_message *m, void *userdata, _unused_ sd_bus_error *error)
{
	const char *path, *unit, *result;
	struct job *j = userdata;
	uint32_t id;

	if (j->s->read(m, "uoss", &id, &path, &unit, &result) < 0)
		return 0;
	if (j->path[0] && strcmp(j->path, path) == 0)
		(void)snprintf(j->result, sizeof(j->result), "%s", result);
	else if (!j->path[0] && j->n_early < ARRAY_SIZE(j->early)) {
		(void)snprintf(j->early[j->n_early], sizeof(j->early[0]), "%s", path);
		(void)snprintf(j->early_result[j->n_early++], sizeof(j->early_result[0]), "%s", result);
	}
	return 0;
}

static int wait_job(const struct sdbus *s, sd_bus *bus, struct job *j, const char *path, struct err *e)
{
	int64_t until = clock_mono_us() + DELEGATE_TIMEOUT_US, left;
	int k = 0;

	(void)snprintf(j->path, sizeof(j->path), "%s", path);
	for (size_t i = 0; i < j->n_early; i++)
		if (strcmp(j->early[i], path) == 0)
			(void)snprintf(j->result, sizeof(j->result), "%s", j->early_result[i]);
	while (!j->result[0] && k >= 0) {
		k = s->process(bus, NULL);
		if (k != 0)
			continue;
		left = until - clock_mono_us();
		if (left <= 0)
			return err_set(e, ERR_TIMEOUT, ETIMEDOUT, NULL, "systemd did not start the scope within 5 s");
		k = s->wait(bus, (uint64_t)left);
		if (k == -EINTR)
			k = 0;
	}
	if (k < 0)
		return err_errno(e, -k, "waiting for systemd");
	if (strcmp(j->result, "done") != 0)
		return err_set(e, ERR_UNAVAILABLE, ECANCELED, NULL, "systemd did not start the scope: %s", j->result);
	return 0;
}

static int new_scope_call(const struct sdbus *s, sd_bus *bus, const char *unit, sd_bus_message **ret)
{
	sd_bus_message *m = NULL;
	int k = s->new_call(bus, &m, SYSTEMD, MANAGER_PATH, MANAGER, "StartTransientUnit");

	/* No limit of tasks on the whole: each sandbox has its own. Gone from systemd's memory when it ends,
	 * however it ends, so that the name is free again. */
	if (k >= 0)
		k = s->append(m, "ssa(sv)a(sa(sv))", unit, "fail", 5, "Description", "s", "orkestr-emulator",
			      "Delegate", "b", 1, "PIDs", "au", 1, (uint32_t)getpid(), "CollectMode", "s",
			      "inactive-or-failed", "TasksMax", "t", UINT64_MAX, 0);
	if (k < 0) {
		if (m)
			s->unref(m);
		return k;
	}
	*ret = m;
	return 0;
}

static int start_scope(const struct sdbus *s, sd_bus *bus, const char *unit, bool *ret_exists, struct err *e)
{
	sd_bus_error be = SD_BUS_ERROR_NULL;
	sd_bus_message *m = NULL, *reply = NULL;
	struct job job = { .s = s };
	sd_bus_slot *slot = NULL;
	const char *path;
	int k;

	k = s->match_signal(bus, &slot, NULL, MANAGER_PATH, MANAGER, "JobRemoved", on_job_removed, &job);
	if (k >= 0)
		k = new_scope_call(s, bus, unit, &m);
	if (k >= 0)
		k = s->call(bus, m, DELEGATE_TIMEOUT_US, &be, &reply);
	if (k >= 0)
		k = s->read(reply, "o", &path);
	if (k >= 0) {
		k = wait_job(s, bus, &job, path, e);
	} else {
		*ret_exists = s->error_has_name(&be, SYSTEMD ".UnitExists");
		(void)err_set(e, ERR_UNAVAILABLE, -k, NULL, "systemd refused a scope: %s",
			      be.message ? be.message : strerror(-k));
	}
	if (reply)
		s->unref(reply);
	if (m)
		s->unref(m);
	if (slot)
		s->slot_unref(slot);
	s->error_free(&be);
	return k < 0 ? k : 0;
}

/* Joins the scope an earlier run left alive. The scope itself may have no process (its controllers are
 * enabled further down), so it must be the leaf. */
static int join_scope(const struct sdbus *s, sd_bus *bus, const char *unit, const char *mount, struct err *e)
{
	_cleanup_free_ char *group = NULL;
	char leaf[PATH_MAX];
	sd_bus_error be = SD_BUS_ERROR_NULL;
	sd_bus_message *reply = NULL, *m = NULL;
	const char *path;
	int k;

	k = s->call_method(bus, SYSTEMD, MANAGER_PATH, MANAGER, "GetUnit", &be, &reply, "s", unit);
	if (k >= 0)
		k = s->read(reply, "o", &path);
	if (k >= 0)
		k = s->get_string(bus, SYSTEMD, path, SYSTEMD ".Scope", "ControlGroup", &be, &group);
	if (k >= 0)
		k = text_format(leaf, sizeof(leaf), "%s%s/daemon", mount, group);
	if (k >= 0 && mkdir(leaf, 0755) < 0 && errno != EEXIST)
		k = -errno;
	if (k >= 0)
		k = s->new_call(bus, &m, SYSTEMD, MANAGER_PATH, MANAGER, "AttachProcessesToUnit");
	if (k >= 0)
		k = s->append(m, "ssau", unit, "/daemon", 1, (uint32_t)getpid());
	if (k >= 0)
		k = s->call(bus, m, DELEGATE_TIMEOUT_US, &be, NULL);
	if (k < 0)
		(void)err_set(e, ERR_UNAVAILABLE, -k, NULL, "joining the scope %s of an earlier run: %s", unit,
			      be.message ? be.message : strerror(-k));
	if (reply)
		s->unref(reply);
	if (m)
		s->unref(m);
	s->error_free(&be);
	return k < 0 ? k : 0;
}

int delegate_scope(const char *unit, const char *mount, struct err *e)
{
	_cleanup_(unload) struct sdbus s = { 0 };
	sd_bus *bus = NULL;
	int k = load(&s, e);

	if (k == 0)
		k = connect_manager(&s, &bus, e);
	if (k < 0)
		return k;
	/* A scope whose last process has just died is still there for a moment: then joining fails, and
	 * so the name is tried again. */
	for (int i = 0; i < 20; i++) {
		bool exists = false;

		k = start_scope(&s, bus, unit, &exists, e);
		if (k < 0 && exists)
			k = join_scope(&s, bus, unit, mount, e);
		if (k == 0 || !exists)
			break;
		(void)nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
	}
	s.close(bus);
	return k;
}
