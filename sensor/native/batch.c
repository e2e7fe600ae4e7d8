// SPDX-License-Identifier: Apache-2.0
/*
 * The two loops that run once for every candidate: over the records of a perf ring, and
 * over the payloads of a batch. sensor/native/__init__.py calls them; it says what the
 * arguments are. Nothing here allocates, and nothing outlives the call.
 */
#include <stdint.h>
#include <string.h>

/* linux/perf_event.h: struct perf_event_header, then u32, the size of what was submitted. */
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
 * Steps over the records from *POSITION up to LIMIT, all below SIZE, until CAPACITY samples
 * have been found or a record does not fit; *POSITION is then where the next one starts.
 * Of each sample the offset of its raw data goes to RAW, and the META_SIZE bytes there,
 * packed one after the other, to META. Returns the number of samples.
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
			     void *scratch, on_match note, void *context);

struct hit {
	int64_t payload;
	uint32_t id;
	uint32_t end;
};

struct hits {
	struct hit *list;
	int64_t count;
	int64_t capacity;
	int64_t payload;
};

static int note(unsigned id, unsigned long long from, unsigned long long to, unsigned flags, void *context)
{
	struct hits *hits = context;

	(void)from;
	(void)flags;
	if (hits->count == hits->capacity)
		return 1;	/* ends the scan */
	hits->list[hits->count++] = (struct hit){hits->payload, id, (uint32_t)to};
	return 0;
}

/*
 * Scans the payloads CHOSEN[*NEXT] to CHOSEN[COUNT - 1], each from START up to END in DATA,
 * as long as their hits fit into the CAPACITY of LIST; *NEXT is then the first one that was
 * not scanned. Returns the number of hits, or -1 where a scan failed.
 */
int64_t scan_each(scan_function scan, const void *database, void *scratch, const char *data,
		  const int64_t *start, const int64_t *end, const int64_t *chosen, int64_t count,
		  int64_t *next, struct hit *list, int64_t capacity)
{
	struct hits hits = {list, 0, capacity, 0};

	for (; *next < count; ++*next) {
		int64_t before = hits.count;
		int64_t payload = chosen[*next];
		int error;

		hits.payload = payload;
		error = scan(database, data + start[payload], (unsigned)(end[payload] - start[payload]), 0,
			     scratch, note, &hits);
		if (error) {
			int full = hits.count == capacity;

			hits.count = before;
			return full && before ? before : -1;
		}
	}
	return hits.count;
}
