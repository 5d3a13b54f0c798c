/* The launcher and a keeper of an earlier run: taking it over, or ending it.
 *
 * Who listens in the state dir (0700, the emulator's own id) is found by SO_PEERCRED, and its user namespace by
 * /proc. The launcher may be root, so it enters that namespace only if it is one that this very user made (its
 * owner) with the map that a new one would get: nothing a process inside could have put there. */

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "emulator/base/fd.h"
#include "emulator/base/log.h"
#include "emulator/keeper.h"
#include "emulator/proto.h"

#define PATIENCE_S 10

/* A connected socket, -ENOENT when nobody listens, or a negative errno with e filled. */
static int connect_old(int state_fd, struct err *e)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	const struct timeval patience = { .tv_sec = PATIENCE_S };
	struct sockaddr_un a;

	if (fd < 0)
		return err_errno(e, errno, "socket");
	proto_keeper_address(state_fd, &a);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return errno == ENOENT || errno == ECONNREFUSED ? -ENOENT
								: err_errno(e, errno, "connecting to the old keeper");
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return TAKE_FD(fd);
}

bool keeper_is_there(int state_fd)
{
	_cleanup_close_ int fd = connect_old(state_fd, NULL);

	return fd >= 0;
}

static int silent(struct err *e)
{
	return err_set(e, ERR_BUSY, EBUSY, NULL,
		       "a keeper of an earlier run does not answer; find it with `pgrep ork-keeper` and kill it");
}

int keeper_end_stale(int state_fd, unsigned int *ret_ended, struct err *e)
{
	_cleanup_close_ int fd = connect_old(state_fd, e);
	struct keeper_msg m = { .magic = KEEPER_MAGIC, .type = KEEPER_STOP };
	unsigned int ended = 0;
	ssize_t n;

	if (ret_ended)
		*ret_ended = 0;
	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	if (fd_send_msg(fd, &m, sizeof(m), NULL, 0) < 0)
		return 0; /* it went on its own */
	/* It reports each death, then goes: EOF. */
	while ((n = fd_recv_msg(fd, &m, sizeof(m), NULL, 0, NULL)) > 0)
		ended += n == sizeof(m) && m.type == KEEPER_DIED;
	if (n == -EAGAIN)
		return silent(e);
	if (ret_ended)
		*ret_ended = ended;
	return 0;
}

/* ---- may it be taken over ---- */

static bool map_is(pid_t pid, const char *file, uint32_t own, uint32_t first, bool single)
{
	char path[64], text[256];
	unsigned long long v[6];
	int n;

	(void)snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	if (fd_read_file(AT_FDCWD, path, text, sizeof(text)) < 0)
		return false;
	n = sscanf(text, "%llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5]);
	if (n < 3 || v[0] != 0 || v[1] != own || v[2] != 1)
		return false;
	return single ? n == 3 : n == 6 && v[3] == 1 && v[4] == first && v[5] == IDMAP_SANDBOX_IDS;
}

/* An fd of the namespace, or -1 when it is none that this launcher would enter. */
static int open_userns(const struct idmap *m, pid_t pid)
{
	bool single = m->kind == IDMAP_SINGLE;
	_cleanup_close_ int ns = -1;
	char path[64];
	uid_t owner = 0;

	(void)snprintf(path, sizeof(path), "/proc/%d/ns/user", pid);
	ns = open(path, O_RDONLY | O_CLOEXEC);
	if (ns < 0 || ioctl(ns, NS_GET_OWNER_UID, &owner) < 0 || owner != m->caller_uid)
		return -1;
	if (!map_is(pid, "uid_map", m->own_uid, m->first_uid, single) ||
	    !map_is(pid, "gid_map", m->own_gid, m->first_gid, single))
		return -1;
	return TAKE_FD(ns);
}

/* What it says of itself; *ret_why: a phrase, when it is not to be taken over. */
static int hear_welcome(int fd, const struct keeper_config *c, struct keeper_started *ret, const char **ret_why,
			struct err *e)
{
	char version[PROTO_VERSION_SIZE];
	struct keeper_msg m;
	size_t n_fds = 0;
	int fds[2] = { -1, -1 };
	ssize_t n;

	n = fd_recv_msg(fd, &m, sizeof(m), fds, 2, &n_fds);
	ret->positions = fds[0];
	ret->egress = fds[1];
	if (n == -EAGAIN)
		return silent(e);
	proto_version(version);
	/* One from before there was a hello hangs up. */
	if (n != sizeof(m) || m.magic != KEEPER_MAGIC || m.type != KEEPER_WELCOME ||
	    !proto_string_ok(m.text, sizeof(m.text)) || strcmp(m.text, version) != 0 || ret->positions < 0) {
		*ret_why = "another version of the emulator";
		return 0;
	}
	if (m.value != (int32_t)cgroup_root_backend(c->cgroups)) {
		*ret_why = "another kind of cgroup";
		return 0;
	}
	n = fd_recv_msg(fd, &m, sizeof(m), NULL, 0, NULL);
	if (n != sizeof(m) || m.type != KEEPER_NETWORK || !proto_string_ok(m.text, sizeof(m.text)))
		*ret_why = "another version of the emulator";
	else
		(void)snprintf(ret->no_network, sizeof(ret->no_network), "%.199s", m.text);
	return 0;
}

static int say_hello(int fd, const struct keeper_config *c, struct keeper_started *ret, const char **ret_why,
		     struct err *e)
{
	struct keeper_msg m = { .magic = KEEPER_MAGIC, .type = KEEPER_HELLO };
	struct ucred peer;
	socklen_t len = sizeof(peer);

	proto_version(m.text);
	if (fd_send_msg(fd, &m, sizeof(m), NULL, 0) < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0) {
		*ret_why = "something that hangs up";
		return 0;
	}
	ret->pid = peer.pid;
	ret->userns_fd = open_userns(c->idmap, peer.pid);
	if (ret->userns_fd < 0)
		*ret_why = "another map of ids";
	return ret->userns_fd < 0 ? 0 : hear_welcome(fd, c, ret, ret_why, e);
}

int keeper_adopt(const struct keeper_config *c, struct keeper_started *ret, struct err *e)
{
	struct keeper_started s = { .userns_fd = -1, .sock = -1, .egress = -1, .positions = -1, .adopted = true };
	_cleanup_close_ int fd = connect_old(c->state_fd, e);
	const char *why = NULL;
	unsigned int ended = 0;
	int r;

	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	r = say_hello(fd, c, &s, &why, e);
	/* As keeper_start leaves it. */
	if (r >= 0 && !why && fchdir(c->state_fd) < 0)
		r = err_errno(e, errno, "chdir to the state dir");
	if (r >= 0 && !why) {
		s.sock = TAKE_FD(fd);
		*ret = s;
		return 1;
	}
	closep(&s.egress);
	closep(&s.positions);
	closep(&s.userns_fd);
	closep(&fd);
	if (r < 0)
		return r;
	r = keeper_end_stale(c->state_fd, &ended, e);
	if (r >= 0)
		log_warn("an earlier run left a keeper of %s: it was ended, and with it what it kept (%u first "
			 "processes of sandboxes)",
			 why, ended);
	return r;
}
