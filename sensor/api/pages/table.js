/** The table of evidence. Rows are reused while the list grows; one row at a time is in the tab order. */

import { $, h } from "./dom.js";
import { CUT, dateAndTime, endpoint, foremost, found } from "./format.js";
import { leadsBeyond, reachOnly, reached } from "./rows.js";
import { current } from "./view.js";

let rows = new Map();
let open = () => {};
let opened = "";
let hadFocus = false; // true if the focus was on a row that was removed

/** Listen for events; `onOpen(key, again)` is called for a chosen row, with `again` true if it was already open. */
export function start(onOpen) {
  open = onOpen;
  $("rows").addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row && getSelection().isCollapsed) reach(row, true);
  });
  $("rows").addEventListener("keydown", onKey);
  $("rows").addEventListener("focus", focus);
}

/** Remove all rows: another search may show the same items differently. */
export function clear() {
  hadFocus = $("rows").contains(document.activeElement);
  rows = new Map();
  $("rows").replaceChildren();
}

/** Show these items, newest first. Items shown before keep their elements. */
export function show(items) {
  const kept = new Map(items.map((item) => [item.key, rows.get(item.key) ?? row(item)]));
  hadFocus ||= $("rows").contains(document.activeElement);
  for (const [key, element] of rows) if (!kept.has(key)) element.remove();
  let after = null;
  for (const element of kept.values()) {
    const place = after ? after.nextSibling : $("rows").firstChild;
    if (element !== place) $("rows").insertBefore(element, place);
    after = element;
  }
  rows = kept;
  mark(opened);
  if (hadFocus && !$("rows").contains(document.activeElement)) focus();
  hadFocus = false;
}

/** Mark the row whose packet is open. */
export function mark(key) {
  opened = key;
  for (const [name, element] of rows) element.setAttribute("aria-selected", String(name === key));
  const reachable = rows.get(key) ?? $("rows").querySelector("tr[tabindex='0']") ?? $("rows").firstElementChild;
  reachOnly($("rows"), reachable);
}

/** Move the keyboard focus to the open row, or else to the first one. */
export function focus() {
  (rows.get(opened) ?? $("rows").querySelector("tr[tabindex='0']") ?? $("rows").firstElementChild)?.focus();
}

/** Scroll to the row whose packet is open. */
export function reveal() {
  rows.get(opened)?.scrollIntoView({ block: "nearest" });
}

/** Return true if the list is scrolled to its newest item. */
export const isAtTop = () => $("list").scrollTop < 40 && scrollY < 40;

function reach(row, andOpen) {
  reachOnly($("rows"), row);
  row.focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
  if (andOpen) open(row.dataset.key, row.dataset.key === opened);
}

function onKey(event) {
  const row = event.target.closest("tr");
  if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
  const to = reached(event.key, row);
  if (to) {
    const isAtEnd = leadsBeyond(event.key, row);
    reach(to, opened !== "" && to !== row);
    if (isAtEnd) $("older").click();
  } else if (event.key === "Enter" || event.key === " ") reach(row, true);
  else return;
  event.preventDefault();
}

/** Return the match of the searched rule or class, or else the most important one. */
function leadingMatch(matches) {
  const { rule, class: wanted } = current();
  const name = wanted || foremost(matches);
  return matches.find((match) => String(match.rule) === rule) ?? matches.find((match) => match.class === name);
}

function row(item) {
  const { matches } = item;
  const first = leadingMatch(matches);
  const leading = first?.class ?? "none";
  const others = matches.filter((match) => match !== first);
  const more = others.length ? `+${others.length}` : "";
  const incomplete = item.incomplete ? h("span", { class: "more", title: CUT }, "incomplete") : null;
  const [date, time] = dateAndTime(item.time_us);
  const name = first?.name ?? (item.role === "hit" ? "kept for its flow" : `${item.role} a match`);
  const element = h("tr", { role: "row", tabindex: -1, class: leading, "aria-selected": "false" },
    cell("time", h("span", { class: "date" }, date), " ", h("time", { datetime: item.time }, time)),
    cell("rule", h("span", { class: "mark", "aria-hidden": "true" }), h("span", { class: "unseen" }, `${leading}: `),
      h("span", { class: "name" }, name), first && h("span", { class: "id" }, first.rule),
      more && h("span", { class: "more", title: others.map((match) => match.name).join("\n") }, more), incomplete),
    cell("found", first ? found(first) : ""),
    cell("source", endpoint(item.sip, item.sport)),
    cell("destination", endpoint(item.dip, item.dport)),
    cell("protocol", item.protocol),
    cell("length", String(item.wirelen)),
    cell("vlan", item.vlan.join(" ")),
    cell("origin", `${item.devid} ${item.interface}`),
  );
  element.dataset.key = item.key;
  return element;
}

function cell(name, ...content) {
  const text = content.length === 1 && typeof content[0] === "string" ? content[0] : null;
  return h("td", { role: "gridcell", class: name, title: text || false }, ...content);
}
