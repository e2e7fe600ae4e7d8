// SPDX-License-Identifier: Apache-2.0
/*
 * Items of evidence as lines of text, one per match. sensor/native/lines.py calls format_lines and
 * has made room for all that it writes. Nothing here allocates memory or keeps state between calls.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "item.h"

#define NS 1000000000
#define NAME_SIZE 8
#define IPV6 6
#define IPV6_WORDS 8

/* What stands behind the time and behind the endpoints of a line; both texts follow this header. */
struct words {
	uint32_t label_size;
	uint32_t text_size;
};

/* "2026-01-31 23:59:59."; consecutive items share a second. */
struct second {
	int64_t seconds;
	size_t size;	/* 0: none yet */
	char text[40];
};

const int64_t item_size = sizeof(struct item);

static char *copy(char *out, const void *text, size_t size)
{
	memcpy(out, text, size);
	return out + size;
}

static char *decimal(char *out, uint32_t number)
{
	char digits[10];
	int at = sizeof(digits);

	do {
		digits[--at] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	return copy(out, digits + at, sizeof(digits) - (size_t)at);
}

static char *format_time(char *out, struct second *second, int64_t time_ns)
{
	int64_t seconds = time_ns / NS;
	int64_t rest_ns = time_ns % NS;
	uint32_t micros;
	int digit;

	if (rest_ns < 0) {	/* before 1970 */
		rest_ns += NS;
		seconds--;
	}
	if (!second->size || seconds != second->seconds) {
		time_t moment = seconds;
		struct tm date;

		gmtime_r(&moment, &date);
		second->seconds = seconds;
		second->size = strftime(second->text, sizeof(second->text), "%Y-%m-%d %H:%M:%S.", &date);
	}
	out = copy(out, second->text, second->size);
	micros = (uint32_t)(rest_ns / 1000);
	for (digit = 5; digit >= 0; digit--, micros /= 10)
		out[digit] = (char)('0' + micros % 10);
	return out + 6;
}

static char *format_ipv4(char *out, const uint8_t *address)
{
	int byte;

	for (byte = 0; byte < 4; byte++) {
		if (byte)
			*out++ = '.';
		out = decimal(out, address[byte]);
	}
	return out;
}

static char *hexadecimal(char *out, unsigned word)
{
	int shift = 12;

	while (shift && !(word >> shift))
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		*out++ = "0123456789abcdef"[word >> shift & 15];
	return out;
}

/* As in RFC 5952, without the mixed notation: "::" replaces the first of the longest runs of zeros. */
static char *format_ipv6(char *out, const uint8_t *address)
{
	int start = -1, size = 1;	/* of the run; a single zero is not replaced */
	int at, run = 0;

	for (at = 0; at < IPV6_WORDS; at++) {
		run = address[2 * at] || address[2 * at + 1] ? 0 : run + 1;
		if (run > size) {
			size = run;
			start = at + 1 - run;
		}
	}
	for (at = 0; at < IPV6_WORDS; at++) {
		if (at == start) {
			out = copy(out, "::", 2);
			at += size - 1;
			continue;
		}
		if (at && at != start + size)
			*out++ = ':';
		out = hexadecimal(out, (unsigned)address[2 * at] << 8 | address[2 * at + 1]);
	}
	return out;
}

static char *format_end(char *out, int is_ipv6, const uint8_t *address, uint16_t port)
{
	if (is_ipv6 && port)
		*out++ = '[';
	out = is_ipv6 ? format_ipv6(out, address) : format_ipv4(out, address);
	if (is_ipv6 && port)
		*out++ = ']';
	if (port) {
		*out++ = ':';
		out = decimal(out, port);
	}
	return out;
}

/*
 * Writes the lines of COUNT items to OUT. The WORDS of item I are those from ENDS[I - 1], or the
 * start, up to ENDS[I]. NAMES has the name of each protocol, padded with zeros. MARK is what stands
 * at the end of the lines of incomplete items. Returns the size of all lines.
 */
int64_t format_lines(const struct item *items, int64_t count, const char *words, const int64_t *ends,
		     const char *names, const char *mark, char *out)
{
	const char *start = out, *word = words;
	size_t mark_size = strlen(mark);
	struct second second = {0};

	for (int64_t i = 0; i < count; i++) {
		const struct item *item = &items[i];
		const char *name = names + NAME_SIZE * item->protocol;
		int is_ipv6 = item->ip_version == IPV6;
		char time[sizeof(second.text) + 6], both[128];
		size_t time_size = (size_t)(format_time(time, &second, item->time_ns) - time);
		char *end = copy(both, name, strnlen(name, NAME_SIZE));

		*end++ = ' ';
		end = format_end(end, is_ipv6, item->source, item->sport);
		end = copy(end, " > ", 3);
		end = format_end(end, is_ipv6, item->destination, item->dport);
		while (word < words + ends[i]) {
			struct words sizes;

			memcpy(&sizes, word, sizeof(sizes));
			word += sizeof(sizes);
			out = copy(out, time, time_size);
			out = copy(out, "  ", 2);
			out = copy(out, word, sizes.label_size);
			word += sizes.label_size;
			out = copy(out, "  ", 2);
			out = copy(out, both, (size_t)(end - both));
			out = copy(out, "  ", 2);
			out = copy(out, word, sizes.text_size);
			word += sizes.text_size;
			if (item->incomplete)
				out = copy(out, mark, mark_size);
			*out++ = '\n';
		}
	}
	return out - start;
}
