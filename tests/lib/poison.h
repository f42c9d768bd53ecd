/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Poisoned pages of the coherent memory, by the kernel's own injector.
 */
#ifndef TESTS_POISON_H
#define TESTS_POISON_H

#include "base.h"

/* NULL if mm notifies the driver of poisoned pages, or what the kernel lacks for that. */
static inline const char *no_poison(void)
{
	return !kernel_has("MEMORY_FAILURE") ? "the kernel has no MEMORY_FAILURE" :
	       !kernel_has("PFN_ADDRESS_SPACE") ? "the kernel has no PFN_ADDRESS_SPACE" : NULL;
}

/* Do as mm does when hardware reports the page; 0 or -errno. */
static inline int inject_poison(uint64_t phys)
{
	char text[32];

	snprintf(text, sizeof(text), "0x%lx", phys);
	return write_file("/sys/devices/system/memory/hard_offline_page", text);
}

#endif /* TESTS_POISON_H */
