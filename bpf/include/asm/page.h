/* SPDX-License-Identifier: GPL-2.0-only */
/* BCC's preamble uses these in its own macros; the program does not depend on the page size. */
#ifndef SENSOR_ASM_PAGE_H
#define SENSOR_ASM_PAGE_H
#define PAGE_SHIFT 12
#define PAGE_SIZE (1UL << PAGE_SHIFT)
#endif
