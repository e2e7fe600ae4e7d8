// SPDX-License-Identifier: Apache-2.0
/*
 * Sources: the CPU time that packets cost, by source address, and which packets are sampled when there
 * is too little of it. sensor/native/source_table.py calls these functions; the levels come from
 * sensor/capture/fair_shares.py.
 *
 * The table consists of sets of WAYS sources. A keyed hash of its address decides on a source's set. Sums
 * decay: what was added HALF_LIFE_NS ago counts half. A source that has sent for KNOWN_NS is known. In a
 * full set, the unknown source with the lowest demand makes room; known sources do so only when they are
 * silent. Forged addresses, with a packet or two each, thus displace each other. The rest is counted together.
 *
 * In calm time, without an overload, a source also gets a usual cost, which decays slowly, and stands still in an
 * overload.
 */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "mix.h"

#define SETS 4096u
#define WAYS 4u
#define SOURCES (SETS * WAYS)
#define HALF_LIFE_NS INT64_C(500000000)
#define USUAL_HALF_LIFE_NS INT64_C(60000000000)
#define USUAL_MORE 2		/* a source may ask for so many times its usual cost and count as usual, */
#define USUAL_MOST 0.02		/* but not for more than this share of a CPU */
#define KNOWN_NS INT64_C(10000000000)
#define SILENT_NS INT64_C(60000000000)
#define TICK_NS INT64_C(1000000)	/* sums need not decay more often */
#define OUT_OF_ORDER_NS INT64_C(5000000000)	/* rings of several CPUs have no common order */
#define SLICE_SHIFT 27		/* a flow is kept or sampled for 2^27 ns, an eighth of a second */
#define MOST 1e12		/* a sum; there is no such cost in so little time */
#define MOST_CPUS 1e6		/* a demand */
#define LN2 0.6931471805599453

/* Packets of late, and what they cost. */
struct sums {
	int64_t at_ns;		/* the sums have decayed until then */
	double offered;		/* packets that could be matched */
	double matched;		/* those that were; the others were sampled */
	double cost_ns;		/* of the matched packets */
};

/* What packets cost in calm time. */
struct usual {
	int64_t calm_ns;	/* the cost has decayed until then, on the calm clock */
	double cost_ns;
};

struct source {
	uint64_t key;		/* 0: nobody has the place */
	int64_t born_ns;
	struct sums sums;
	struct usual usual;
	uint64_t sampled;	/* packets, since the source has the place */
	uint8_t address[16];	/* IPv4: 4 bytes; IPv6: 8 bytes, which are its /64 */
	uint32_t version;
	uint32_t reserved;
};

struct source_table {
	int64_t at_ns;		/* arrival of the latest packet */
	int64_t calm_ns;	/* a clock that runs in calm time only */
	struct sums all;
	struct sums rest;	/* of sources that have no place */
	struct source sources[SOURCES];
};

/* One entry per packet in each array. */
struct packets {
	const uint8_t *data;
	const int64_t *address;	/* offset of the source address, which the destination follows */
	const uint8_t *version;
	const uint16_t *sport;
	const uint16_t *dport;
	const int64_t *time_ns;
	const uint64_t *key;	/* from hash_sources() */
	int64_t count;
};

/* Shares of a CPU that one source may have. */
struct levels {
	double known;
	double unknown;
	double usual;		/* 0 to 1: this part of what it usually asks for comes on top */
};

static uint64_t load(const uint8_t *data, uint32_t size)
{
	uint64_t word = 0;

	memcpy(&word, data, size);
	return word;
}

/* Stores a number for each packet's source, never 0. SEED is two random words. */
void hash_sources(const struct packets *packets, const uint64_t *seed, uint64_t *keys)
{
	for (int64_t i = 0; i < packets->count; i++) {
		bool is_long = packets->version[i] == 6;
		uint64_t address = load(packets->data + packets->address[i], is_long ? 8 : 4);

		keys[i] = mix(mix(address ^ seed[0]) + (seed[1] ^ is_long)) | 1;
	}
}

/* Returns NOW_NS - THEN_NS; the values may be anything. */
static int64_t age(int64_t then_ns, int64_t now_ns)
{
	return (int64_t)((uint64_t)now_ns - (uint64_t)then_ns);
}

/*
 * Lets the sums decay until NOW_NS. If the clock was set back, they stay and decay from there on. Sums that
 * are none, because a hostile process wrote them, become 0.
 */
static void decay(struct sums *sums, int64_t now_ns)
{
	int64_t age_ns = age(sums->at_ns, now_ns);
	double factor;

	if (age_ns < TICK_NS && age_ns > -OUT_OF_ORDER_NS)
		return;
	sums->at_ns = now_ns;
	if (!(sums->offered >= 0 && sums->matched >= 0 && sums->cost_ns >= 0 &&
	      sums->offered + sums->matched + sums->cost_ns <= MOST)) {
		*sums = (struct sums){.at_ns = now_ns};
		return;
	}
	factor = age_ns < 0 ? 1 : exp2(-(double)age_ns / HALF_LIFE_NS);
	sums->offered *= factor;
	sums->matched *= factor;
	sums->cost_ns *= factor;
}

static void add(struct sums *sums, const struct sums *more)
{
	sums->offered += more->offered;
	sums->matched += more->matched;
	sums->cost_ns += more->cost_ns;
}

/*
 * Returns the share of a CPU that it takes to match OFFERED packets, again and again in the time in which
 * sums decay, if they cost what those in SUMS did. If none was matched, they cost what all packets do.
 */
static double demand_of(const struct source_table *table, const struct sums *sums, double offered)
{
	const struct sums *like = sums->matched > 0 ? sums : &table->all;
	double demand = 0;

	if (like->matched > 0)
		demand = offered * like->cost_ns / like->matched * LN2 / HALF_LIFE_NS;
	return demand < MOST_CPUS ? demand : MOST_CPUS;
}

/* Lets a usual cost decay until CALM_NS. One that is none, because a hostile process wrote it, becomes 0. */
static void decay_usual(struct usual *usual, int64_t calm_ns)
{
	int64_t age_ns = age(usual->calm_ns, calm_ns);

	if (!(usual->cost_ns >= 0 && usual->cost_ns <= MOST))
		usual->cost_ns = 0;
	if (age_ns >= 0 && age_ns < TICK_NS)
		return;
	usual->calm_ns = calm_ns;
	if (age_ns > 0)
		usual->cost_ns *= exp2(-(double)age_ns / USUAL_HALF_LIFE_NS);
}

/* Returns the part of a source's demand that is usual. */
static double usual_of(const struct source_table *table, const struct source *source, double demand)
{
	struct usual usual = source->usual;
	double most;

	decay_usual(&usual, table->calm_ns);
	most = USUAL_MORE * usual.cost_ns * LN2 / USUAL_HALF_LIFE_NS;
	return fmin(demand, fmin(most, USUAL_MOST));
}

static bool is_known(const struct source *source)
{
	return age(source->born_ns, source->sums.at_ns) >= KNOWN_NS;
}

/* A source with a packet in the future is one that a hostile process wrote, or the clock was set back. */
static bool is_silent(const struct source *source, int64_t now_ns)
{
	int64_t age_ns = age(source->sums.at_ns, now_ns);

	return age_ns >= SILENT_NS || age_ns <= -OUT_OF_ORDER_NS;
}

static struct source *set_of(struct source_table *table, uint64_t key)
{
	return &table->sources[(key >> 32) % SETS * WAYS];
}

static struct source *find_source(struct source_table *table, uint64_t key)
{
	struct source *set = set_of(table, key);

	for (uint32_t way = 0; way < WAYS; way++)
		if (set[way].key == key)
			return &set[way];
	return NULL;
}

/* Returns a place for a source; null if known sources have all of its set. */
static struct source *make_room(struct source_table *table, uint64_t key, int64_t now_ns)
{
	struct source *set = set_of(table, key);
	struct source *least = NULL;
	double least_demand = INFINITY;

	for (uint32_t way = 0; way < WAYS; way++) {
		struct source *source = &set[way];
		double demand;

		if (!source->key)
			return source;
		if (is_known(source) && !is_silent(source, now_ns))
			continue;
		decay(&source->sums, now_ns);
		demand = demand_of(table, &source->sums, source->sums.offered);
		if (demand < least_demand) {
			least_demand = demand;
			least = source;
		}
	}
	if (least)
		add(&table->rest, &least->sums);
	return least;
}

/* Returns the place of packet I's source, with a new one if need be; null if there is none. */
static struct source *place_of(struct source_table *table, const struct packets *packets, int64_t i)
{
	struct source *source = find_source(table, packets->key[i]);

	if (source)
		return source;
	source = make_room(table, packets->key[i], packets->time_ns[i]);
	if (!source)
		return NULL;
	*source = (struct source){.key = packets->key[i], .born_ns = packets->time_ns[i],
				  .version = packets->version[i] == 6 ? 6 : 4};
	source->sums.at_ns = packets->time_ns[i];
	source->usual.calm_ns = table->calm_ns;
	memcpy(source->address, packets->data + packets->address[i], source->version == 6 ? 8 : 4);
	return source;
}

/* Lets the clocks of the table go on until a packet arrives. */
static void advance(struct source_table *table, int64_t now_ns, bool is_calm)
{
	int64_t passed_ns = age(table->at_ns, now_ns);

	if (passed_ns > -OUT_OF_ORDER_NS && passed_ns <= 0)
		return;
	table->at_ns = now_ns;
	if (is_calm && passed_ns > 0)
		table->calm_ns = (int64_t)((uint64_t)table->calm_ns + (uint64_t)passed_ns);
}

/*
 * Adds packets to the sums of their sources. COST_NS is that of each packet, or -1: it was sampled. IS_CALM is
 * not 0 if there is no overload.
 */
void charge_sources(struct source_table *table, const struct packets *packets, const int64_t *cost_ns,
		    int32_t is_calm)
{
	for (int64_t i = 0; i < packets->count; i++) {
		bool is_sampled = cost_ns[i] < 0;
		struct sums packet = {.offered = 1, .matched = !is_sampled,
				      .cost_ns = is_sampled ? 0 : (double)cost_ns[i]};
		struct source *source;

		advance(table, packets->time_ns[i], is_calm);
		decay(&table->all, packets->time_ns[i]);
		decay(&table->rest, packets->time_ns[i]);
		source = place_of(table, packets, i);
		if (source)
			decay(&source->sums, packets->time_ns[i]);
		add(source ? &source->sums : &table->rest, &packet);
		if (source) {
			source->sampled += is_sampled;
			decay_usual(&source->usual, table->calm_ns);
			source->usual.cost_ns += is_calm ? packet.cost_ns : 0;
		}
		add(&table->all, &packet);
	}
}

/* The sums of SOURCES places at one moment, and then of the rest, as if it were one source. */
struct listing {
	double demand[SOURCES + 1];
	double offered[SOURCES + 1];
	double matched[SOURCES + 1];
	double usual[SOURCES + 1];
	uint8_t known[SOURCES + 1];
};

const uint64_t source_table_bytes = sizeof(struct source_table);
const uint64_t listing_bytes = sizeof(struct listing);

static void list_sums(const struct source_table *table, struct sums sums, int64_t now_ns,
		      struct listing *listing, uint32_t i)
{
	decay(&sums, now_ns);
	listing->demand[i] = demand_of(table, &sums, sums.offered);
	listing->offered[i] = sums.offered;
	listing->matched[i] = sums.matched;
}

/* Fills the listing, which is zero. A place that nobody has, or whose source is silent, stays zero. */
void list_sources(const struct source_table *table, int64_t now_ns, struct listing *listing)
{
	for (uint32_t i = 0; i < SOURCES; i++) {
		const struct source *source = &table->sources[i];

		if (!source->key || is_silent(source, now_ns))
			continue;
		list_sums(table, source->sums, now_ns, listing, i);
		listing->usual[i] = usual_of(table, source, listing->demand[i]);
		listing->known[i] = is_known(source);
	}
	list_sums(table, table->rest, now_ns, listing, SOURCES);
}

/* Returns a number from 0 to 1 for packet I's flow in its direction, another one in each slice of time. */
static double draw(const struct packets *packets, int64_t i, const uint64_t *seed)
{
	const uint8_t *address = packets->data + packets->address[i];
	uint32_t words = packets->version[i] == 6 ? 8 : 2;
	uint64_t bits = mix(seed[0] ^ (uint64_t)packets->time_ns[i] >> SLICE_SHIFT);

	for (uint32_t word = 0; word < words; word++)
		bits = mix(bits ^ load(address + 4 * word, 4));
	bits = mix(bits ^ seed[1] ^ (uint64_t)packets->sport[i] << 16 ^ packets->dport[i]);
	return (double)(bits >> 11) * 0x1p-53;
}

/*
 * Sets KEPT[I] for each packet that is to be matched: all of a source whose demand is below its share, and
 * of the others such a part that the share is reached.
 */
void admit_packets(struct source_table *table, const struct packets *packets, const uint64_t *seed,
		   const struct levels *levels, int64_t now_ns, uint8_t *kept)
{
	for (int64_t i = 0; i < packets->count; i++) {
		const struct source *source = find_source(table, packets->key[i]);
		struct sums sums = source ? source->sums : table->rest;
		double share = source && is_known(source) ? levels->known : levels->unknown;
		double demand;

		decay(&sums, now_ns);
		demand = demand_of(table, &sums, source ? sums.offered : 1);
		if (source)
			share += levels->usual * usual_of(table, source, demand);
		kept[i] = demand <= share || draw(packets, i, seed) * demand < share;
	}
}
