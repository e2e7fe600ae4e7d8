/**
 * The view: filters, time range, packet, marked bytes. All of it is in the address bar and nowhere else, so that a link
 * reopens it and the browser's Back undoes it.
 */

export const FILTERS = ["text", "network", "port", "protocol", "class", "rule", "devid"];
const NAMES = [...FILTERS, "last", "since_us", "until_us", "key", "bytes", "live"];
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

/** The view as it is; every value is text, empty where it is not set. */
export const current = () => view;

/** Call `listener` with the set of names that changed, whenever some did. */
export const onChange = (listener) => listeners.push(listener);

/** Change some of it. `replace` leaves no step in the history. */
export function change(patch, { replace = false } = {}) {
  if (Object.entries(patch).every(([name, value]) => view[name] === value)) return;
  const before = view;
  view = { ...view, ...patch };
  history[replace ? "replaceState" : "pushState"](null, "", address(view));
  notify(before);
}

/** Change the time range: {last: one of LASTS, or "all"} or {since_us, until_us}. */
export const changeRange = (range, how) => change({ ...NO_RANGE, ...range }, how);

/** Since and until in microseconds as the API takes them; what is open is left out. */
export function range() {
  if (LASTS[view.last]) return { since_us: Date.now() * 1000 - LASTS[view.last] };
  const { since_us, until_us } = view;
  return { ...(since_us && { since_us }), ...(until_us && { until_us }) };
}

/** The filters that are set, and the time range, as the API takes them. */
export function query() {
  const filters = FILTERS.filter((name) => view[name] !== "").map((name) => [name, view[name]]);
  return { ...Object.fromEntries(filters), ...range() };
}

/** Whether a time range that ends has been chosen: nothing new will fall into it. */
export const isClosed = () => !view.last && view.until_us !== "" && Number(view.until_us) <= Date.now() * 1000;

/** A link to exactly what is seen now: a range that moves with the clock is held. */
export function link() {
  const held = view.last ? { last: "", since_us: String(range().since_us ?? ""), until_us: String(Date.now() * 1000) } : {};
  return location.origin + address({ ...view, ...held });
}
