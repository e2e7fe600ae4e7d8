// SPDX-License-Identifier: Apache-2.0
/*
 * The loop over the blocks of a pcapng file. sensor/native/blocks.py calls it and describes the
 * arguments. The bytes come from anyone: each length is checked once against the buffer before
 * anything behind it is read. Nothing here allocates memory or keeps state between calls.
 * Format: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html.
 */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define SECTION_HEADER 0x0A0D0D0A	/* the same in both byte orders */
#define INTERFACE_DESCRIPTION 1
#define OBSOLETE_PACKET 2
#define SIMPLE_PACKET 3
#define ENHANCED_PACKET 6

#define BLOCK_HEADER_SIZE 8
#define BLOCK_SIZE_MIN 12	/* type, length, and the length again at the end */
#define BLOCK_SIZE_MAX (1 << 24)	/* of a block that is read; others are skipped at any length */
#define PACKET_HEADER_SIZE 28
#define SIMPLE_HEADER_SIZE 12
#define FRAME_SIZE_MAX 262144

#define SECOND_NS 1000000000

/* Why a walk stopped; mirrored in blocks.py. */
enum stop {
	STOP_MORE,	/* the next block is not whole */
	STOP_FULL,	/* no room for another frame */
	STOP_LINKTYPE,	/* the next frame has another link type */
	STOP_SECTION,	/* the next block is a section header, not checked */
	STOP_INTERFACE,	/* the next block is an interface description; its length is checked */
	STOP_BAD_LENGTH,
	STOP_BAD_END,	/* the length at the end of the block differs from the one at its start */
	STOP_BAD_INTERFACE,
	STOP_BAD_FRAME,	/* a frame that is longer than its block or than any frame */
};

/* A frame's time is (ticks * factor >> shift) / divisor nanoseconds, plus offset_s. */
struct interface {
	uint64_t factor;
	uint64_t divisor;
	int64_t offset_s;
	uint32_t shift;
	uint32_t snaplen;
	uint64_t linktype;
};

struct walk {
	const uint8_t *data;
	uint64_t size;
	uint64_t position;	/* start of the next block, at most size */
	const struct interface *interfaces;
	uint64_t interface_count;
	uint64_t first_number;	/* number of the section's first interface in the file */
	uint64_t swapped;	/* true if the section has the byte order of another machine */
	/* Five columns of CAPACITY: start, caplen, wirelen, nanoseconds, interface. */
	int64_t *columns;
	uint64_t capacity;
	uint64_t count;		/* frames in the columns */
	uint64_t linktype;	/* theirs */
	uint64_t clamped;	/* frames whose time did not fit */
	uint64_t claim;		/* the value that a STOP_BAD_* is about, or the interface's length */
};

static uint32_t u32(bool swapped, const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return swapped ? __builtin_bswap32(value) : value;
}

static uint16_t u16(bool swapped, const uint8_t *at)
{
	uint16_t value;

	memcpy(&value, at, sizeof(value));
	return swapped ? __builtin_bswap16(value) : value;
}

/* Some writers leave the padding out of the length; the next block is aligned all the same. */
static uint64_t aligned(uint64_t length)
{
	return (length + 3) & ~(uint64_t)3;
}

static int64_t nanoseconds(struct walk *walk, const struct interface *interface, uint64_t ticks)
{
	unsigned __int128 elapsed;
	__int128 time;
	int64_t simple;

	if (!interface->shift && interface->divisor == 1 && !interface->offset_s &&
	    !__builtin_mul_overflow(ticks, interface->factor, &simple))
		return simple;	/* the common case, without 128 bits */
	elapsed = (unsigned __int128)ticks * interface->factor >> interface->shift;
	if (interface->divisor != 1)
		elapsed /= interface->divisor;
	time = (__int128)elapsed + (__int128)interface->offset_s * SECOND_NS;
	if (time >= INT64_MIN && time <= INT64_MAX)
		return (int64_t)time;
	walk->clamped++;
	return time < 0 ? INT64_MIN : INT64_MAX;
}

static enum stop bad(struct walk *walk, enum stop stop, uint64_t claim)
{
	walk->claim = claim;
	return stop;
}

/* Adds the frame of a packet block of SIZE bytes, at least as many as its kind needs. */
static __always_inline enum stop add_frame(struct walk *walk, bool swapped, const uint8_t *block,
					   uint32_t type, uint64_t size)
{
	uint64_t header = type == SIMPLE_PACKET ? SIMPLE_HEADER_SIZE : PACKET_HEADER_SIZE;
	uint64_t number = 0, caplen, wirelen;
	const struct interface *interface;
	int64_t *row = walk->columns + walk->count;

	if (type == ENHANCED_PACKET)
		number = u32(swapped, block + 8);
	else if (type == OBSOLETE_PACKET)
		number = u16(swapped, block + 8);
	if (number >= walk->interface_count)
		return bad(walk, STOP_BAD_INTERFACE, number);
	interface = &walk->interfaces[number];

	if (type == SIMPLE_PACKET) {
		wirelen = caplen = u32(swapped, block + 8);
		if (interface->snaplen && caplen > interface->snaplen)
			caplen = interface->snaplen;
	} else {
		caplen = u32(swapped, block + 20);
		wirelen = u32(swapped, block + 24);
	}
	if (caplen > FRAME_SIZE_MAX || caplen > size - header - 4)
		return bad(walk, STOP_BAD_FRAME, caplen);

	if (!walk->count)
		walk->linktype = interface->linktype;
	else if (walk->linktype != interface->linktype)
		return STOP_LINKTYPE;
	if (walk->count == walk->capacity)
		return STOP_FULL;

	row[0] = block + header - walk->data;
	row[walk->capacity] = caplen;
	row[2 * walk->capacity] = wirelen > caplen ? wirelen : caplen;
	row[3 * walk->capacity] = 0;
	if (type != SIMPLE_PACKET) {
		uint64_t ticks = (uint64_t)u32(swapped, block + 12) << 32 | u32(swapped, block + 16);

		row[3 * walk->capacity] = nanoseconds(walk, interface, ticks);
	}
	row[4 * walk->capacity] = walk->first_number + number;
	walk->count++;
	return STOP_MORE;
}

/* Returns the bytes that a block of this type has at least; more than BLOCK_SIZE_MIN if it is read. */
static uint64_t size_min(uint32_t type)
{
	switch (type) {
	case INTERFACE_DESCRIPTION:
		return 20;
	case SIMPLE_PACKET:
		return SIMPLE_HEADER_SIZE + 4;
	case OBSOLETE_PACKET:
	case ENHANCED_PACKET:
		return PACKET_HEADER_SIZE + 4;
	default:
		return BLOCK_SIZE_MIN;
	}
}

/* See walk_blocks(). SWAPPED is a constant, so that there is a loop for each byte order. */
static __always_inline int64_t walk_in_order(struct walk *walk, bool swapped)
{
	while (walk->size - walk->position >= BLOCK_HEADER_SIZE) {
		const uint8_t *block = walk->data + walk->position;
		uint32_t type = u32(swapped, block);
		uint64_t length = u32(swapped, block + 4), size = aligned(length), least = size_min(type);

		if (type == SECTION_HEADER)
			return STOP_SECTION;
		if (length < least || (least > BLOCK_SIZE_MIN && length > BLOCK_SIZE_MAX))
			return bad(walk, STOP_BAD_LENGTH, length);
		if (size > walk->size - walk->position)
			return STOP_MORE;
		if (aligned(u32(swapped, block + size - 4)) != size)
			return STOP_BAD_END;
		if (type == INTERFACE_DESCRIPTION)
			return bad(walk, STOP_INTERFACE, size);
		if (least > BLOCK_SIZE_MIN) {
			enum stop stop = add_frame(walk, swapped, block, type, size);

			if (stop != STOP_MORE)
				return stop;
		}
		walk->position += size;
	}
	return STOP_MORE;
}

/*
 * Walks the blocks from walk->position on, adds their frames to the columns, and skips blocks of
 * other types. walk->position is then the start of the block at which it stopped.
 */
int64_t walk_blocks(struct walk *walk)
{
	return walk->swapped ? walk_in_order(walk, true) : walk_in_order(walk, false);
}
