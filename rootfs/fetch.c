#include "rootfs/fetch.h"

#include <errno.h>
#include <string.h>

#include "emulator/base/buf.h"
#include "emulator/base/text.h"
#include "rootfs/proc.h"

#define CURL_NOT_FOUND 125

/* -q: no ~/.curlrc. --proto: an answer that redirects to file:// or ftp:// is refused. */
int fetch(const char *url, const char *accept, uint32_t timeout_s, struct buf *out, struct err *e)
{
	_cleanup_proc_ struct proc p = PROC_INIT;
	char max_time[16], header[96] = "Accept: */*";
	const char *const argv[] = { "curl",
				     "-q",
				     "--silent",
				     "--show-error",
				     "--fail",
				     "--location",
				     "--max-redirs",
				     "5",
				     "--proto",
				     "=http,https",
				     "--connect-timeout",
				     "5",
				     "--max-time",
				     max_time,
				     "--header",
				     header,
				     "--output",
				     "-",
				     "--",
				     url,
				     NULL };
	struct proc_spec s = {
		.argv = argv, .env = (const char *const *)environ, .stdin_fd = -1, .timeout_s = timeout_s + 5
	};
	char b[16384];
	int r, status;
	ssize_t n;

	(void)snprintf(max_time, sizeof(max_time), "%u", timeout_s);
	if (accept)
		(void)snprintf(header, sizeof(header), "Accept: %s", accept);
	r = proc_start(&p, &s, e);
	if (r < 0)
		return r;
	while ((n = proc_read(&p, b, sizeof(b))) > 0) {
		r = buf_add(out, b, (size_t)n);
		if (r < 0)
			return err_set(e, ERR_TOO_LARGE, EFBIG, NULL, "%s is larger than %zu bytes", url, out->max);
	}
	r = proc_finish(&p, &status, e);
	if (r < 0 && status == CURL_NOT_FOUND)
		return err_set(e, ERR_UNAVAILABLE, ENOENT, NULL, "curl is missing: apt-get install -y curl");
	if (r < 0)
		err_prefix(e, "%s", url);
	return r;
}

bool fetch_answers(const char *url, uint32_t timeout_s)
{
	_cleanup_buf_ struct buf b = BUF_INIT(8u << 20);

	return fetch(url, NULL, timeout_s, &b, NULL) == 0;
}
