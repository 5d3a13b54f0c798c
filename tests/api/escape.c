/* Ways out that others have found, tried from inside a sandbox as its root. Built static by test_escape.py and put into
 * a sandbox; each word is one of them. It prints what happened and decides nothing.
 *
 * With -DAUDIT -shared it is the library of "exe-fd": the dynamic loader runs it before anything of the program whose
 * file is wanted (ld.so(8), LD_AUDIT), as the exploit of CVE-2019-5736 did with a library of its own. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#ifdef AUDIT

/* Without a C library, which the loader does not find so early in an image without a cache of its own. */
static long call(long nr, long a, long b, long c)
{
	register long ret __asm__("rax") = nr;

	__asm__ volatile("syscall" : "+r"(ret) : "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return ret;
}

unsigned int la_version(unsigned int version);
unsigned int la_version(unsigned int version)
{
	static const char file[] = "/proc/self/exe", program[] = "/tmp/escape", word[] = "exe-fd";
	char number[2] = "0";
	const char *argv[] = { program, word, number, NULL }, *env[] = { NULL };

	number[0] = (char)('0' + call(SYS_open, (long)file, O_PATH, 0));
	call(SYS_execve, (long)program, (long)argv, (long)env);
	return version;
}

#else

static const char *name_of(int errnum)
{
	const char *s = strerrorname_np(errnum);

	return s ? s : "?";
}

/* Overwrites the program whose file this descriptor names. One byte, and the one it has: no harm if it works. */
static void exe_fd(const char *number)
{
	char path[64], link[256] = "", byte = 0x7f;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%s", number);
	printf("file %s\n", readlink(path, link, sizeof(link) - 1) < 0 ? name_of(errno) : link);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		printf("open %s\n", name_of(errno));
	else
		printf("write %s\n", pwrite(fd, &byte, 1, 0) < 0 ? name_of(errno) : "WORKED");
}

/* Descriptors that came along: each one's number and what it is. */
static void fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	const struct dirent *e;

	while (d && (e = readdir(d))) {
		char path[300], link[256] = "";

		if (e->d_name[0] == '.' || strtol(e->d_name, NULL, 10) == dirfd(d))
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%s", e->d_name);
		if (readlink(path, link, sizeof(link) - 1) > 0)
			printf("%s %s\n", e->d_name, link);
	}
}

static void abstract(const char *name)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	size_t n = strlen(name);

	memcpy(a.sun_path + 1, name, n);
	printf("%s\n",
	       connect(fd, (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n)) < 0
		       ? name_of(errno)
		       : "WORKED");
}

/* A new nftables table, as the first step of CVE-2024-1086 and its like. */
static void nft(void)
{
	struct {
		struct nlmsghdr h;
		struct nfgenmsg g;
		char rest[16];
	} m[3] = { 0 };
	struct sockaddr_nl a = { .nl_family = AF_NETLINK };
	char answer[4096];
	const struct nlmsghdr *h = (void *)answer;
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
	ssize_t n;

	if (fd < 0) {
		printf("%s\n", name_of(errno));
		return;
	}
	for (int i = 0; i < 3; i++) {
		m[i].h.nlmsg_len = sizeof(m[i]);
		m[i].h.nlmsg_flags = NLM_F_REQUEST | (i == 1 ? NLM_F_ACK | NLM_F_CREATE : 0);
		m[i].h.nlmsg_seq = (unsigned int)i + 1;
		m[i].g.res_id = htons(NFNL_SUBSYS_NFTABLES);
	}
	m[0].h.nlmsg_type = NFNL_MSG_BATCH_BEGIN;
	m[1].h.nlmsg_type = NFNL_SUBSYS_NFTABLES << 8;
	m[1].g = (struct nfgenmsg){ .nfgen_family = 2 };
	memcpy(m[1].rest, "\x09\0\1\0evil\0", 9);
	m[2].h.nlmsg_type = NFNL_MSG_BATCH_END;
	if (sendto(fd, m, sizeof(m), 0, (struct sockaddr *)&a, sizeof(a)) < 0) {
		printf("%s\n", name_of(errno));
		return;
	}
	n = recv(fd, answer, sizeof(answer), 0);
	if (n < (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)) || h->nlmsg_type != NLMSG_ERROR)
		printf("no answer\n");
	else
		printf("%s\n", ((struct nlmsgerr *)NLMSG_DATA(h))->error
				       ? name_of(-((struct nlmsgerr *)NLMSG_DATA(h))->error)
				       : "WORKED");
}

/* iptables' way in (CVE-2021-22555): replacing a table. */
static void iptables(void)
{
	char blob[4096] = "filter";
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	printf("%s\n", setsockopt(fd, 0 /* SOL_IP */, 64 /* IPT_SO_SET_REPLACE */, blob, sizeof(blob)) < 0
			       ? name_of(errno)
			       : "WORKED");
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (strcmp(what, "exe-fd") == 0 && argc > 2)
		exe_fd(argv[2]);
	else if (strcmp(what, "fds") == 0)
		fds();
	else if (strcmp(what, "abstract") == 0 && argc > 2)
		abstract(argv[2]);
	else if (strcmp(what, "nft") == 0)
		nft();
	else if (strcmp(what, "iptables") == 0)
		iptables();
	else
		return 2;
	return 0;
}
#endif
