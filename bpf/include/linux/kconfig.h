/* SPDX-License-Identifier: GPL-2.0-only */
/* BCC includes this first. It sets the only option that BCC's preamble checks. */
#define CONFIG_BPF_SYSCALL 1
