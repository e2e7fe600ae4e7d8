/** The filter form, and the class buttons, which are also the legend of the timeline. */

import { getJson } from "./client.js";
import { $, h } from "./dom.js";
import { CLASSES, number } from "./format.js";
import { FILTERS, change, current } from "./view.js";

const form = () => $("filters");
const fields = () => FILTERS.map((name) => form().elements[name]).filter(Boolean);

/** Build the class buttons and listen for events. */
export function start() {
  $("classes").append(...CLASSES.map(classButton));
  form().addEventListener("submit", (event) => {
    event.preventDefault();
    apply();
  });
  form().addEventListener("change", apply);
  form().addEventListener("search", apply); // the clear button of a search field
  $("clear-filters").addEventListener("click", clear);
  if (matchMedia("(max-width: 700px)").matches) $("search-panel").open = false;
  show();
}

/** Clear all filters, but keep the time range. */
export function clear() {
  change(Object.fromEntries(FILTERS.map((name) => [name, ""])));
}

/** Set one filter. */
export const set = (name, value) => change({ [name]: String(value) });

/** Show the filters of the current view. */
export function show() {
  const view = current();
  for (const field of fields()) {
    if (field.tagName === "SELECT") offer(field, view[field.name]);
    field.value = view[field.name];
    field.classList.toggle("set", view[field.name] !== "");
  }
  const set = FILTERS.filter((name) => view[name] !== "");
  $("clear-filters").disabled = set.length === 0;
  $("filters-set").textContent = set.length ? `${set.length} set` : "";
  for (const button of $("classes").children) {
    button.setAttribute("aria-pressed", String(button.dataset.class === view.class));
  }
}

/** Show the number of items per class: {class: count}. */
export function showCounts(counts) {
  for (const button of $("classes").children) {
    button.querySelector(".count").textContent = number(counts[button.dataset.class] ?? 0);
  }
}

/** Offer these devices in the filter. */
export function showDevices(devids) {
  for (const devid of devids) offer(form().elements.devid, String(devid));
}

/** Offer the rules by number and name; without this list a number still works. */
export async function loadRules() {
  const { rules } = await getJson("rules");
  const options = rules.map((rule) => h("option", { value: rule.rule }, `${rule.name} · ${rule.type} · ${rule.class}`));
  $("rules").replaceChildren(...options);
}

function apply() {
  if (!nameRule(form().elements.rule)) return;
  change(Object.fromEntries(fields().map((field) => [field.name, field.value.trim()])));
}

/** Replace part of a rule's name or type by its number; return false if several rules or none have it. */
function nameRule(field) {
  const wanted = field.value.trim().toLowerCase();
  const fitting = [...$("rules").options].filter((option) => option.text.toLowerCase().includes(wanted));
  const isNumber = /^\d*$/.test(wanted);
  if (!isNumber && fitting.length === 1) field.value = fitting[0].value;
  const refused = !isNumber && fitting.length !== 1;
  field.setCustomValidity(refused ? `${fitting.length || "No"} rules have this in their name or type; choose one from the list` : "");
  return field.reportValidity();
}

function offer(select, value) {
  const known = [...select.options].some((option) => option.value === value);
  if (!known) select.append(h("option", { value }, value));
}

function classButton(name) {
  const toggle = () => change({ class: current().class === name ? "" : name });
  const button = h("button", { type: "button", class: `class ${name}`, onclick: toggle },
    h("span", { class: "mark", "aria-hidden": "true" }), name, " ", h("span", { class: "count" }, "0"));
  button.dataset.class = name;
  return button;
}
