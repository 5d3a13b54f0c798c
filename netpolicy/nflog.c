/* Packets that nftables logged, as netlink messages (linux/netfilter/nfnetlink_log.h). The packets' heads are
 * a sandbox's own bytes: every length in them is a claim. */

#include "netpolicy/nflog.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <string.h>
#include <sys/socket.h>

#include "netpolicy/gateway.h"

#define RECEIVE_MAX 64 /* datagrams a call */

static struct nlmsghdr *config_message(char *buf, uint16_t group)
{
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
	struct nfgenmsg *g;

	h->nlmsg_type = (NFNL_SUBSYS_ULOG << 8) | NFULNL_MSG_CONFIG;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	g = mnl_nlmsg_put_extra_header(h, sizeof(*g));
	g->nfgen_family = AF_UNSPEC;
	g->version = NFNETLINK_V0;
	g->res_id = htons(group);
	return h;
}

/* mnl_nlmsg_ok takes a length beyond INT_MAX for a negative one, and so for a short one. */
bool nflog_message_ok(const struct nlmsghdr *h, int left)
{
	return mnl_nlmsg_ok(h, left) && h->nlmsg_len <= (uint32_t)left;
}

/* The kernel's answer to a message that asked for one: 0 or a negative errno. */
static int transact(int fd, const struct nlmsghdr *h)
{
	char buf[512];
	const struct nlmsghdr *answer = (const void *)buf;
	ssize_t n;

	if (send(fd, h, h->nlmsg_len, 0) < 0)
		return -errno;
	n = recv(fd, buf, sizeof(buf), 0);
	if (n < 0)
		return -errno;
	if (!nflog_message_ok(answer, (int)n) || answer->nlmsg_type != NLMSG_ERROR)
		return -EBADMSG;
	if (mnl_nlmsg_get_payload_len(answer) < sizeof(struct nlmsgerr))
		return -EBADMSG;
	return ((const struct nlmsgerr *)mnl_nlmsg_get_payload(answer))->error;
}

int nflog_open(uint16_t group, struct err *e)
{
	_cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	struct nfulnl_msg_config_cmd bind_cmd = { .command = NFULNL_CFG_CMD_BIND };
	struct nfulnl_msg_config_mode mode = { .copy_range = htonl(256), .copy_mode = NFULNL_COPY_PACKET };
	struct sockaddr_nl a = { .nl_family = AF_NETLINK };
	char buf[256];
	struct nlmsghdr *h;
	int r, one = 1;

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return err_errno(e, errno, "netlink socket for refused packets");
	h = config_message(buf, group);
	mnl_attr_put(h, NFULA_CFG_CMD, sizeof(bind_cmd), &bind_cmd);
	r = transact(fd, h);
	if (r == 0) {
		h = config_message(buf, group);
		mnl_attr_put(h, NFULA_CFG_MODE, sizeof(mode), &mode);
		mnl_attr_put_u32(h, NFULA_CFG_QTHRESH, htonl(1)); /* tell at once: somebody waits to hear why */
		r = transact(fd, h);
	}
	if (r < 0)
		return err_errno(e, -r, "binding to the log of refused packets");
	/* A flood overruns the buffer and packets go unmentioned; that must not read as an error. */
	(void)setsockopt(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &one, sizeof(one));
	if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		return err_errno(e, errno, "fcntl");
	return TAKE_FD(fd);
}

static void map_v4(const void *p, struct in6_addr *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->s6_addr[10] = ret->s6_addr[11] = 0xff;
	memcpy(ret->s6_addr + 12, p, 4);
}

/* The name of a DNS question, without compression (a question has none): "" unless it is plain text. */
static void question_name(const unsigned char *p, size_t n, char ret[static POLICY_NAME_MAX])
{
	size_t at = 12, len = 0;

	ret[0] = '\0';
	while (at < n && p[at] != 0) {
		size_t label = p[at++];

		if (label > 63 || label > n - at || len + label + 1 >= POLICY_NAME_MAX) {
			ret[0] = '\0';
			return;
		}
		if (len > 0)
			ret[len++] = '.';
		for (size_t i = 0; i < label; i++, at++) {
			unsigned char c = p[at];

			if (c >= 'A' && c <= 'Z')
				c = (unsigned char)(c - 'A' + 'a');
			if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_'))
				c = '?';
			ret[len++] = (char)c;
		}
		ret[len] = '\0';
	}
	if (at >= n)
		ret[0] = '\0'; /* cut off: half a name would name somebody else */
}

static bool parse_transport(const unsigned char *p, size_t n, struct gateway_refused *r)
{
	if (r->proto != IPPROTO_TCP && r->proto != IPPROTO_UDP)
		return true;
	if (n < 4)
		return false;
	r->from_port = (uint16_t)(p[0] << 8 | p[1]);
	r->port = (uint16_t)(p[2] << 8 | p[3]);
	if (r->proto == IPPROTO_UDP && r->port == 53 && n > 8 + 12)
		question_name(p + 8, n - 8, r->name);
	return true;
}

bool nflog_parse_packet(const unsigned char *p, size_t n, struct gateway_refused *r)
{
	size_t head;

	if (n >= sizeof(struct iphdr) && p[0] >> 4 == 4) {
		head = (size_t)(p[0] & 15) * 4;
		if (head < sizeof(struct iphdr) || head > n)
			return false;
		r->proto = p[9];
		map_v4(p + 12, &r->from);
		map_v4(p + 16, &r->to);
		if (((p[6] & 31) << 8 | p[7]) != 0)
			return true; /* a later fragment has no ports */
	} else if (n >= sizeof(struct ip6_hdr) && p[0] >> 4 == 6) {
		head = sizeof(struct ip6_hdr);
		r->proto = p[6];
		memcpy(&r->from, p + 8, 16);
		memcpy(&r->to, p + 24, 16);
	} else {
		return false;
	}
	return parse_transport(p + head, n - head, r);
}

static bool parse_message(const struct nlmsghdr *h, struct gateway_refused *r)
{
	const struct nlattr *a;
	bool have = false;

	if (h->nlmsg_type != ((NFNL_SUBSYS_ULOG << 8) | NFULNL_MSG_PACKET))
		return false;
	memset(r, 0, sizeof(*r));
	for (a = mnl_nlmsg_get_payload_offset(h, sizeof(struct nfgenmsg));
	     mnl_attr_ok(a, (int)((const char *)mnl_nlmsg_get_payload_tail(h) - (const char *)a));
	     a = mnl_attr_next(a)) {
		size_t n = mnl_attr_get_payload_len(a);

		if (mnl_attr_get_type(a) == NFULA_PAYLOAD)
			have = nflog_parse_packet(mnl_attr_get_payload(a), n, r);
		else if (mnl_attr_get_type(a) == NFULA_PREFIX)
			(void)snprintf(r->rule, sizeof(r->rule), "%.*s", (int)strnlen(mnl_attr_get_payload(a), n),
				       (const char *)mnl_attr_get_payload(a));
	}
	return have;
}

int gateway_read_refused(int nflog, gateway_refused_fn fn, void *arg)
{
	char buf[16384] __attribute__((aligned(8)));
	struct gateway_refused r;
	int count = 0;

	for (int i = 0; i < RECEIVE_MAX; i++) {
		ssize_t n = recv(nflog, buf, sizeof(buf), 0);
		const struct nlmsghdr *h = (const void *)buf;
		int left = (int)n;

		if (n < 0 && (errno == EAGAIN || errno == ENOBUFS || errno == EINTR))
			return count;
		if (n < 0)
			return -errno;
		for (; nflog_message_ok(h, left); h = mnl_nlmsg_next(h, &left))
			if (parse_message(h, &r)) {
				fn(arg, &r);
				count++;
			}
	}
	return count;
}
