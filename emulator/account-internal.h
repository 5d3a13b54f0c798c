#pragma once
/* What account.c (who is it), account_id.c (names), account_spec.c (the command line) and account_key.c (run time) share. */

#include <nettle/sha2.h>

#include "emulator/account.h"

#define KEY_MIN 8
#define KEY_MAX 256

struct entry {
	unsigned char digest[SHA256_DIGEST_SIZE];
	struct account account;
	char label[KEY_LABEL_SIZE];
	bool made; /* at run time: it is in the store */
	int64_t created_ms, expires_ms, revoked_ms;
};

struct accounts {
	bool accept_any;
	enum plan_id default_plan;
	struct entry *list;
	size_t n, cap;
	struct store *store; /* NULL: nothing is kept */
};

/* NULL if the n bytes can be a key, or what is wrong with them. */
const char *account_key_fault(const char *key, size_t n);
void account_key_digest(const char *key, size_t n, unsigned char ret[static SHA256_DIGEST_SIZE]);
void account_ids_of(const unsigned char *digest, struct account *ret);
/* Digest, and the ids that derive from it. */
void account_entry_init(struct entry *en, const char *key, size_t n);
/* The id of a named account: "acc_" before it unless it is there. -EINVAL for what can't be one. */
int account_id_parse(const char *s, char ret[static ACCOUNT_ID_SIZE]);
struct entry *account_entry_find(const struct accounts *a, const unsigned char *digest);
int account_entry_append(struct accounts *a, const struct entry *en, struct err *e);
