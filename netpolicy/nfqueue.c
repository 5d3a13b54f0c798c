#include "netpolicy/nfqueue.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nf_tables_compat.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netfilter/xt_NFQUEUE.h>
#include <string.h>
#include <sys/socket.h>

#include "emulator/base/fd.h"
#include "netpolicy/gateway.h"
#include "netpolicy/nflog.h"

#define QUEUE_LENGTH 1024
#define COPY_BYTES 256
#define RECEIVE_MAX 64 /* datagrams a call */

static struct nlmsghdr *put_header(char *buf, unsigned int type, unsigned int flags, unsigned int family,
				   uint16_t resource)
{
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
	struct nfgenmsg *g;

	h->nlmsg_type = (uint16_t)type;
	h->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
	g = mnl_nlmsg_put_extra_header(h, sizeof(*g));
	g->nfgen_family = (uint8_t)family;
	g->version = NFNETLINK_V0;
	g->res_id = htons(resource);
	return h;
}

static int transact(int fd, const void *p, size_t n)
{
	char buf[1024] __attribute__((aligned(8)));
	const struct nlmsghdr *h = (const void *)buf;
	ssize_t k;

	if (send(fd, p, n, 0) < 0)
		return -errno;
	k = recv(fd, buf, sizeof(buf), 0);
	if (k < 0)
		return -errno;
	if (!nflog_message_ok(h, (int)k) || h->nlmsg_type != NLMSG_ERROR ||
	    mnl_nlmsg_get_payload_len(h) < sizeof(struct nlmsgerr))
		return -EBADMSG;
	return ((const struct nlmsgerr *)mnl_nlmsg_get_payload(h))->error;
}

static int netfilter_socket(void)
{
	struct sockaddr_nl a = { .nl_family = AF_NETLINK };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER), r;

	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
		return fd;
	r = -errno;
	(void)close(fd);
	return r;
}

int nfqueue_open(struct err *e)
{
	const struct nfqnl_msg_config_params params = { .copy_range = htonl(COPY_BYTES),
							.copy_mode = NFQNL_COPY_PACKET };
	const struct nfqnl_msg_config_cmd cmd = { .command = NFQNL_CFG_CMD_BIND };
	_cleanup_close_ int fd = netfilter_socket();
	char buf[512] __attribute__((aligned(8)));
	struct nlmsghdr *h;
	int r = fd, one = 1;

	if (r >= 0) {
		h = put_header(buf, NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG, NLM_F_ACK, AF_UNSPEC, 0);
		mnl_attr_put(h, NFQA_CFG_CMD, sizeof(cmd), &cmd);
		r = transact(fd, h, h->nlmsg_len);
	}
	if (r >= 0) {
		h = put_header(buf, NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_CONFIG, NLM_F_ACK, AF_UNSPEC, 0);
		mnl_attr_put(h, NFQA_CFG_PARAMS, sizeof(params), &params);
		mnl_attr_put_u32(h, NFQA_CFG_QUEUE_MAXLEN, htonl(QUEUE_LENGTH));
		mnl_attr_put_u32(h, NFQA_CFG_FLAGS, htonl(NFQA_CFG_F_FAIL_OPEN));
		mnl_attr_put_u32(h, NFQA_CFG_MASK, htonl(NFQA_CFG_F_FAIL_OPEN));
		r = transact(fd, h, h->nlmsg_len);
	}
	if (r < 0)
		return err_errno(e, -r, "binding to the queue of packets");
	(void)setsockopt(fd, SOL_NETLINK, NETLINK_NO_ENOBUFS, &one, sizeof(one));
	if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		return err_errno(e, errno, "fcntl");
	return TAKE_FD(fd);
}

static void put_rule(struct nlmsghdr *h, const char *table, const char *chain)
{
	/* As long as xtables would have made it. */
	static const union {
		struct xt_NFQ_info_v3 info;
		uint64_t aligned;
	} target = { .info = { .queues_total = 1, .flags = NFQ_FLAG_BYPASS } };
	struct nlattr *list, *elem, *data;

	mnl_attr_put_strz(h, NFTA_RULE_TABLE, table);
	mnl_attr_put_strz(h, NFTA_RULE_CHAIN, chain);
	list = mnl_attr_nest_start(h, NFTA_RULE_EXPRESSIONS);
	elem = mnl_attr_nest_start(h, NFTA_LIST_ELEM);
	mnl_attr_put_strz(h, NFTA_EXPR_NAME, "target");
	data = mnl_attr_nest_start(h, NFTA_EXPR_DATA);
	mnl_attr_put_strz(h, NFTA_TARGET_NAME, "NFQUEUE");
	mnl_attr_put_u32(h, NFTA_TARGET_REV, htonl(3));
	mnl_attr_put(h, NFTA_TARGET_INFO, sizeof(target), &target);
	mnl_attr_nest_end(h, data);
	mnl_attr_nest_end(h, elem);
	mnl_attr_nest_end(h, list);
}

int nfqueue_add_rule(const char *table, const char *chain)
{
	char buf[1024] __attribute__((aligned(8)));
	_cleanup_close_ int fd = netfilter_socket();
	struct nlmsghdr *h;
	char *p = buf;

	if (fd < 0)
		return fd;
	h = put_header(p, NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
	p += h->nlmsg_len;
	h = put_header(p, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND | NLM_F_ACK,
		       NFPROTO_INET, 0);
	h->nlmsg_seq = 1;
	put_rule(h, table, chain);
	p += h->nlmsg_len;
	h = put_header(p, NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
	p += h->nlmsg_len;
	return transact(fd, buf, (size_t)(p - buf));
}

int gateway_answer(int queue, uint32_t id, enum gateway_mark mark)
{
	const struct nfqnl_msg_verdict_hdr verdict = { .verdict = htonl(NF_ACCEPT), .id = htonl(id) };
	char buf[256] __attribute__((aligned(8)));
	struct nlmsghdr *h = put_header(buf, NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_VERDICT, 0, AF_UNSPEC, 0);

	mnl_attr_put(h, NFQA_VERDICT_HDR, sizeof(verdict), &verdict);
	mnl_attr_put_u32(h, NFQA_MARK, htonl(mark));
	return send(queue, h, h->nlmsg_len, 0) < 0 ? -errno : 0;
}

/* 1: a packet, with sense or (ret->proto 0) without; 0: no packet. */
static int parse_asked(const struct nlmsghdr *h, uint32_t *ret_id, struct gateway_refused *ret)
{
	const struct nlattr *a;
	bool have = false;

	if (h->nlmsg_type != (NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET))
		return 0;
	memset(ret, 0, sizeof(*ret));
	for (a = mnl_nlmsg_get_payload_offset(h, sizeof(struct nfgenmsg));
	     mnl_attr_ok(a, (int)((const char *)mnl_nlmsg_get_payload_tail(h) - (const char *)a));
	     a = mnl_attr_next(a)) {
		size_t n = mnl_attr_get_payload_len(a);

		if (mnl_attr_get_type(a) == NFQA_PACKET_HDR && n >= sizeof(struct nfqnl_msg_packet_hdr)) {
			*ret_id = ntohl(((const struct nfqnl_msg_packet_hdr *)mnl_attr_get_payload(a))->packet_id);
			have = true;
		} else if (mnl_attr_get_type(a) == NFQA_PAYLOAD &&
			   !nflog_parse_packet(mnl_attr_get_payload(a), n, ret)) {
			memset(ret, 0, sizeof(*ret));
		}
	}
	return have;
}

int gateway_read_asked(int queue, gateway_asked_fn fn, void *arg)
{
	char buf[4096] __attribute__((aligned(8)));
	struct gateway_refused r;
	uint32_t id = 0;
	int count = 0;

	for (int i = 0; i < RECEIVE_MAX; i++) {
		ssize_t n = recv(queue, buf, sizeof(buf), 0);
		const struct nlmsghdr *h = (const void *)buf;
		int left = (int)n;

		if (n < 0)
			return errno == EAGAIN || errno == ENOBUFS || errno == EINTR ? count : -errno;
		for (; nflog_message_ok(h, left); h = mnl_nlmsg_next(h, &left))
			if (parse_asked(h, &id, &r)) {
				fn(arg, id, &r);
				count++;
			}
	}
	return count;
}
