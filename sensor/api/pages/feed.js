/**
 * The evidence in the table: newest first, loaded page by page, with new evidence added on top.
 *
 * A cursor of the API names a position between items, so it stays valid while evidence arrives. A page may be short or
 * empty if the search took long; its cursor then leads to the next one.
 */

import { getJson } from "./client.js";
import { query } from "./view.js";

const PAGE = 100;
const LONG = 1000;
const OVERLAP_US = 60e6; // evidence of several CPUs may arrive slightly out of order

let loaded = [];
let tail = null;
let request = new AbortController();

/** Return the items, newest first. */
export const items = () => loaded;

/** Return true if there may be older evidence. */
export const hasOlder = () => tail !== null;

/** Abort pending requests and load the first page for the current view. Throws Problem. */
export async function reload() {
  request.abort();
  request = new AbortController();
  const page = await readOn(null);
  loaded = page.items;
  tail = page.cursor;
}

/** Add the next page of older evidence. Throws Problem. */
export async function readOlder() {
  const from = tail;
  const page = await readOn(from);
  if (tail !== from) return; // the list was reloaded meanwhile
  loaded = merged(loaded, page.items);
  tail = page.cursor;
}

/** Add new evidence; return true if there was any. `mayCut`: older items may be dropped. Throws Problem. */
export async function readNewer({ mayCut }) {
  if (mayCut && loaded.length > LONG) {
    await reload();
    return true;
  }
  const asked = query();
  const recent_us = loaded.length ? loaded[0].time_us - OVERLAP_US : 0;
  const page = await fetchPage({ ...asked, since_us: Math.max(recent_us, asked.since_us ?? 0) });
  const known = new Set(loaded.map((item) => item.key));
  const added = page.items.filter((item) => !known.has(item.key));
  if (page.cursor && added.length === page.items.length) {
    loaded = page.items; // more than a page has arrived: the items in between load as older evidence
    tail = page.cursor;
  } else {
    loaded = merged(page.items, loaded);
  }
  return added.length > 0;
}

/** Return the first page after a cursor that has items, or the last page. */
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
