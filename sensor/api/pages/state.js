/** What stands where evidence would: that there is none, or why it cannot be shown. */

import { h } from "./dom.js";
import * as filters from "./filters.js";
import { timeText } from "./format.js";
import { extent, status } from "./status.js";
import { FILTERS, changeRange, current } from "./view.js";

/** A refusal of the API in its own words, and a way to ask again. */
export function refusal(problem, retry) {
  const { title = "The page failed", detail = String(problem) } = problem;
  return h("div", { class: "refusal", role: "alert" }, h("p", { class: "title" }, title), h("p", {}, detail),
    h("p", {}, button("Try again", retry)));
}

/** Why nothing was found, and what leads to evidence. */
export function empty() {
  if (extent()) return nothingFits(extent());
  if (status()?.index.state === "rebuilding") {
    return said("No evidence in the index yet", "It is found as soon as its file is indexed.");
  }
  return said("No evidence yet", "It appears here as soon as a rule hits: ", h("code", {}, "sensor run -i eth1"),
    " watches a mirror port.");
}

function nothingFits({ oldest_us, newest_us }) {
  const isFiltered = FILTERS.some((name) => current()[name]);
  const element = said(isFiltered ? "No evidence passes these filters" : "No evidence in this time range",
    `There is evidence from ${timeText(oldest_us, 60e6)} to ${timeText(newest_us, 60e6)} UTC.`);
  element.append(h("p", { class: "actions" }, isFiltered ? button("Clear filters", filters.clear) : null,
    button("All times", () => changeRange({ last: "all" }))));
  return element;
}

const said = (title, ...text) => h("div", { class: "empty" }, h("p", { class: "title" }, title), h("p", {}, ...text));
const button = (text, onclick) => h("button", { type: "button", onclick }, text);
