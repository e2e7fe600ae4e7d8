// SPDX-License-Identifier: Apache-2.0
/*
 * The two loops that run once per candidate: over the records of a perf ring, and over the
 * payloads of a batch. sensor/native/__init__.py calls them and describes the arguments.
 * Nothing here allocates memory or keeps state between calls.
 */
#include <stdint.h>
#include <string.h>

/* linux/perf_event.h: struct perf_event_header, then the size of the raw data (u32). */
#define RECORD_SAMPLE 9
#define RECORD_HEADER_SIZE 8
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
 * Walks the records from *POSITION up to LIMIT, both below SIZE, and stops after CAPACITY
 * samples or at a record that crosses SIZE; *POSITION is then the start of the next record.
 * Stores the offset of each sample's raw data in RAW, and the META_SIZE bytes at that offset
 * in META. Returns the number of samples.
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
		if (!record_size || at + record_size > size)
			break;
		if (type == RECORD_SAMPLE) {
			memcpy(meta + samples * meta_size, data + at + RAW_HEADER_SIZE, meta_size);
			raw[samples++] = at + RAW_HEADER_SIZE;
		}
		at += record_size;
	}
	*position = at;
	return samples;
}

/* hs.h: match_event_handler and hs_scan. */
typedef int (*on_match)(unsigned id, unsigned long long from, unsigned long long to, unsigned flags,
			void *context);
typedef int (*scan_function)(const void *database, const char *data, unsigned length, unsigned flags,
			     void *scratch, on_match handler, void *context);

struct match {
	int64_t payload;
	uint32_t id;
	uint32_t end;
};

struct matches {
	struct match *list;
	int64_t count;
	int64_t capacity;
	int64_t payload;
};

static int add_match(unsigned id, unsigned long long from, unsigned long long to, unsigned flags,
		     void *context)
{
	struct matches *matches = context;

	(void)from;
	(void)flags;
	if (matches->count == matches->capacity)
		return 1;	/* stops the scan */
	matches->list[matches->count++] = (struct match){matches->payload, id, (uint32_t)to};
	return 0;
}

/*
 * Scans the payloads CHOSEN[*NEXT] to CHOSEN[COUNT - 1], each from START up to END in DATA,
 * as long as their matches fit into LIST, which holds CAPACITY; *NEXT is then the first
 * payload that was not scanned. Returns the number of matches, or -1 if a scan failed.
 */
int64_t scan_each(scan_function scan, const void *database, void *scratch, const char *data,
		  const int64_t *start, const int64_t *end, const int64_t *chosen, int64_t count,
		  int64_t *next, struct match *list, int64_t capacity)
{
	struct matches matches = {list, 0, capacity, 0};

	for (; *next < count; ++*next) {
		int64_t before = matches.count;
		int64_t payload = chosen[*next];
		int error;

		matches.payload = payload;
		error = scan(database, data + start[payload], (unsigned)(end[payload] - start[payload]), 0,
			     scratch, add_match, &matches);
		if (error) {
			int full = matches.count == capacity;

			matches.count = before;
			return full && before ? before : -1;
		}
	}
	return matches.count;
}
