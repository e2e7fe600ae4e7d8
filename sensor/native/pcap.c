// SPDX-License-Identifier: Apache-2.0
/*
 * The loop over the records of a classic pcap file. sensor/native/pcap_records.py calls it and
 * describes the arguments. The bytes come from anyone: nothing behind a length is read before the
 * length was checked. Nothing here allocates memory or keeps state between calls.
 * Format: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html.
 */
#include <stdint.h>
#include <string.h>

#define NS 1000000000
#define FRAME_SIZE_MAX 262144
#define HEADER_SIZE_MIN 16

/* Mirrored in pcap_records.py. */
struct layout {
	uint32_t swapped;	/* true if the file has the byte order of another machine */
	uint32_t header_size;	/* of a record: 16, or more in modified formats */
	uint32_t minor;		/* before 2.3 the two lengths are swapped; in 2.3 they may be, as in libpcap */
	uint32_t fraction_ns;	/* unit of the fractional seconds */
};

static uint32_t u32(const struct layout *layout, const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return layout->swapped ? __builtin_bswap32(value) : value;
}

static uint32_t caplen(const struct layout *layout, uint32_t first, uint32_t second)
{
	if (layout->minor < 3)
		return second;
	return layout->minor == 3 && second < first ? second : first;
}

/* Returns the captured length in the header of a record, of which HEADER_SIZE_MIN bytes are there. */
uint32_t record_caplen(const struct layout *layout, const uint8_t *header)
{
	return caplen(layout, u32(layout, header + 8), u32(layout, header + 12));
}

/*
 * Walks the records from *POSITION on, which is at most SIZE, up to CAPACITY, and stops at one that
 * is not whole or too long to be a frame. *POSITION is then the start of the next record. Stores
 * four columns of CAPACITY: start, caplen, wirelen, nanoseconds. Returns the number of records.
 */
int64_t walk_pcap(const struct layout *layout, const uint8_t *data, uint64_t size, uint64_t *position,
		  int64_t *columns, int64_t capacity)
{
	int64_t count = 0;

	while (count < capacity && size - *position >= layout->header_size) {
		const uint8_t *header = data + *position;
		uint32_t first = u32(layout, header + 8), second = u32(layout, header + 12);
		uint32_t length = caplen(layout, first, second);
		int64_t *row = columns + count;

		if (length > FRAME_SIZE_MAX || length > size - *position - layout->header_size)
			break;
		row[0] = (int64_t)(*position + layout->header_size);
		row[capacity] = length;
		row[2 * capacity] = first > second ? first : second;
		row[3 * capacity] = (int64_t)u32(layout, header) * NS +
				    (int64_t)u32(layout, header + 4) * layout->fraction_ns;
		*position += layout->header_size + length;
		count++;
	}
	return count;
}
