#pragma once
/* The netlink side of gateway_read_refused: a socket that hears of logged packets. */

#include "emulator/base/err.h"

/* Bound to an NFLOG group of the current network namespace, copying packet heads; non-blocking. The fd or a
 * negative errno. */
int nflog_open(uint16_t group, struct err *e);

/* mnl_nlmsg_ok, strictly. */
struct nlmsghdr;
bool nflog_message_ok(const struct nlmsghdr *h, int left);

/* The head of an IP packet: addresses, protocol, ports, the name a DNS question asks for. False: it makes no sense. */
struct gateway_refused;
bool nflog_parse_packet(const unsigned char *p, size_t n, struct gateway_refused *r);
