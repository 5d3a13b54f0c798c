#include "netpolicy/blocked.h"

#include <errno.h>
#include <string.h>

#define REPEAT_US 1000000

struct blocked {
	size_t n, next; /* next: where the coming one goes */
	struct blocked_entry ring[BLOCKED_MAX];
};

static bool same(const struct blocked_entry *a, const struct blocked_entry *b)
{
	return a->port == b->port && a->proto == b->proto && memcmp(&a->address, &b->address, sizeof(a->address)) == 0 &&
	       strcmp(a->host, b->host) == 0 && strcmp(a->rule, b->rule) == 0;
}

int blocked_add(struct blocked **b, const struct blocked_entry *en)
{
	if (!*b) {
		*b = calloc(1, sizeof(**b));
		if (!*b)
			return -ENOMEM;
	}
	for (size_t i = 0; i < (*b)->n; i++) {
		struct blocked_entry *old = &(*b)->ring[i];

		/* A program that retries is one attempt; it counts as the latest. */
		if (same(old, en) && en->at_us - old->at_us < REPEAT_US) {
			old->at_us = en->at_us;
			return 0;
		}
	}
	(*b)->ring[(*b)->next] = *en;
	(*b)->next = ((*b)->next + 1) % BLOCKED_MAX;
	(*b)->n = MIN((*b)->n + 1, (size_t)BLOCKED_MAX);
	return 0;
}

size_t blocked_each(const struct blocked *b, int64_t since_us, void (*fn)(void *arg, const struct blocked_entry *en), void *arg)
{
	size_t count = 0;

	for (size_t i = 0; b && i < b->n; i++) {
		const struct blocked_entry *en = &b->ring[(b->next + BLOCKED_MAX - b->n + i) % BLOCKED_MAX];

		if (en->at_us < since_us)
			continue;
		fn(arg, en);
		count++;
	}
	return count;
}

void blocked_free(struct blocked *b)
{
	free(b);
}
