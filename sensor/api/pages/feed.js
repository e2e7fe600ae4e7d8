/**
 * The evidence that the table shows: newest first, page by page, with what arrives meanwhile.
 *
 * The API's cursors name a place between pieces, so they stay true while evidence arrives. A page may be short, even
 * empty, where a search took long; then its cursor leads on.
 */

import { getJson } from "./client.js";
import { query } from "./view.js";

const PAGE = 100;
const LONG = 1000;
const OVERLAP_US = 60e6; // evidence comes from several CPUs: what is a little older may arrive a little later

let items = [];
let tail = null;
let request = new AbortController();

/** The pieces, newest first. */
export const pieces = () => items;

/** Whether there may be older evidence than these. */
export const hasOlder = () => tail !== null;

/** Begin anew with the view as it is; requests under way are given up. Throws Problem. */
export async function reload() {
  request.abort();
  request = new AbortController();
  const page = await readOn(null);
  items = page.items;
  tail = page.cursor;
}

/** Add the next page of older evidence. Throws Problem. */
export async function readOlder() {
  const from = tail;
  const page = await readOn(from);
  if (tail !== from) return; // the list was begun anew meanwhile
  items = merged(items, page.items);
  tail = page.cursor;
}

/** Add what has arrived; whether anything did. `mayCut`: nobody reads the older ones. Throws Problem. */
export async function readNewer({ mayCut }) {
  if (mayCut && items.length > LONG) {
    await reload();
    return true;
  }
  const asked = query();
  const recent_us = items.length ? items[0].time_us - OVERLAP_US : 0;
  const page = await fetchPage({ ...asked, since_us: Math.max(recent_us, asked.since_us ?? 0) });
  const known = new Set(items.map((item) => item.key));
  const added = page.items.filter((item) => !known.has(item.key));
  if (page.cursor && added.length === page.items.length) {
    items = page.items; // more has arrived than a page holds: what lies between is older evidence now
    tail = page.cursor;
  } else {
    items = merged(page.items, items);
  }
  return added.length > 0;
}

/** The first page behind a cursor that has anything, or the end. */
async function readOn(cursor) {
  for (;;) {
    const page = await fetchPage({ ...query(), cursor });
    if (page.items.length || page.cursor === null) return page;
    cursor = page.cursor;
  }
}

async function fetchPage(parameters) {
  const { signal } = request;
  const page = await getJson("evidence", { ...parameters, limit: PAGE }, signal);
  signal.throwIfAborted();
  return page;
}

function merged(first, second) {
  const known = new Set(first.map((item) => item.key));
  return first.concat(second.filter((item) => !known.has(item.key)));
}
