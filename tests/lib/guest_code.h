/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Code that a vCPU runs, as functions of the program that makes the VM.
 *
 * Copy from __start_guest_text to __stop_guest_text to the guest's memory; VBAR_EL1 is
 * where the copy begins. From guest_entry the vCPU calls x3 with x0, and stores the
 * result at x19. Each of the 16 vectors stores ESR_EL1 after that.
 */
#ifndef TESTS_GUEST_CODE_H
#define TESTS_GUEST_CODE_H

#include <stdint.h>

/*
 * A function of the guest uses no data of the program's, since only code is copied, and no
 * register that EL1 would have to enable first.
 */
#define GUEST	__attribute__((__section__("guest_text"), __noinline__, __used__,	\
			       __target__("general-regs-only")))

extern const char __start_guest_text[], __stop_guest_text[], guest_entry[];

#define GUEST_ESR	8	/* where vectors store, from x19 */

asm(".pushsection guest_text, \"ax\"\n\t"
	".balign	2048\n\t"
	".rept		16\n\t"
	"mrs		x0, esr_el1\n\t"
	"str		x0, [x19, #8]\n\t"
	"b		.\n\t"
	".balign	128\n\t"
	".endr\n\t"
	".globl		guest_entry\n"
	"guest_entry:\n\t"
	"blr		x3\n\t"
	"str		x0, [x19]\n\t"
	"b		.\n\t"
	".popsection\n");

#endif /* TESTS_GUEST_CODE_H */
