// SPDX-License-Identifier: Apache-2.0
/*
 * The loop over the records of a perf ring. sensor/native/__init__.py calls it and describes the
 * arguments. Nothing here allocates memory or keeps state between calls.
 */
#include <stdint.h>
#include <string.h>

/* linux/perf_event.h: struct perf_event_header, then the size of the raw data (u32). */
#define RECORD_SAMPLE 9
#define RECORD_HEADER_SIZE 8
#define RECORD_ALIGNMENT 8
#define RAW_HEADER_SIZE (RECORD_HEADER_SIZE + 4)

uint64_t load_acquire(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

void store_release(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/*
 * Walks the records from *POSITION up to LIMIT, both at most SIZE, and stops after CAPACITY
 * samples, at a record that crosses SIZE, or at something that is no record; *POSITION is then
 * the start of the next record. Stores the offset of each sample's raw data in RAW, and the
 * META_SIZE bytes at that offset in META. Returns the number of samples. A process that may
 * write to the ring cannot make this read outside of DATA.
 */
int64_t walk_records(const uint8_t *data, uint64_t *position, uint64_t limit, uint64_t size,
		     int64_t *raw, uint8_t *meta, uint64_t meta_size, int64_t capacity)
{
	uint64_t at = *position;
	int64_t samples = 0;

	while (at < limit && samples < capacity) {
		uint32_t type;
		uint16_t record_size;

		memcpy(&type, data + at, sizeof(type));
		memcpy(&record_size, data + at + 6, sizeof(record_size));
		if (!record_size || record_size % RECORD_ALIGNMENT || at + record_size > size)
			break;
		if (type == RECORD_SAMPLE) {
			if (record_size < RAW_HEADER_SIZE + meta_size)
				break;
			memcpy(meta + samples * meta_size, data + at + RAW_HEADER_SIZE, meta_size);
			raw[samples++] = at + RAW_HEADER_SIZE;
		}
		at += record_size;
	}
	*position = at;
	return samples;
}
