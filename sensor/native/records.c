// SPDX-License-Identifier: Apache-2.0
/*
 * Frames to the records of an evidence file (classic pcap, little endian, microseconds).
 * sensor/native/records.py calls this function and says what the arguments are.
 */
#include <endian.h>
#include <stdint.h>
#include <string.h>

#define RECORD_HEADER 4	/* words */
#define NS 1000000000

/*
 * Writes COUNT records, one after the other, to RECORDS: of each frame the CAPLEN bytes at START
 * in DATA, behind a header. The caller has made room for all of them.
 */
void write_records(const uint8_t *data, const int64_t *start, const uint32_t *caplen,
		   const uint32_t *wirelen, const int64_t *time_ns, int64_t count, uint8_t *records)
{
	for (int64_t i = 0; i < count; i++) {
		uint32_t header[RECORD_HEADER] = {
			htole32((uint32_t)(time_ns[i] / NS)),
			htole32((uint32_t)(time_ns[i] % NS / 1000)),
			htole32(caplen[i]),
			htole32(wirelen[i]),
		};

		memcpy(records, header, sizeof(header));
		memcpy(records + sizeof(header), data + start[i], caplen[i]);
		records += sizeof(header) + caplen[i];
	}
}

/*
 * Copies the COUNT records that START and SIZE describe, one after the other, to RECORDS.
 */
void copy_records(const uint8_t *data, const uint32_t *start, const uint32_t *size, int64_t count,
		  uint8_t *records)
{
	for (int64_t i = 0; i < count; i++) {
		memcpy(records, data + start[i], size[i]);
		records += size[i];
	}
}
