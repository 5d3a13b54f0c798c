#include "api/control.h"
#include "api/sandbox_json.h"

#include <string.h>

#include "emulator/base/clock.h"

bool control_account(struct req *r, const char *where, const char *account, const char *key,
		     char ret[static ACCOUNT_ID_SIZE])
{
	struct account a;

	ret[0] = '\0';
	if (account && *account) {
		if (strlen(account) >= ACCOUNT_ID_SIZE || strncmp(account, "acc_", 4) != 0) {
			req_reply_invalid(r, where, "account", "value_error",
					  "Value error, an account's id begins with acc_");
			return false;
		}
		(void)snprintf(ret, ACCOUNT_ID_SIZE, "%s", account);
		return true;
	}
	if (!key || !*key)
		return true;
	if (accounts_find(req_api(r)->accounts, key, &a, NULL) < 0) {
		req_reply_invalid(r, where, "key", "value_error", "Value error, no API key of this emulator");
		return false;
	}
	(void)snprintf(ret, ACCOUNT_ID_SIZE, "%s", a.id);
	return true;
}
