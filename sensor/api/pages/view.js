/**
 * The view: filters, time range, open packet, its bytes or its conversation, marked bytes. Its only state is the address, so that a link reopens it
 * and the browser's Back undoes a step.
 */

export const FILTERS = ["text", "network", "port", "protocol", "class", "rule", "devid"];
const NAMES = [...FILTERS, "last", "since_us", "until_us", "key", "tab", "bytes", "live"];
const NO_RANGE = { last: "", since_us: "", until_us: "" };

export const LASTS = { "15m": 900e6, "1h": 3_600e6, "6h": 21_600e6, "24h": 86_400e6, "7d": 604_800e6 };

const listeners = [];
let view = read();

function read() {
  const parameters = new URLSearchParams(location.search);
  return Object.fromEntries(NAMES.map((name) => [name, parameters.get(name) ?? ""]));
}

function address(of) {
  const parameters = new URLSearchParams(Object.entries(of).filter(([, value]) => value !== ""));
  const query = parameters.toString();
  return location.pathname + (query ? `?${query}` : "");
}

function notify(before) {
  const changed = new Set(NAMES.filter((name) => before[name] !== view[name]));
  if (changed.size) listeners.forEach((listener) => listener(changed));
}

addEventListener("popstate", () => {
  const before = view;
  view = read();
  notify(before);
});

/** Return the current view; every value is text, empty if not set. */
export const current = () => view;

/** Call `listener` with the set of changed names after every change. */
export const onChange = (listener) => listeners.push(listener);

/** Change parts of the view. `replace` adds no step to the history. */
export function change(patch, { replace = false } = {}) {
  if (Object.entries(patch).every(([name, value]) => view[name] === value)) return;
  const before = view;
  view = { ...view, ...patch };
  history[replace ? "replaceState" : "pushState"](null, "", address(view));
  notify(before);
}

/** Change the time range: {last: one of LASTS, or "all"} or {since_us, until_us}. */
export const changeRange = (range, how) => change({ ...NO_RANGE, ...range }, how);

/** Return since_us and until_us for the API; an open end is left out. */
export function range() {
  if (LASTS[view.last]) return { since_us: Date.now() * 1000 - LASTS[view.last] };
  const { since_us, until_us } = view;
  return { ...(since_us && { since_us }), ...(until_us && { until_us }) };
}

/** Return the filters that are set and the time range, as parameters for the API. */
export function query() {
  const filters = FILTERS.filter((name) => view[name] !== "").map((name) => [name, view[name]]);
  return { ...Object.fromEntries(filters), ...range() };
}

/** Return true if the chosen time range has ended, so that no new evidence falls into it. */
export const isClosed = () => !view.last && view.until_us !== "" && Number(view.until_us) <= Date.now() * 1000;

/** Return a link to what is shown now: a range relative to the current time becomes a fixed one. */
export function link() {
  const held = view.last ? { last: "", since_us: String(range().since_us ?? ""), until_us: String(Date.now() * 1000) } : {};
  return location.origin + address({ ...view, ...held });
}
