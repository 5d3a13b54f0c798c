#pragma once
/* The name a client says it wants, from the first bytes it sends: the TLS ClientHello's SNI (RFC 8446, 6066)
 * and the HTTP/1 Host header (RFC 9112). Pure; every input is hostile. Call again with more bytes from the
 * start while the answer is SNIFF_MORE. */

#include "netpolicy/policy.h"

#define SNIFF_MAX 16384 /* more than this before a verdict is none */

enum sniff {
	SNIFF_MORE, /* a prefix of something well-formed */
	SNIFF_NAME, /* ret holds the normalised name */
	SNIFF_NONE, /* well-formed, but names nobody (no SNI, no Host, or an address literal as Host) */
	SNIFF_BAD,  /* not that protocol, or made to be read in two ways */
};

enum sniff sniff_tls(const void *p, size_t n, char ret[static POLICY_NAME_MAX]);
enum sniff sniff_http(const void *start, size_t n, char ret[static POLICY_NAME_MAX]);
