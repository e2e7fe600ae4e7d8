// SPDX-License-Identifier: Apache-2.0
/*
 * An extension of SQLite that shows columns of items as tables, so that rows of the index are
 * inserted without an object per value: INSERT INTO evidence SELECT * FROM item_row, and
 * INSERT INTO hit SELECT * FROM hit_row. sensor/native/item_rows.py loads it, describes the columns
 * and holds the memory. Virtual tables: https://www.sqlite.org/vtab.html.
 */
#include <sqlite3ext.h>
#include <stdint.h>
#include <string.h>

#include "../item.h"

SQLITE_EXTENSION_INIT1

#define IPV6 6
#define TAGS_MAX 2
#define NUMBER_SIZE_MAX 21	/* of a 64-bit integer in decimal, with a comma */

/* Mirrored in item_rows.py. Every array has an entry per item, RULES one per match. */
struct columns {
	const struct item *items;
	const int64_t *ids;
	const int64_t *offsets;
	const int64_t *interfaces;
	const int64_t *classes;
	const int64_t *segments;
	const int64_t *first_rules;	/* the item's first match in RULES */
	const int64_t *rules;
	int64_t count;
	int64_t file;
	/* The rows of hit_row. */
	const int64_t *hit_rules;
	const int64_t *hit_ids;
	int64_t hits;
};

/* The columns of item_row, in the order of the table "evidence". */
enum item_column {
	ID, SOURCE_FILE, OFFSET, CAPLEN, WIRELEN, INTERFACE, PROTOCOL, SOURCE, SPORT, DESTINATION, DPORT,
	VLAN, PAYLOAD_START, PAYLOAD_END, CLASSES, RULES, INCOMPLETE, ROLE, CONVERSATION, SEGMENT,
};

#define ITEM_ROW "CREATE TABLE item_row (id, file, offset, caplen, wirelen, interface, protocol, source, " \
	"sport, destination, dport, vlan, payload_start, payload_end, classes, rules, incomplete, " \
	"role, conversation, segment)"
#define HIT_ROW "CREATE TABLE hit_row (rule, id)"

struct table {
	sqlite3_vtab base;
	int is_hits;
};

struct cursor {
	sqlite3_vtab_cursor base;
	int64_t row;
	char *text;		/* room for a list of rules */
	uint64_t text_size;
};

/* What the tables show in this thread; null: nothing. A pointer in SQL could come from anyone. */
static _Thread_local const struct columns *shown;

#define EXPORT __attribute__((visibility("default")))

EXPORT const int64_t item_row_size = sizeof(struct item);

EXPORT void show_item_rows(const struct columns *columns)
{
	shown = columns;
}

static int connect(sqlite3 *database, void *kind, int count, const char *const *arguments,
		   sqlite3_vtab **made, char **error)
{
	int code = sqlite3_declare_vtab(database, kind ? HIT_ROW : ITEM_ROW);
	struct table *table;

	(void)count;
	(void)arguments;
	(void)error;
	if (code != SQLITE_OK)
		return code;
	sqlite3_vtab_config(database, SQLITE_VTAB_DIRECTONLY);
	table = sqlite3_malloc(sizeof(*table));
	if (!table)
		return SQLITE_NOMEM;
	memset(table, 0, sizeof(*table));
	table->is_hits = !!kind;
	*made = &table->base;
	return SQLITE_OK;
}

static int disconnect(sqlite3_vtab *table)
{
	sqlite3_free(table);
	return SQLITE_OK;
}

static int best_index(sqlite3_vtab *table, sqlite3_index_info *info)
{
	(void)table;
	info->estimatedCost = 1;
	return SQLITE_OK;
}

static int open_cursor(sqlite3_vtab *table, sqlite3_vtab_cursor **made)
{
	struct cursor *cursor = sqlite3_malloc(sizeof(*cursor));

	(void)table;
	if (!cursor)
		return SQLITE_NOMEM;
	memset(cursor, 0, sizeof(*cursor));
	*made = &cursor->base;
	return SQLITE_OK;
}

static int close_cursor(sqlite3_vtab_cursor *base)
{
	struct cursor *cursor = (struct cursor *)base;

	sqlite3_free(cursor->text);
	sqlite3_free(cursor);
	return SQLITE_OK;
}

static int filter(sqlite3_vtab_cursor *base, int number, const char *name, int count,
		  sqlite3_value **values)
{
	(void)number;
	(void)name;
	(void)count;
	(void)values;
	((struct cursor *)base)->row = 0;
	return SQLITE_OK;
}

static int next(sqlite3_vtab_cursor *base)
{
	((struct cursor *)base)->row++;
	return SQLITE_OK;
}

static int is_at_end(sqlite3_vtab_cursor *base)
{
	const struct table *table = (const struct table *)base->pVtab;

	return !shown || ((struct cursor *)base)->row >= (table->is_hits ? shown->hits : shown->count);
}

static int row_id(sqlite3_vtab_cursor *base, sqlite3_int64 *id)
{
	*id = ((struct cursor *)base)->row;
	return SQLITE_OK;
}

static void address(sqlite3_context *context, const struct item *item, const uint8_t *bytes)
{
	sqlite3_result_blob(context, bytes, item->ip_version == IPV6 ? 16 : 4, SQLITE_STATIC);
}

/* 16 bits per tag, in network byte order; NULL without tags. */
static void tags(sqlite3_context *context, const struct item *item)
{
	int count = item->vlan_count < TAGS_MAX ? item->vlan_count : TAGS_MAX;
	uint8_t bytes[2 * TAGS_MAX];

	if (!count)
		return;
	for (int tag = 0; tag < count; tag++) {
		bytes[2 * tag] = (uint8_t)(item->vlan_tci[tag] >> 8);
		bytes[2 * tag + 1] = (uint8_t)item->vlan_tci[tag];
	}
	sqlite3_result_blob(context, bytes, 2 * count, SQLITE_TRANSIENT);
}

static char *decimal(char *out, uint64_t number)
{
	char digits[NUMBER_SIZE_MAX];
	int at = sizeof(digits);

	do {
		digits[--at] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	memcpy(out, digits + at, sizeof(digits) - (size_t)at);
	return out + sizeof(digits) - at;
}

/* The numbers of the item's rules, separated by commas; NULL without rules. */
static int rules(sqlite3_context *context, struct cursor *cursor, const struct item *item)
{
	const int64_t *rule = shown->rules + shown->first_rules[cursor->row];
	uint64_t most = (uint64_t)item->matches * NUMBER_SIZE_MAX;
	char *end;

	if (!item->matches)
		return SQLITE_OK;
	if (most > cursor->text_size) {
		char *text = sqlite3_realloc64(cursor->text, most);

		if (!text)
			return SQLITE_NOMEM;
		cursor->text = text;
		cursor->text_size = most;
	}
	end = cursor->text;
	for (uint32_t match = 0; match < item->matches; match++) {
		if (match)
			*end++ = ',';
		end = decimal(end, (uint64_t)rule[match]);
	}
	sqlite3_result_text64(context, cursor->text, (sqlite3_uint64)(end - cursor->text), SQLITE_STATIC,
			      SQLITE_UTF8);
	return SQLITE_OK;
}

static int item_value(sqlite3_context *context, struct cursor *cursor, int column)
{
	const struct item *item = &shown->items[cursor->row];
	int64_t value;

	switch ((enum item_column)column) {
	case SOURCE:
		address(context, item, item->source);
		return SQLITE_OK;
	case DESTINATION:
		address(context, item, item->destination);
		return SQLITE_OK;
	case VLAN:
		tags(context, item);
		return SQLITE_OK;
	case RULES:
		return rules(context, cursor, item);
	case ID:
		value = shown->ids[cursor->row];
		break;
	case SOURCE_FILE:
		value = shown->file;
		break;
	case OFFSET:
		value = shown->offsets[cursor->row];
		break;
	case CAPLEN:
		value = item->caplen;
		break;
	case WIRELEN:
		value = item->wirelen;
		break;
	case INTERFACE:
		value = shown->interfaces[cursor->row];
		break;
	case PROTOCOL:
		value = item->protocol;
		break;
	case SPORT:
		value = item->sport;
		break;
	case DPORT:
		value = item->dport;
		break;
	case PAYLOAD_START:
		value = item->payload_start;
		break;
	case PAYLOAD_END:
		value = item->payload_end;
		break;
	case CLASSES:
		value = shown->classes[cursor->row];
		break;
	case INCOMPLETE:
		value = item->incomplete;
		break;
	case ROLE:
		value = item->role;
		break;
	case CONVERSATION:
		/* Context whose conversation is still to be found has 0, others without one have NULL. */
		if (!item->conversation && !item->role)
			return SQLITE_OK;
		value = (int64_t)item->conversation;
		break;
	case SEGMENT:
		value = shown->segments[cursor->row];
		break;
	default:
		return SQLITE_ERROR;
	}
	sqlite3_result_int64(context, value);
	return SQLITE_OK;
}

/* Values that are marked as static are valid until the cursor moves, which is when they have been copied. */
static int column_value(sqlite3_vtab_cursor *base, sqlite3_context *context, int column)
{
	const struct table *table = (const struct table *)base->pVtab;
	struct cursor *cursor = (struct cursor *)base;

	if (!table->is_hits)
		return item_value(context, cursor, column);
	sqlite3_result_int64(context, (column ? shown->hit_ids : shown->hit_rules)[cursor->row]);
	return SQLITE_OK;
}

/* Without xCreate, the tables exist in every database and cannot be created. */
static const sqlite3_module module = {
	.xConnect = connect,
	.xBestIndex = best_index,
	.xDisconnect = disconnect,
	.xOpen = open_cursor,
	.xClose = close_cursor,
	.xFilter = filter,
	.xNext = next,
	.xEof = is_at_end,
	.xColumn = column_value,
	.xRowid = row_id,
};

EXPORT int sqlite3_extension_init(sqlite3 *database, char **error, const sqlite3_api_routines *api)
{
	int code;

	(void)error;
	SQLITE_EXTENSION_INIT2(api);
	code = sqlite3_create_module(database, "item_row", &module, NULL);
	return code == SQLITE_OK ? sqlite3_create_module(database, "hit_row", &module, &shown) : code;
}
