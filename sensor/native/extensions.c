// SPDX-License-Identifier: Apache-2.0
/*
 * The extension headers of IPv6 packets. sensor/native/extensions.py calls walk_extensions(). The bytes come
 * from anyone: nothing is read that is not before a packet's end. Nothing here allocates memory or keeps
 * state between calls.
 */
#include <stdint.h>

#define HOP_BY_HOP 0
#define ROUTING 43
#define FRAGMENT 44
#define AH 51
#define DESTINATION 60
#define MOBILITY 135
#define HIP 139
#define SHIM6 140

#define EXTENSION_SIZE_MIN 8
#define EXTENSIONS_MAX 8

#define FRAGMENT_OFFSET 0xfff8u
#define MORE_FRAGMENTS 0x0001u

/* What a walk led to; mirrored in extensions.py. */
enum outcome {
	WHOLE,		/* the header that PROTOCOL names is no extension, or the ninth */
	CUT_OFF,	/* an extension ends behind the packet */
	LATER_FRAGMENT,	/* what follows is payload */
};

static int is_extension(uint8_t protocol)
{
	switch (protocol) {
	case HOP_BY_HOP:
	case ROUTING:
	case FRAGMENT:
	case AH:
	case DESTINATION:
	case MOBILITY:
	case HIP:
	case SHIM6:
		return 1;
	default:
		return 0;
	}
}

/* AH counts words of 4 bytes (RFC 4302, section 2.2), the others words of 8 (RFC 8200, section 4). */
static int64_t extension_size(uint8_t protocol, uint8_t length)
{
	if (protocol == FRAGMENT)
		return EXTENSION_SIZE_MIN;
	return protocol == AH ? (length + 2) * 4 : (length + 1) * 8;
}

static enum outcome walk(const uint8_t *data, int64_t *position, int64_t end, uint8_t *protocol,
			 uint8_t *is_first)
{
	for (int number = 0; number < EXTENSIONS_MAX && is_extension(*protocol); number++) {
		const uint8_t *header = data + *position;
		unsigned fragment = 0;
		int64_t size;

		if (end - *position < EXTENSION_SIZE_MIN)
			return CUT_OFF;
		size = extension_size(*protocol, header[1]);
		if (end - *position < size)
			return CUT_OFF;
		if (*protocol == FRAGMENT)
			fragment = (unsigned)header[2] << 8 | header[3];
		*is_first |= (fragment & MORE_FRAGMENTS) != 0;
		*protocol = header[0];
		*position += size;
		if (fragment & FRAGMENT_OFFSET)
			return LATER_FRAGMENT;
	}
	return WHOLE;
}

/*
 * Walks up to eight extension headers of each of COUNT packets. PROTOCOL names the header at POSITION in DATA;
 * both are then those of the header behind the last one walked. Sets IS_FIRST for first fragments.
 */
void walk_extensions(const uint8_t *data, int64_t *position, const int64_t *end, uint8_t *protocol,
		     uint8_t *is_first, uint8_t *outcome, int64_t count)
{
	for (int64_t i = 0; i < count; i++)
		outcome[i] = walk(data, &position[i], end[i], &protocol[i], &is_first[i]);
}
