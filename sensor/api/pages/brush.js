/** Time ranges in the timeline: by dragging, by keyboard on its two ends, or as a length that ends now. */

import { $, announce, h } from "./dom.js";
import { timeText } from "./format.js";
import { binAt, shareOf, shown, timeAt } from "./timeline.js";
import { LASTS, changeRange, current } from "./view.js";

const CLICK = 4; // pixels; a shorter drag is a click

let chosen = null; // [from_us, to_us] while a range is being chosen

/** Add the range buttons and listen for events. */
export function start() {
  const lasts = Object.keys(LASTS).map((name) => rangeButton(name, () => changeRange({ last: name })));
  const all = rangeButton("all", () => changeRange({ last: "all" }));
  const out = h("button", { type: "button", id: "zoom-out", "aria-label": "Zoom out", onclick: zoomOut }, "−");
  $("ranges").append(out, ...lasts, all);
  $("chart").addEventListener("pointerdown", drag);
  for (const id of ["from", "to"]) {
    $(id).addEventListener("keydown", (event) => onKey(event, id === "from" ? 0 : 1));
    $(id).addEventListener("blur", ({ relatedTarget }) => {
      if (relatedTarget !== $("from") && relatedTarget !== $("to")) choose(null);
    });
  }
}

/** Show the ends of the range and the chosen length. */
export function show() {
  choose(null);
  const { last, since_us, until_us } = current();
  for (const button of $("ranges").querySelectorAll("[data-last]")) {
    const pressed = button.dataset.last === (last || (since_us || until_us ? "" : "all"));
    button.setAttribute("aria-pressed", String(pressed));
  }
}

function rangeButton(name, onclick) {
  const button = h("button", { type: "button", onclick }, name);
  button.dataset.last = name;
  return button;
}

/** Double the length around the same middle. */
function zoomOut() {
  const histogram = shown();
  if (!histogram) return;
  const half = Math.ceil((histogram.until_us - histogram.since_us) / 2);
  const until_us = Math.min(histogram.until_us + half, Date.now() * 1000);
  changeRange({ since_us: String(Math.max(0, histogram.since_us - half)), until_us: String(Math.max(until_us, histogram.until_us)) });
}

function drag(event) {
  if (event.button !== 0 || !shown()) return;
  const origin = event.clientX;
  const ends = new AbortController();
  const { signal } = ends;
  const extend = (clientX) => choose([timeAt(Math.min(origin, clientX)), timeAt(Math.max(origin, clientX))]);
  $("chart").setPointerCapture(event.pointerId);
  $("chart").addEventListener("pointermove", ({ clientX }) => extend(clientX), { signal });
  $("chart").addEventListener("pointercancel", () => { ends.abort(); choose(null); }, { signal });
  $("chart").addEventListener("pointerup", ({ clientX }) => {
    ends.abort();
    if (Math.abs(clientX - origin) > CLICK) return apply();
    const bin = binAt(clientX);
    choose([bin.time_us, bin.time_us + shown().bin_us]);
    return apply();
  }, { signal });
}

function onKey(event, end) {
  const histogram = shown();
  if (!histogram || event.ctrlKey || event.metaKey || event.altKey) return;
  const { since_us, until_us, bin_us } = histogram;
  const range = [...(chosen ?? [since_us, until_us])];
  const step = bin_us * (event.shiftKey ? 10 : 1);
  const moves = {
    ArrowLeft: range[end] - step, ArrowDown: range[end] - step, ArrowRight: range[end] + step, ArrowUp: range[end] + step,
    PageDown: range[end] - bin_us * 10, PageUp: range[end] + bin_us * 10, Home: since_us, End: until_us,
  };
  if (event.key in moves) {
    const [least, most] = end ? [range[0] + bin_us, until_us] : [since_us, range[1] - bin_us];
    range[end] = Math.min(most, Math.max(least, moves[event.key]));
    choose(range);
  } else if (event.key === "Enter" && chosen) apply();
  else if (event.key === "Escape" && chosen) choose(null);
  else return;
  event.preventDefault();
  event.stopPropagation();
}

function choose(range) {
  chosen = range;
  const histogram = shown();
  const [from, to] = range ?? (histogram ? [histogram.since_us, histogram.until_us] : [0, 0]);
  $("brush").hidden = !range;
  for (const id of ["from", "to"]) $(id).hidden = !histogram;
  if (!histogram) return;
  place($("from"), from);
  place($("to"), to);
  $("brush").style.left = `${shareOf(from) * 100}%`;
  $("brush").style.width = `${(shareOf(to) - shareOf(from)) * 100}%`;
}

function place(handle, time_us) {
  const { since_us, until_us, bin_us } = shown();
  handle.style.left = `${shareOf(time_us) * 100}%`;
  handle.setAttribute("aria-valuemin", since_us);
  handle.setAttribute("aria-valuemax", until_us);
  handle.setAttribute("aria-valuenow", time_us);
  handle.setAttribute("aria-valuetext", timeText(time_us, Math.min(bin_us, 1e6)));
}

function apply() {
  const [from, to] = chosen;
  chosen = null;
  announce(`Range ${timeText(from, 1e3)} to ${timeText(to, 1e3)}`);
  changeRange({ since_us: String(from), until_us: String(Math.max(to, from + 1)) });
}
