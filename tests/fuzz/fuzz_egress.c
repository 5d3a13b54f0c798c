/* The egress process's control socket: sandboxes come, get rules, and go, in any order. */

#include "emulator/base/log.h"

/* A line for each wrong message would be all there is to see. */
#undef log_error
#undef log_warn
#define log_error(...) log_debug(__VA_ARGS__)
#define log_warn(...) log_debug(__VA_ARGS__)
#include "netpolicy/egress.c" /* NOLINT(bugprone-suspicious-include) */

#include <sys/socket.h>

#include "tests/fuzz/fuzz.h"

static void send_one(int sock, struct fuzz_input *in)
{
	static const char *const texts[] = { "example.org",	   "*.a.test:443", "1.2.3.4:80",
					     "x.test=127.0.0.1:1", "z.test=::1",   "",
					     "[2001:db8::1]",	   "b.test:0" };
	unsigned int how = fuzz_byte(in);
	static char wire[1024]; /* a message may claim to be longer than it is */
	struct egress_msg m = { .magic = EGRESS_MAGIC, .type = how & 7, .index = fuzz_byte(in) & 3 };

	m.mode = fuzz_byte(in) & 3;
	m.flags = fuzz_byte(in) & 3;
	m.value = how >> 3 & 1;
	if (how & 0x20)
		(void)snprintf(m.text, sizeof(m.text), "%s", texts[fuzz_byte(in) % ARRAY_SIZE(texts)]);
	else
		fuzz_take(in, m.text, 64);
	if (how & 0x40)
		fuzz_take(in, &m, sizeof(m));
	memcpy(wire, &m, sizeof(m));
	(void)!fd_send_msg(sock, wire, how & 0x80 ? fuzz_byte(in) * 2u + 1 : sizeof(m), NULL, 0);
}

static void forget_map(struct map *m)
{
	map_clear(m);
	zone_clear(m);
	for (size_t i = 0; i < m->n_synthetic; i++) {
		HASH_DEL(m->synthetic, m->by_number[i]);
		free(m->by_number[i]);
	}
	free(m->by_number);
	m->by_number = NULL;
	m->n_synthetic = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static struct egress eg;
	struct fuzz_input in = { p, n };
	int sv[2];

	STAILQ_INIT(&eg.events);
	eg.ep = -1;
	fuzz_check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) == 0);
	eg.control = (struct source){ .fd = sv[0], .eg = &eg, .ready = control_ready };
	for (int i = 0; in.n > 0 && i < 100; i++) {
		send_one(sv[1], &in);
		control_ready(&eg.control, EPOLLIN);
	}
	for (uint32_t i = 0; i < GATEWAY_MAX; i++)
		if (eg.sandboxes[i]) {
			fuzz_check(eg.sandboxes[i]->index == i && eg.sandboxes[i]->policy);
			sandbox_remove(&eg, i);
		}
	forget_map(&eg.map);
	closep(&eg.control.fd);
	closep(&sv[1]);
	return 0;
}
