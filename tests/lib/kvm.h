/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A VM with one vCPU, without a VMM such as QEMU: memslots, registers, and a run that
 * ends when the guest stores to an address where nothing is.
 *
 * Functions return 0 or -errno.
 */
#ifndef TESTS_KVM_H
#define TESTS_KVM_H

#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/kvm.h>

#include "base.h"

#ifndef KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED
#define KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED 243
#endif

#define CORE_REG(name)	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | \
			 KVM_REG_ARM_CORE_REG(name))

/* EL1h, with debug exceptions, SError, IRQ and FIQ masked. */
#define PSTATE_EL1H	0x3c5

struct vm {
	int kvm;
	int fd;
	int vcpu;
	struct kvm_run *run;
};

static inline void vm_close(struct vm *vm)
{
	if (vm->vcpu >= 0)
		close(vm->vcpu);
	if (vm->fd >= 0)
		close(vm->fd);
	if (vm->kvm >= 0)
		close(vm->kvm);
	vm->kvm = vm->fd = vm->vcpu = -1;
}

/* After an error, too, vm_close() has to close what vm_open() has opened. */
static inline int vm_open(struct vm *vm, bool with_mte)
{
	struct kvm_enable_cap mte = { .cap = KVM_CAP_ARM_MTE };
	struct kvm_vcpu_init init;

	vm->kvm = vm->fd = vm->vcpu = -1;
	vm->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm < 0)
		return -errno;
	vm->fd = ioctl(vm->kvm, KVM_CREATE_VM, 0);
	if (vm->fd < 0)
		return -errno;
	if (with_mte && ioctl(vm->fd, KVM_ENABLE_CAP, &mte))
		return -errno;
	vm->vcpu = ioctl(vm->fd, KVM_CREATE_VCPU, 0);
	if (vm->vcpu < 0 ||
	    ioctl(vm->fd, KVM_ARM_PREFERRED_TARGET, &init) ||
	    ioctl(vm->vcpu, KVM_ARM_VCPU_INIT, &init))
		return -errno;
	vm->run = mmap(NULL, ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0),
		       PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu, 0);
	return vm->run == MAP_FAILED ? -errno : 0;
}

/* A size of 0 removes the memslot. */
static inline int vm_set_slot(const struct vm *vm, unsigned int slot, uint64_t gpa, void *hva,
			      uint64_t size, uint32_t flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)hva,
	};

	return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region) ? -errno : 0;
}

static inline int vm_set_reg(const struct vm *vm, uint64_t id, uint64_t value)
{
	struct kvm_one_reg reg = { .id = id, .addr = (uintptr_t)&value };

	return ioctl(vm->vcpu, KVM_SET_ONE_REG, &reg) ? -errno : 0;
}

static inline int vm_get_reg(const struct vm *vm, uint64_t id, uint64_t *value)
{
	struct kvm_one_reg reg = { .id = id, .addr = (uintptr_t)value };

	return ioctl(vm->vcpu, KVM_GET_ONE_REG, &reg) ? -errno : 0;
}

static inline int vm_run(const struct vm *vm)
{
	return ioctl(vm->vcpu, KVM_RUN, 0) ? -errno : 0;
}

/*
 * Returns the value of the store that ended the last run. KVM completes the store at the next
 * KVM_RUN, which goes no further here.
 */
static inline uint64_t vm_complete_store(struct vm *vm)
{
	uint64_t value;

	memcpy(&value, vm->run->mmio.data, sizeof(value));
	vm->run->immediate_exit = 1;
	vm_run(vm);
	vm->run->immediate_exit = 0;
	return value;
}

#endif /* TESTS_KVM_H */
