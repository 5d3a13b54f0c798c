/* What an account's id may look like; apart from the keys, for those who only look at ids. */

#include <errno.h>
#include <string.h>

#include "emulator/account-internal.h"

int account_id_parse(const char *s, char ret[static ACCOUNT_ID_SIZE])
{
	const char *name = strncmp(s, "acc_", 4) == 0 ? s + 4 : s;
	size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-");

	if (n == 0 || name[n] || n + 5 > ACCOUNT_ID_SIZE)
		return -EINVAL;
	(void)snprintf(ret, ACCOUNT_ID_SIZE, "acc_%.*s", (int)n, name);
	return 0;
}

bool account_id_valid(const char *id)
{
	char again[ACCOUNT_ID_SIZE];

	return account_id_parse(id, again) == 0 && strcmp(again, id) == 0;
}
