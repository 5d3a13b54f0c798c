#pragma once
/* The network's figures: a fixture internet on loopback, and the same program in a sandbox and on the host. */

#include <sys/types.h>

#include "emulator/base/err.h"

struct net_world {
	pid_t server, nameserver;
	uint16_t port, dns_port;
	char map[64];	     /* for serve --map */
	bool own_names;	     /* the emulator will ask our nameserver */
	struct err no_names; /* why not */
};

/* Before the emulator starts. Moves this process into a mount namespace of its own, where it may. */
int net_world_start(struct net_world *w, const char *work, struct err *e);
void net_world_stop(struct net_world *w);

struct bench;
/* A pair of creates (off, restricted) is a subject like others (main.c); this is the rest, with a running server. */
int bench_network(struct bench *b, struct err *e);
