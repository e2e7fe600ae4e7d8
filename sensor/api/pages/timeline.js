/**
 * The histogram: evidence over time, stacked by rule class. brush.js selects ranges in it.
 *
 * The API ignores the text filter in a histogram, because its index does not contain payloads.
 */

import { getJson } from "./client.js";
import { $, h, svg } from "./dom.js";
import { CLASSES, duration, number, timeText } from "./format.js";
import { current, query } from "./view.js";
import * as filters from "./filters.js";

const STACK = [...CLASSES, "none"];
const STEPS_S = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 5, 15, 30, 60, 300, 900, 1800, 3600, 10800, 21600, 43200,
  86400, 604800, 2592e3, 31536e3];
const AXIS = 16; // pixels below the bars

let histogram = null;
let request = new AbortController();

/** Return the histogram shown, or null: {since_us, until_us, bin_us, bins}. */
export const shown = () => histogram;

/** Redraw when the size changes, and describe the bin under the pointer. */
export function start() {
  new ResizeObserver(draw).observe($("chart"));
  $("chart").addEventListener("pointermove", (event) => describe(binAt(event.clientX)));
  $("chart").addEventListener("pointerleave", () => describe(null));
}

/** Fetch and draw the histogram of the current view. Throws Problem. */
export async function load() {
  request.abort();
  request = new AbortController();
  const bins = innerWidth < 700 ? 60 : 180;
  const answer = await getJson("histogram", { ...query(), bins }, request.signal);
  histogram = answer.bins.length && answer.until_us > answer.since_us ? answer : null;
  draw();
  describe(null);
  return histogram;
}

/** Return the number of items in the whole range. */
export const total = () => histogram?.bins.reduce((sum, bin) => sum + bin.total, 0) ?? 0;

/** Return the time at a horizontal position of the window, within the range. */
export function timeAt(clientX) {
  const box = $("chart").getBoundingClientRect();
  const share = Math.min(1, Math.max(0, (clientX - box.left) / box.width));
  return Math.round(histogram.since_us + share * (histogram.until_us - histogram.since_us));
}

/** Return the position of a time as a share of the width, 0 to 1. */
export function shareOf(time_us) {
  return (time_us - histogram.since_us) / (histogram.until_us - histogram.since_us);
}

/** Return the bin at a horizontal position, or null. */
export function binAt(clientX) {
  if (!histogram) return null;
  const at = Math.floor((timeAt(clientX) - histogram.since_us) / histogram.bin_us);
  return histogram.bins[Math.min(at, histogram.bins.length - 1)];
}

/** Return true if the API had no evidence to choose a range by: it answers with the last microsecond. */
const isNothing = ({ since_us, until_us }) => until_us - since_us <= 1 && total() === 0;

function describe(bin) {
  const counts = {};
  for (const { classes } of bin ? [bin] : histogram?.bins ?? []) {
    for (const [name, count] of Object.entries(classes)) counts[name] = (counts[name] ?? 0) + count;
  }
  filters.showCounts(counts);
  if (!histogram || isNothing(histogram)) return $("span").replaceChildren();
  const { since_us, until_us, bin_us } = histogram;
  const [from, to] = bin ? [bin.time_us, bin.time_us + bin_us] : [since_us, until_us];
  const step = bin ? Math.min(bin_us, 1e6) : Math.min((until_us - since_us) / 500, 60e6);
  const [first, last] = [timeText(from, step), timeText(to, step)];
  const until = first.slice(0, 10) === last.slice(0, 10) ? last.slice(11) : last;
  $("span").replaceChildren(h("span", { class: "data" }, `${first} – ${until}`), ` UTC · ${duration(to - from)}`,
    current().text ? " · text filter ignored" : "");
}

function stackOf(bin) {
  const matched = Object.values(bin.classes).reduce((sum, count) => sum + count, 0);
  return STACK.map((name) => [name, name === "none" ? Math.max(0, bin.total - matched) : bin.classes[name] ?? 0]);
}

function draw() {
  const { clientWidth: width, clientHeight } = $("chart");
  const height = clientHeight - AXIS;
  const bars = $("bars");
  bars.setAttribute("viewBox", `0 0 ${width} ${clientHeight}`);
  bars.replaceChildren();
  if (!histogram) return;
  const stacks = histogram.bins.map(stackOf);
  const heights = stacks.map((stack) => stack.reduce((sum, [, count]) => sum + count, 0));
  const most = Math.max(1, ...heights);
  bars.setAttribute("aria-label", `Evidence over time: ${number(total())} items, at most ${number(most)} per bar`);
  bars.append(...grid(width, height, most));
  histogram.bins.forEach((bin, at) => {
    const left = shareOf(bin.time_us) * width;
    const right = Math.min(1, shareOf(bin.time_us + histogram.bin_us)) * width;
    const gap = right - left > 3 ? 1 : 0;
    bars.append(...column(stacks[at], left, right - left - gap, height, most));
  });
}

/** Draw one bin's stack; each part is at least two pixels high, so that one match among thousands is visible. */
function column(stack, x, width, height, most) {
  let bottom = height;
  return stack.filter(([, count]) => count).map(([name, count]) => {
    const tall = Math.max(2, (count / most) * (height - 12));
    bottom -= tall;
    return svg("rect", { class: name, x, y: bottom, width: Math.max(width, 1), height: tall });
  });
}

/** Return a tick's label: the time of day, or the date at midnight. */
function label(time_us, step_us) {
  const text = timeText(time_us, step_us);
  return step_us < 86_400e6 && time_us % 86_400e6 ? text.slice(11) : text.slice(0, 10);
}

function grid(width, height, most) {
  const { since_us, until_us } = histogram;
  const room = Math.max(1, Math.floor(width / 110));
  const wanted = (until_us - since_us) / room;
  const step = (STEPS_S.find((seconds) => seconds * 1e6 >= wanted) ?? STEPS_S.at(-1)) * 1e6;
  const lines = [svg("line", { class: "base", x1: 0, x2: width, y1: height + 0.5, y2: height + 0.5 })];
  for (let time = Math.ceil(since_us / step) * step; time < until_us; time += step) {
    const x = Math.round(shareOf(time) * width) + 0.5;
    lines.push(svg("line", { class: "tick", x1: x, x2: x, y1: 0, y2: height + 4 }));
    if (x < width - 60) lines.push(svg("text", { x: x + 4, y: height + 13 }, label(time, step)));
  }
  lines.push(svg("text", { class: "most", x: 4, y: 10 }, number(most)));
  return lines;
}
