/* A full-screen program for test_exec_pty.py: the alternate screen, raw keys, a frame as large as the
 * terminal that is drawn anew when the size changes. Keys are shown; q leaves. Built static. */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static volatile sig_atomic_t resized = 1;

static void on_winch(int sig)
{
	(void)sig;
	resized = 1;
}

static void draw(void)
{
	struct winsize w = { 0 };

	resized = 0;
	if (ioctl(0, TIOCGWINSZ, &w) < 0)
		exit(3);
	printf("\033[2J\033[1;1H");
	for (int row = 1; row <= w.ws_row; row++)
		printf("\033[%d;1H|\033[%d;%dH|", row, row, w.ws_col);
	printf("\033[2;3Hsize %dx%d\033[3;3H", w.ws_row, w.ws_col);
	fflush(stdout);
}

int main(void)
{
	struct sigaction sa;
	struct termios old, raw;
	char key;

	if (!isatty(0) || !isatty(1) || !isatty(2) || tcgetattr(0, &old) < 0) {
		puts("no terminal");
		return 2;
	}
	memset(&sa, 0, sizeof(sa));
	sa.sa_handler = on_winch;
	sigaction(SIGWINCH, &sa, NULL);
	raw = old;
	cfmakeraw(&raw);
	tcsetattr(0, TCSANOW, &raw);
	printf("\033[?1049h");
	for (;;) {
		ssize_t n;

		if (resized)
			draw();
		n = read(0, &key, 1);
		if (n == 0 || (n == 1 && key == 'q'))
			break;
		if (n == 1) {
			printf("key <%02x>", (unsigned char)key);
			fflush(stdout);
		}
	}
	printf("\033[?1049l");
	tcsetattr(0, TCSANOW, &old);
	printf("bye from %s\n", getenv("TERM"));
	return 7;
}
