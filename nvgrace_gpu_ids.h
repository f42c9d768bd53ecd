/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The GPUs that the driver has an alias for: NVIDIA's device id, and the product. It is the only
 * list: the driver's table, its tests, the tool and lint read it. GPUs with these ids may have no
 * coherent memory, and GPUs with other ids may: firmware says so.
 *
 * A file that includes this defines NVGRACE_GPU_ID(device, product) before.
 */
NVGRACE_GPU_ID(0x2342, "GH200")
NVGRACE_GPU_ID(0x2343, "Grace Hopper")
NVGRACE_GPU_ID(0x2345, "GH200")
NVGRACE_GPU_ID(0x2348, "GH200")
NVGRACE_GPU_ID(0x2941, "GB200")
NVGRACE_GPU_ID(0x297e, "Grace Blackwell")
NVGRACE_GPU_ID(0x29bc, "Grace Blackwell")
NVGRACE_GPU_ID(0x31a1, "Grace Blackwell")
NVGRACE_GPU_ID(0x31c2, "GB300")
