#pragma once
/* File descriptors: whole reads and writes, and messages with descriptors over SOCK_SEQPACKET.
 * Every fd made here is O_CLOEXEC. Functions return 0 (or a count) or a negative errno. */

#include <sys/types.h>

#include "emulator/base/util.h"

#define FD_MSG_MAX_FDS 8

/* Writes all n bytes (blocking fds; retries EINTR). 0 or negative errno. */
int fd_write_all(int fd, const void *p, size_t n);

/* Reads until n bytes or EOF; returns the count read or a negative errno. */
ssize_t fd_read_all(int fd, void *p, size_t n);

/* Reads a whole small file relative to dirfd into buf, NUL-terminated. Returns its length, or
 * -EFBIG when it does not fit in cap - 1 bytes. For /proc, /sys and cgroup files. */
ssize_t fd_read_file(int dirfd, const char *path, char *buf, size_t cap);

/* Opens path (O_WRONLY|O_CLOEXEC, not created) and writes s in one write(2), as kernel files need. */
int fd_write_file(int dirfd, const char *path, const char *s);

/* Sends one datagram with n_fds descriptors (at most FD_MSG_MAX_FDS). MSG_NOSIGNAL.
 * -EAGAIN when a non-blocking socket is full. The fds stay the caller's. */
int fd_send_msg(int sock, const void *p, size_t n, const int *fds, size_t n_fds);

/* Receives one datagram. Returns its length, 0 at EOF, or a negative errno; -EMSGSIZE when the
 * datagram or its descriptors did not fit (everything received is then closed), -EMFILE when this process can't
 * have as many descriptors (they are closed; the datagram is in p, its length not known).
 * *ret_n_fds descriptors, now the caller's, are stored in fds, all O_CLOEXEC; NULL: none are taken.
 * An empty datagram counts as EOF. */
ssize_t fd_recv_msg(int sock, void *p, size_t cap, int *fds, size_t max_fds, size_t *ret_n_fds);

int fd_set_nonblock(int fd, bool on);

/* An fd for an anonymous file with these contents, offset 0, sealed against change. Negative errno on failure. */
int fd_memfile(const char *name, const void *p, size_t n);
