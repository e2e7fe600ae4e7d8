/** Messages in place of evidence: nothing found, or an error. */

import { h } from "./dom.js";
import * as filters from "./filters.js";
import { timeText } from "./format.js";
import { extent, status } from "./status.js";
import { FILTERS, changeRange, current } from "./view.js";

/** Return an error of the API in its own words, with a button to try again. */
export function refusal(problem, retry) {
  const { title = "The page failed", detail = String(problem) } = problem;
  return h("div", { class: "refusal", role: "alert" }, h("p", { class: "title" }, title), h("p", {}, detail),
    h("p", {}, button("Try again", retry)));
}

/** Return a message that says why nothing was found and what to do. */
export function empty() {
  if (extent()) return nothingFits(extent());
  if (status()?.index.state === "rebuilding") {
    return message("No evidence in the index yet", "Evidence appears as soon as its file is indexed.");
  }
  return message("No evidence yet", "Evidence appears here when a packet matches a rule. Start capturing on a mirror port with ",
    h("code", {}, "sensor run -i eth1"), ".");
}

function nothingFits({ oldest_us, newest_us }) {
  const isFiltered = FILTERS.some((name) => current()[name]);
  const element = message(isFiltered ? "No evidence matches these filters" : "No evidence in this time range",
    `There is evidence from ${timeText(oldest_us, 60e6)} to ${timeText(newest_us, 60e6)} UTC.`);
  element.append(h("p", { class: "actions" }, isFiltered ? button("Clear filters", filters.clear) : null,
    button("All times", () => changeRange({ last: "all" }))));
  return element;
}

const message = (title, ...text) => h("div", { class: "empty" }, h("p", { class: "title" }, title), h("p", {}, ...text));
const button = (text, onclick) => h("button", { type: "button", onclick }, text);
