/* SPDX-License-Identifier: GPL-2.0-only */
/* The oldest supported kernel: BCC offers only the helpers that it has. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 15, 0)
