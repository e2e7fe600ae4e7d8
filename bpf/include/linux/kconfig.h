/* SPDX-License-Identifier: GPL-2.0-only */
/* BCC includes this before anything else; the one option its preamble asks for. */
#define CONFIG_BPF_SYSCALL 1
