#pragma once
/* What a sandbox may reach: the rules and the verdicts, pure and without a socket, so that they can be
 * tested and fuzzed alone. The egress process (egress.h) asks; the daemon hands the rules over.
 *
 * A rule is HOST[:PORT] or *.HOST[:PORT]. HOST is a DNS name (case and a trailing dot don't matter, U-labels
 * are turned into A-labels) or an IP address. "example.org" is that name alone, "*.example.org" every name
 * below it but not itself. No port: any. */

#include <netinet/in.h>

#include "emulator/base/err.h"

enum net_mode { NET_OFF, NET_RESTRICTED, NET_OPEN };
const char *net_mode_name(enum net_mode m);
int net_mode_parse(const char *s, enum net_mode *ret); /* -EINVAL */

#define POLICY_NAME_MAX 254 /* a DNS name as text, without the last dot, with NUL (RFC 1035, 2.3.4) */
#define POLICY_RULE_MAX 288 /* a rule as text */

struct policy_rule {
	char name[POLICY_NAME_MAX]; /* lower case, A-labels, no trailing dot; "" for an address rule */
	bool below;		    /* "*.": names below, not the name */
	uint16_t port;		    /* 0: any */
	struct in6_addr address;    /* an address rule; IPv4 as v4-mapped */
};

/* ERR_INVALID says what is wrong with it. */
int policy_rule_parse(const char *text, struct policy_rule *ret, struct err *e);
int policy_rule_format(const struct policy_rule *r, char ret[static POLICY_RULE_MAX]);

struct policy; /* one sandbox's; rules are kept sorted, a look-up is logarithmic in their number */
int policy_new(enum net_mode mode, bool builtin_list, bool allow_private, struct policy **ret);
void policy_free(struct policy *p);
enum net_mode policy_mode(const struct policy *p);
int policy_allow(struct policy *p, const struct policy_rule *r); /* -ENOMEM, -E2BIG (more than 4096) */

/* Normalises a name from the wire (DNS, SNI, Host): lower case, no trailing dot. -EINVAL if it is no host name. */
int policy_normalise(const char *name, size_t n, char ret[static POLICY_NAME_MAX]);

/* May this name be looked up / connected to on this port (0: don't care)? *ret_rule (POLICY_RULE_MAX bytes)
 * gets the rule that said yes, or the reason of the no: "not-in-allowlist", "network-off". */
bool policy_name(const struct policy *p, const char *name, uint16_t port, char ret_rule[static POLICY_RULE_MAX]);

/* May this address be reached directly, whatever its name? Open mode: all but what policy_private says,
 * unless allow_private. Restricted: only by an address rule. */
bool policy_address(const struct policy *p, const struct in6_addr *a, uint16_t port,
		    char ret_rule[static POLICY_RULE_MAX]);

/* Loopback, private, link-local, metadata, CGNAT, multicast, reserved, 6to4/NAT64/v4-mapped forms of those
 * (IANA special-purpose registries, RFC 6890 and successors). *ret_why: a static word ("private", ...). */
bool policy_private(const struct in6_addr *a, const char **ret_why);

/* The built-in allowlist (netpolicy/allowlist.txt, compiled in): NULL-terminated, with its comments' headings. */
extern const char *const policy_builtin[];
