/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reports of the kernel in its log, by the words that jobs look for, too: tests/rig/trouble. That
 * file is on the emulated host only. finish reads all of the log there, and this names the moment.
 */
#ifndef TESTS_TROUBLE_H
#define TESTS_TROUBLE_H

#include <regex.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define TROUBLE		"/trouble"

/* All lines of the file as one regular expression; false if there is no such file. */
static inline bool read_trouble(regex_t *trouble)
{
	FILE *f = fopen(TROUBLE, "re");
	char all[2048] = "";
	size_t len;
	char *p;

	if (!f)
		return false;
	len = fread(all, 1, sizeof(all) - 1, f);
	fclose(f);
	while (len && all[len - 1] == '\n')
		all[--len] = 0;
	while ((p = strchr(all, '\n')))
		*p = '|';
	return len && !regcomp(trouble, all, REG_EXTENDED | REG_NOSUB);
}

/* Does this line of the kernel log report that something is wrong? */
static inline bool is_trouble(const char *line)
{
	static regex_t trouble;
	static bool tried, known;

	if (!tried) {
		tried = true;
		known = read_trouble(&trouble);
		if (!known)
			printf("# no " TROUBLE ": reports in the kernel log are not looked for\n");
	}
	return known && !regexec(&trouble, line, 0, NULL, 0);
}

#endif /* TESTS_TROUBLE_H */
