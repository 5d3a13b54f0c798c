#pragma once
/* Listening sockets, made with the caller's rights before they are given up. Non-blocking, CLOEXEC. */

#include <sys/types.h>

#include "emulator/base/err.h"

/* host: an address, or a name (its first address that works; IPv4 before IPv6, as "localhost" is both).
 * *ret_port: the one that was bound. Warns in the log when other machines can reach it.
 * ERR_BUSY when the port is in use, ERR_INVALID for a host that is not known or not ours. */
int listen_open(const char *host, uint16_t port, int *ret_fd, uint16_t *ret_port, struct err *e);

/* A Unix socket of mode 0600. One that a dead process left is replaced; ERR_BUSY if somebody listens there,
 * ERR_EXISTS if it is no socket. Whoever opened it removes it at the end. */
int listen_unix_open(const char *path, int *ret_fd, struct err *e);

/* Removes the socket at the end, however that comes: a small process with the rights and the current folder of
 * the caller, which the emulator is about to give up. It waits for the leash to be closed by all who have it and
 * then removes the socket if it is still the same one. */
struct listen_guard {
	int leash; /* -1: none */
	pid_t pid;
};
int listen_unix_guard(const char *path, struct listen_guard *ret, struct err *e);
void listen_guard_end(struct listen_guard *g); /* the socket is gone when it returns */
