/* Takes as many inotify and fanotify instances as the kernel lets it; says how many, and stays. */

#include <stdio.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef FAN_REPORT_FID
#define FAN_REPORT_FID 0x200
#endif

int main(void)
{
	const struct rlimit all = { 4096, 4096 };
	int inotify = 0, fanotify = 0;

	(void)setrlimit(RLIMIT_NOFILE, &all);
	while (inotify < 1000 && inotify_init1(0) >= 0)
		inotify++;
	while (fanotify < 1000 && fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID, 0) >= 0)
		fanotify++;
	printf("inotify %d fanotify %d\n", inotify, fanotify);
	(void)fflush(stdout);
	pause();
	return 0;
}
