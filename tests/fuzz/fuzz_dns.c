/* The DNS parser on any bytes; what it takes, the builder must be able to say and the parser to read
 * again. */

#include "netpolicy/dns.h"
#include "tests/fuzz/fuzz.h"

static void answers(const uint8_t *p, size_t n, const struct dns_query *q)
{
	static uint8_t buf[DNS_MAX];
	struct dns_answer a, b;
	enum dns_rcode rcode;
	size_t len;
	ssize_t k;

	if (dns_parse_answer(p, n, q->id, q->name, q->type, &a) == 0) {
		fuzz_check(a.n_addr <= DNS_ADDR_MAX && a.n_chain <= DNS_CHAIN_MAX);
		k = dns_build_answer(buf, sizeof(buf), q, &a);
		fuzz_check(k > 0 && dns_parse_answer(buf, (size_t)k, q->id, q->name, q->type, &b) == 0);
		fuzz_check(b.n_addr == a.n_addr && b.n_chain == a.n_chain);
	}
	if (dns_check_answer(p, n, q->id, q->name, q->type, &len, &rcode) == 0) {
		fuzz_check(len <= n);
		k = dns_build_passed(buf, sizeof(buf), q, p, len);
		fuzz_check(k == -90 ||
			   (k > 0 && dns_check_answer(buf, (size_t)k, q->id, q->name, q->type, &len, &rcode) == 0));
	}
}

/* The question of an answer is the question: so any answer is tried as one to what it says it answers. */
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static uint8_t asked[DNS_MAX];
	struct dns_query q;

	(void)dns_parse_query(p, n, &q);
	if (n < DNS_HEADER || n > sizeof(asked))
		return 0;
	memcpy(asked, p, n);
	asked[2] = 1;
	memset(asked + 6, 0, 6);
	for (size_t end = DNS_HEADER + 5; end <= n && end < DNS_HEADER + 300; end++)
		if (dns_parse_query(asked, end, &q) == 0 && q.opcode == 0) {
			answers(p, n, &q);
			break;
		}
	return 0;
}
