/* Netlink messages about refused packets, and about packets that wait for an answer; their payload is a sandbox's. They
 * come over a socket pair. */

#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include "netpolicy/gateway.h"
#include "tests/fuzz/fuzz.h"

static void see(void *arg, const struct gateway_refused *r)
{
	fuzz_check(memchr(r->name, '\0', sizeof(r->name)) && memchr(r->rule, '\0', sizeof(r->rule)));
	++*(int *)arg;
}

static void see_asked(void *arg, uint32_t id, const struct gateway_refused *r)
{
	(void)id;
	see(arg, r);
}

/* One packet, as the kernel would queue it. */
static size_t wrap_asked(const uint8_t *p, size_t n, char *to)
{
	struct nlmsghdr h = { .nlmsg_type = NFNL_SUBSYS_QUEUE << 8 | NFQNL_MSG_PACKET };
	struct nlattr head = { sizeof(head) + sizeof(struct nfqnl_msg_packet_hdr), NFQA_PACKET_HDR };
	struct nlattr a = { (uint16_t)(sizeof(a) + n), NFQA_PAYLOAD };
	size_t at = sizeof(h) + sizeof(struct nfgenmsg);

	memset(to, 0, at + 16);
	memcpy(to + at, &head, sizeof(head));
	at += (head.nla_len + 3u) & ~3u;
	memcpy(to + at, &a, sizeof(a));
	memcpy(to + at + sizeof(a), p, n);
	at += sizeof(a) + n;
	h.nlmsg_len = (uint32_t)at;
	memcpy(to, &h, sizeof(h));
	return at;
}

/* One packet with a prefix, as the kernel would log it. */
static size_t wrap(const uint8_t *p, size_t n, char *to)
{
	struct nlmsghdr h = { .nlmsg_type = (NFNL_SUBSYS_ULOG << 8) | NFULNL_MSG_PACKET };
	struct nlattr prefix = { sizeof(prefix) + 8, NFULA_PREFIX };
	struct nlattr a = { (uint16_t)(sizeof(a) + n), NFULA_PAYLOAD };
	size_t at = sizeof(h) + sizeof(struct nfgenmsg);

	memset(to, 0, at);
	memcpy(to + at, &prefix, sizeof(prefix));
	memcpy(to + at + sizeof(prefix), "off\0\0\0\0", 8);
	at += sizeof(prefix) + 8;
	memcpy(to + at, &a, sizeof(a));
	memcpy(to + at + sizeof(a), p, n);
	at += sizeof(a) + n;
	h.nlmsg_len = (uint32_t)at;
	memcpy(to, &h, sizeof(h));
	return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static int sv[2] = { -1, -1 };
	static char whole[4096];
	int seen = 0, r;

	if (sv[0] < 0)
		fuzz_check(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) == 0);
	if (n < 1 || n > 2048)
		return 0;
	if (p[0] & 1)
		(void)!send(sv[0], whole, p[0] & 2 ? wrap_asked(p + 1, n - 1, whole) : wrap(p + 1, n - 1, whole), 0);
	else
		(void)!send(sv[0], p + 1, n - 1, 0);
	r = p[0] & 2 ? gateway_read_asked(sv[1], see_asked, &seen) : gateway_read_refused(sv[1], see, &seen);
	fuzz_check(r == seen);
	return 0;
}
