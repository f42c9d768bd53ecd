/* SPDX-License-Identifier: GPL-2.0-only */
/* Test-only: what nvidia.c has for other modules. */
#ifndef NVIDIA_H
#define NVIDIA_H

int nvidia_dev_get(unsigned int minor);
void nvidia_dev_put(unsigned int minor);

#endif
