/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SENSOR_MIX_H
#define SENSOR_MIX_H

#include <stdint.h>

/* Mixes every bit into all 64 (finalizer of splitmix64, https://prng.di.unimi.it/splitmix64.c). */
static inline uint64_t mix(uint64_t bits)
{
	bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
	bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
	return bits ^ (bits >> 31);
}

#endif
