// SPDX-License-Identifier: GPL-2.0-only
/* A guest that runs until it is stopped. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	puts("# the guest is up");
	fflush(stdout);
	for (;;)
		pause();
}
