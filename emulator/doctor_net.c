/* The doctor's check of what the network modes "restricted" and "open" are made of: in a network namespace
 * below the emulator's user namespace, one nf_tables batch (a table, a nat chain, a rule that logs to a
 * group and redirects) and a veth pair. Spoken to the kernel directly, rtnetlink(7) and
 * linux/netfilter/nf_tables.h, so the check needs no tool and no library. The namespace takes it all away. */

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_link.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "emulator/base/fd.h"
#include "emulator/doctor-internal.h"

#define NET_MEANS "the network modes restricted and open will not work"

/* A buffer of netlink messages. Everything put in is of fixed size and far below it. */
struct msgs {
	_Alignas(NLMSG_ALIGNTO) char p[2048];
	size_t len;
	size_t last; /* where the message being built starts */
	uint32_t seq;
};

static void *put(struct msgs *m, const void *data, size_t n)
{
	char *at = m->p + m->len;

	if (m->len + NLMSG_ALIGN(n) > sizeof(m->p))
		abort();
	memset(at, 0, NLMSG_ALIGN(n));
	if (data)
		memcpy(at, data, n);
	m->len += NLMSG_ALIGN(n);
	return at;
}

static void begin(struct msgs *m, uint16_t type, uint16_t flags, const void *header, size_t n)
{
	struct nlmsghdr h = { .nlmsg_type = type,
			      .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags),
			      .nlmsg_seq = ++m->seq };

	m->last = m->len;
	(void)put(m, &h, sizeof(h));
	(void)put(m, header, n);
}

static void end(struct msgs *m)
{
	struct nlmsghdr *h = (struct nlmsghdr *)(void *)(m->p + m->last);

	h->nlmsg_len = (uint32_t)(m->len - m->last);
}

static void attr(struct msgs *m, uint16_t type, const void *data, size_t n)
{
	struct nlattr a = { .nla_len = (uint16_t)(sizeof(a) + n), .nla_type = type };

	(void)put(m, &a, sizeof(a));
	if (n > 0)
		(void)put(m, data, n);
}

static void attr_str(struct msgs *m, uint16_t type, const char *s)
{
	attr(m, type, s, strlen(s) + 1);
}

static void attr_be32(struct msgs *m, uint16_t type, uint32_t v)
{
	v = htonl(v);
	attr(m, type, &v, sizeof(v));
}

static size_t nest(struct msgs *m, uint16_t type)
{
	size_t at = m->len;

	attr(m, type | NLA_F_NESTED, NULL, 0);
	return at;
}

static void nest_end(struct msgs *m, size_t at)
{
	struct nlattr *a = (struct nlattr *)(void *)(m->p + at);

	a->nla_len = (uint16_t)(m->len - at);
}

static void nft(struct msgs *m, int type, uint16_t flags, uint8_t family)
{
	struct nfgenmsg g = { .nfgen_family = family, .version = NFNETLINK_V0 };
	bool edge = type == NFNL_MSG_BATCH_BEGIN || type == NFNL_MSG_BATCH_END;

	g.res_id = edge ? htons(NFNL_SUBSYS_NFTABLES) : 0;
	begin(m, (uint16_t)(edge ? type : NFNL_SUBSYS_NFTABLES << 8 | type), flags, &g, sizeof(g));
}

static void nft_expr(struct msgs *m, const char *name, bool log_group)
{
	size_t elem = nest(m, NFTA_LIST_ELEM), data;
	uint16_t group = htons(1);

	attr_str(m, NFTA_EXPR_NAME, name);
	data = nest(m, NFTA_EXPR_DATA);
	if (log_group)
		attr(m, NFTA_LOG_GROUP, &group, sizeof(group));
	nest_end(m, data);
	nest_end(m, elem);
}

/* Messages 2 to 4 of the batch ask for an acknowledgement: table, chain, rule. */
static void nft_batch(struct msgs *m)
{
	size_t at;

	nft(m, NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC);
	end(m);
	nft(m, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_ACK, NFPROTO_INET);
	attr_str(m, NFTA_TABLE_NAME, "doctor");
	end(m);
	nft(m, NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_ACK, NFPROTO_INET);
	attr_str(m, NFTA_CHAIN_TABLE, "doctor");
	attr_str(m, NFTA_CHAIN_NAME, "pre");
	at = nest(m, NFTA_CHAIN_HOOK);
	attr_be32(m, NFTA_HOOK_HOOKNUM, NF_INET_PRE_ROUTING);
	attr_be32(m, NFTA_HOOK_PRIORITY, (uint32_t)-100);
	nest_end(m, at);
	attr_str(m, NFTA_CHAIN_TYPE, "nat");
	end(m);
	nft(m, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND | NLM_F_ACK, NFPROTO_INET);
	attr_str(m, NFTA_RULE_TABLE, "doctor");
	attr_str(m, NFTA_RULE_CHAIN, "pre");
	at = nest(m, NFTA_RULE_EXPRESSIONS);
	nft_expr(m, "log", true);
	nft_expr(m, "redir", false);
	nest_end(m, at);
	end(m);
	nft(m, NFNL_MSG_BATCH_END, 0, AF_UNSPEC);
	end(m);
}

static void veth_pair(struct msgs *m)
{
	struct ifinfomsg i = { .ifi_family = AF_UNSPEC };
	size_t info, data, peer;

	begin(m, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, &i, sizeof(i));
	attr_str(m, IFLA_IFNAME, "doctor0");
	info = nest(m, IFLA_LINKINFO);
	attr_str(m, IFLA_INFO_KIND, "veth");
	data = nest(m, IFLA_INFO_DATA);
	peer = nest(m, VETH_INFO_PEER);
	(void)put(m, &i, sizeof(i));
	attr_str(m, IFLA_IFNAME, "doctor1");
	nest_end(m, peer);
	nest_end(m, data);
	nest_end(m, info);
	end(m);
}

/* Sends the messages and reads n acknowledgements. 0, or a negative errno with *ret_seq of the refused one. */
static int talk(int family, const struct msgs *m, int n, uint32_t *ret_seq)
{
	_cleanup_close_ int s = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, family);
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	struct timeval limit = { .tv_sec = 5 };
	_Alignas(NLMSG_ALIGNTO) char in[4096];

	if (s < 0 || setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0 ||
	    sendto(s, m->p, m->len, 0, (struct sockaddr *)&kernel, sizeof(kernel)) < 0)
		return -errno;
	while (n > 0) {
		ssize_t len = recv(s, in, sizeof(in), 0);

		if (len < 0)
			return -errno;
		for (size_t at = 0; at + sizeof(struct nlmsghdr) <= (size_t)len;) {
			const struct nlmsghdr *h = (void *)(in + at);
			const struct nlmsgerr *e = NLMSG_DATA(h);

			if (h->nlmsg_len < sizeof(*h) || h->nlmsg_len > (size_t)len - at)
				return -EBADMSG;
			at += NLMSG_ALIGN(h->nlmsg_len);
			if (h->nlmsg_type != NLMSG_ERROR || h->nlmsg_len < NLMSG_LENGTH(sizeof(*e)))
				continue;
			*ret_seq = h->nlmsg_seq;
			if (e->error != 0)
				return e->error;
			n--;
		}
	}
	return 0;
}

static int try_network(void *arg)
{
	static const char *const steps[] = { "batch", "batch", "table", "nat chain", "log and redirect rule" };
	struct doctor_ctx *c = arg;
	struct msgs m = { 0 }, v = { 0 };
	uint32_t seq = 0;
	int k;

	if (unshare(CLONE_NEWNET) < 0) {
		doctor_bad(c, DOCTOR_FAIL, "sandboxes can't run", NULL, "a network namespace: %s", strerror(errno));
		return 0;
	}
	veth_pair(&v);
	k = talk(NETLINK_ROUTE, &v, 1, &seq);
	if (k < 0) {
		doctor_bad(c, DOCTOR_WARN, NET_MEANS, "sudo modprobe veth", "making a veth pair: %s", strerror(-k));
		return 0;
	}
	seq = 0;
	nft_batch(&m);
	k = talk(NETLINK_NETFILTER, &m, 3, &seq);
	if (k < 0)
		doctor_bad(c, DOCTOR_WARN, NET_MEANS,
			   "sudo modprobe -a nf_tables nft_chain_nat nft_redir nft_log nfnetlink_log",
			   "nftables, %s: %s", steps[MIN(seq, ARRAY_SIZE(steps) - 1)], strerror(-k));
	else
		doctor_ok(c, "a table with a nat chain, a redirect and a log group; a veth pair");
	return 0;
}

void doctor_probe_network(struct doctor_ctx *c)
{
	(void)doctor_in_emulator(c, try_network);
}
