#pragma once
/* The parts of the egress process and what they share. Everything runs in one loop on one thread.
 *
 * Lifetimes: what owns a source may be ended while the loop still holds events for it; so it is closed at
 * once (source_close makes the loop skip it) and freed at the end of the turn (egress_discard). */

#include <sys/epoll.h>
#include <sys/queue.h>
#define HASH_NONFATAL_OOM 1 /* after HASH_ADD, hh.tbl is NULL for what there was no memory for */
#include <uthash.h>

#include "emulator/base/clock.h"
#include "netpolicy/dns.h"
#include "netpolicy/egress.h"

struct egress;

/* --- the loop --- */

struct source {
	int fd;
	uint32_t events; /* what epoll watches; 0: it is not in the set */
	struct egress *eg;
	void (*ready)(struct source *s, uint32_t events); /* NULL: closed */
};

#define CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

int source_watch(struct source *s, uint32_t events);
void source_close(struct source *s); /* closes the fd too */

struct garbage {
	struct garbage *next;
};
void egress_discard(struct egress *eg, struct garbage *g); /* g is the first member of what is freed */

/* Deadlines of one kind last equally long, so each kind is a queue in order. */
enum wait_kind { WAIT_UPSTREAM, WAIT_SNIFF, WAIT_DNS_TCP, WAIT_UDP, WAIT_HOLD, WAIT_KINDS };

struct deadline {
	TAILQ_ENTRY(deadline) link;
	int64_t at; /* clock_mono_us; 0: not waiting */
	enum wait_kind kind;
	void (*fire)(struct egress *eg, struct deadline *d);
};
TAILQ_HEAD(deadline_list, deadline);

void deadline_set(struct egress *eg, struct deadline *d, enum wait_kind kind,
		  void (*fire)(struct egress *eg, struct deadline *d));
void deadline_clear(struct egress *eg, struct deadline *d);

/* --- blank sockets of the host's network --- */

enum blank { BLANK_TCP4, BLANK_TCP6, BLANK_UDP4, BLANK_UDP6, BLANK_KINDS };
#define BLANK_BATCH 8
#define BLANK_KEEP 32

struct blank_wait {
	TAILQ_ENTRY(blank_wait) link;
	bool queued;
	enum blank kind;
	/* fd: now the callee's; -1: the host has none of this kind. May run inside blank_get. */
	void (*got)(struct egress *eg, struct blank_wait *w, int fd);
};
TAILQ_HEAD(blank_queue, blank_wait);

struct blank_pool {
	int fd[BLANK_KEEP + BLANK_BATCH];
	unsigned int n, asked, waiting; /* asked: sockets under way */
	struct blank_queue queue;
};

void blank_get(struct egress *eg, struct blank_wait *w, enum blank kind,
	       void (*got)(struct egress *eg, struct blank_wait *w, int fd));
void blank_cancel(struct egress *eg, struct blank_wait *w);
void blank_fill(struct egress *eg);
void blank_ready(struct source *s, uint32_t events);

/* --- sandboxes and what they were told --- */

#define KNOWN_MAX 1024 /* addresses remembered for one sandbox */
#define KNOWN_BUCKETS 64
#define CONN_MAX 1024 /* TCP connections of one sandbox */
#define FLOW_MAX 256  /* UDP flows of one sandbox */
#define LOOKUP_MAX 64 /* questions of one sandbox that wait for an upstream */
#define DNS_CONN_MAX 32
enum bucket_kind { BUCKET_FLOWS, BUCKET_REFUSED, BUCKET_REST, BUCKET_COUNT }; /* event_affordable */
#define EVENT_BURST 400 /* questions and refusals of one sandbox told at once; connections: five times as many */

struct known {
	TAILQ_ENTRY(known) age;
	LIST_ENTRY(known) bucket;
	struct in6_addr address;
	int64_t expires; /* clock_mono_us */
	bool local;	 /* the operator's own word (zone): private ranges don't matter */
	char name[];
};
LIST_HEAD(known_bucket, known);
TAILQ_HEAD(known_list, known);

struct conn;
LIST_HEAD(conn_list, conn);
struct flow;
LIST_HEAD(flow_list, flow);

struct bucket {
	int64_t tokens, at; /* clock_mono_us; all zero is a full one */
};

struct sandbox {
	uint32_t index;
	uint64_t serial; /* tells this one from the next with the same index */
	bool allow_private;
	bool named; /* since the last EGRESS_RESTATE began */
	struct policy *policy;
	struct known_bucket known[KNOWN_BUCKETS];
	struct known_list ages;
	struct conn_list conns;
	struct flow_list flows;
	unsigned int n_known, n_conns, n_flows, n_lookups, n_dns_conns;
	struct bucket buckets[BUCKET_COUNT];
};

void known_add(struct sandbox *s, const char *name, const struct in6_addr *a, uint32_t ttl, bool local);
/* The next entry for a after `from` (NULL: the first). */
const struct known *known_next(const struct sandbox *s, const struct in6_addr *a, const struct known *from);

/* --- refusals that are held back (egress_ask.c) --- */

struct hold {
	TAILQ_ENTRY(hold) link;
	uint64_t token; /* 0: not held */
	struct deadline deadline;
	void (*release)(struct egress *eg, struct hold *h);
};
TAILQ_HEAD(hold_list, hold);

/* --- maps and the zone (egress_map.c) --- */

struct target {
	struct in6_addr address;
	uint16_t port;
};
struct mapping {
	char name[POLICY_NAME_MAX];
	uint16_t port; /* 0: any */
	struct target to;
};
struct synthetic { /* one address of 198.18.0.0/15 for each name that was ever mapped */
	char name[POLICY_NAME_MAX];
	uint32_t number;
	UT_hash_handle hh;
};
struct zone_entry {
	char name[POLICY_NAME_MAX];
	struct in6_addr address;
};
#define MAP_MAX 4096

struct map {
	struct mapping *maps;
	size_t n_maps;
	struct synthetic *synthetic; /* by name */
	struct synthetic **by_number;
	size_t n_synthetic;
	struct zone_entry *zone;
	size_t n_zone;
};

int map_add(struct map *m, const char *text);
void map_clear(struct map *m);
int zone_add(struct map *m, const char *text);
void zone_clear(struct map *m);
/* The address that stands for a mapped name. */
bool map_synthetic(struct map *m, const char *name, struct in6_addr *ret);
/* The name an address of 198.18.0.0/15 stands for, or NULL. */
const char *map_name_of(const struct map *m, const struct in6_addr *a);
bool map_target(const struct map *m, const char *name, uint16_t port, struct target *ret);
/* The zone's answer: false if the name is not in it. Addresses of the asked family. */
bool zone_find(const struct map *m, const char *name, uint16_t type, struct dns_answer *ret);

/* --- names that fail on purpose (egress_fault.c) --- */

#define NAME_FAULTS_MAX 256

struct name_fault {
	char id[16], name[POLICY_NAME_MAX]; /* name "": every one */
	bool below;			    /* names below it, not itself */
	uint32_t index;
	int32_t left; /* 0: no end */
};
int name_fault_add(struct egress *eg, const struct egress_msg *m);
void name_fault_clear(struct egress *eg);
void name_fault_forget(struct egress *eg, uint32_t index); /* those of a sandbox */
/* True when this question is to fail; rule: what the ledger calls it. */
bool name_fault_fires(struct egress *eg, const struct sandbox *s, const char *name, char rule[static POLICY_RULE_MAX]);

/* --- the process --- */

#define LOOP_BATCH 64	     /* events, accepts, datagrams taken in a turn from one source */
#define EVENT_QUEUE_MAX 4096 /* events that wait for the daemon */

struct queued_event {
	STAILQ_ENTRY(queued_event) link;
	struct egress_event ev;
};
STAILQ_HEAD(event_queue, queued_event);

struct lookup;
struct cached;
struct dns_conn;

struct resolver {
	struct lookup *lookups;
	struct cached *cache;
	struct dns_conn *conns;
	struct sockaddr_storage servers[3];
	size_t n_servers, n_lookups;
	uint64_t next_conn;
};

struct egress {
	bool restating;
	int ep, spare; /* spare: an fd to give up when there are no more (accept) */
	struct source control, dialer, nflog, queue, tcp[2], udp[2], dns_tcp[2], dns_udp[2];
	struct sandbox *sandboxes[GATEWAY_MAX];
	uint64_t next_serial, next_flow;
	struct deadline_list waits[WAIT_KINDS];
	struct garbage *garbage;
	struct blank_pool pool[BLANK_KINDS];
	struct map map;
	struct name_fault *faults;
	size_t n_faults;
	struct resolver dns;
	struct event_queue events;
	size_t n_events;
	struct hold_list held;
	size_t n_held;
	uint64_t next_token;
	struct sync { /* to be answered at the end of this turn */
		uint32_t index;
		uint64_t token;
	} syncs[LOOP_BATCH];
	size_t n_syncs;
	struct flow *flows;
	size_t n_flows;
	unsigned int n_pipes;
	int icmp[2];
};

int egress_filter(void); /* the system calls it may make from here on (egress_filter.c) */

/* The sandbox with this source address, or NULL. */
struct sandbox *egress_sandbox_of(struct egress *eg, const struct in6_addr *a);
void egress_from_sockaddr(const struct sockaddr_storage *ss, struct in6_addr *ret_address, uint16_t *ret_port);
socklen_t egress_to_sockaddr(const struct in6_addr *a, uint16_t port, struct sockaddr_storage *ret);

/* Starts an event; the caller fills the rest in and hands it to event_send. */
struct egress_event event_new(const struct sandbox *s, enum egress_verdict verdict, enum egress_kind kind);
struct egress_event event_blocked(const struct sandbox *s, const struct gateway_refused *r); /* without host and rule */
/* False: the daemon won't hear of it (it is away, or the sandbox says too much). */
bool event_send(struct egress *eg, struct sandbox *s, const struct egress_event *ev);
bool event_queue(struct egress *eg, const struct egress_event *ev); /* the same, of no sandbox's account */

/* Sends a refusal. True: release() is called once it was taken in; the caller waits with the refusal itself. */
bool event_hold(struct egress *eg, struct sandbox *s, struct egress_event *ev, struct hold *h,
		void (*release)(struct egress *eg, struct hold *h));
void hold_cancel(struct egress *eg, struct hold *h);
void hold_noted(struct egress *eg, uint64_t token);
void hold_release_all(struct egress *eg);

void asked_ready(struct source *s, uint32_t events);
/* Reads what there is on every socket of the gateway, then answers eg->syncs. */
void egress_sync(struct egress *eg);

/* What becomes of a connection, as far as its address tells. */
struct judgement {
	bool allowed, by_name; /* by_name: if the name it says agrees */
	struct target to;      /* where it really goes */
	char host[POLICY_NAME_MAX];
	char rule[POLICY_RULE_MAX];
};
void tcp_judge(struct egress *eg, struct sandbox *box, const struct in6_addr *a, uint16_t port, struct judgement *ret);

void tcp_accept_ready(struct source *s, uint32_t events);
void conn_abort(struct conn *c); /* RST both ways */

void udp_ready(struct source *s, uint32_t events);
void flow_end(struct flow *f);

/* Sends a datagram with another source address than the socket's own; and receives with the original
 * destination. `sock` must be transparent. */
ssize_t udp_receive(int sock, void *p, size_t cap, struct sockaddr_storage *ret_from, struct sockaddr_storage *ret_to);
ssize_t udp_send_as(int sock, const void *p, size_t n, const struct sockaddr_storage *from,
		    const struct sockaddr_storage *to);

void dns_udp_ready(struct source *s, uint32_t events);
void dns_tcp_ready(struct source *s, uint32_t events);
int resolver_init(struct egress *eg, const struct egress_config *c);

/* Where an answer goes. A sandbox or a connection that is gone by then is told by serial and id. */
struct asker {
	uint32_t index;
	uint64_t serial;
	uint64_t conn; /* 0: UDP */
	int sock;
	struct sockaddr_storage from, to;
	char rule[POLICY_RULE_MAX]; /* that allowed the name */
	struct dns_query q;
};
void dns_reply(struct egress *eg, const struct asker *a, const uint8_t *p, ssize_t n);
size_t dns_reply_max(const struct asker *a);
void dns_conn_unasked(struct egress *eg, uint64_t id); /* one question less is under way */

/* Takes the asker's question, answers now or later. */
void resolver_ask(struct egress *eg, struct sandbox *s, const struct asker *a);
void resolver_answer(struct egress *eg, struct sandbox *s, const struct asker *a, const struct dns_answer *ans);
void resolver_error(struct egress *eg, const struct asker *a, enum dns_rcode rcode);
/* Asks the host's nameservers; -EBUSY when too many are asked already. */
int upstream_ask(struct egress *eg, struct sandbox *s, const struct asker *a);
const struct dns_answer *cache_find(struct egress *eg, const char *name, uint16_t type, uint32_t *ret_ttl);
