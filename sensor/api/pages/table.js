/** The table of evidence: rows that are reused while the list grows, one of which can be reached and opened by keys. */

import { $, h } from "./dom.js";
import { dateAndTime, endpoint, foremost, found } from "./format.js";
import { current } from "./view.js";

const PAGE_ROWS = 15;

let rows = new Map();
let open = () => {};
let opened = "";
let hadFocus = false; // the keyboard was on a row that is gone

/** Listen; `onOpen(key, again)` is called for a row that was chosen, `again` when it was already open. */
export function start(onOpen) {
  open = onOpen;
  $("rows").addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row && getSelection().isCollapsed) reach(row, true);
  });
  $("rows").addEventListener("keydown", onKey);
  $("rows").addEventListener("focus", focus);
}

/** Forget the rows: another search may have to show the same pieces in another way. */
export function clear() {
  hadFocus = $("rows").contains(document.activeElement);
  rows = new Map();
  $("rows").replaceChildren();
}

/** Show these pieces, newest first. Rows of pieces that were there before stay the same elements. */
export function show(pieces) {
  const kept = new Map(pieces.map((piece) => [piece.key, rows.get(piece.key) ?? row(piece)]));
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
  reachOnly(reachable);
}

/** Put the keyboard on the row that is open, or else on the first one. */
export function focus() {
  (rows.get(opened) ?? $("rows").querySelector("tr[tabindex='0']") ?? $("rows").firstElementChild)?.focus();
}

/** Scroll to the row whose packet is open. */
export function reveal() {
  rows.get(opened)?.scrollIntoView({ block: "nearest" });
}

/** Whether the list is scrolled to its newest piece. */
export const isAtTop = () => $("list").scrollTop < 40 && scrollY < 40;

function reachOnly(row) {
  for (const other of $("rows").querySelectorAll("tr[tabindex='0']")) other.tabIndex = -1;
  if (row) row.tabIndex = 0;
}

function reach(row, andOpen) {
  reachOnly(row);
  row.focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
  if (andOpen) open(row.dataset.key, row.dataset.key === opened);
}

function onKey(event) {
  const row = event.target.closest("tr");
  if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
  const all = [...$("rows").children];
  const at = all.indexOf(row);
  const moves = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + PAGE_ROWS, PageUp: at - PAGE_ROWS, Home: 0, End: all.length - 1 };
  if (event.key in moves) {
    const to = all[Math.min(all.length - 1, Math.max(0, moves[event.key]))];
    reach(to, opened !== "" && to !== row);
    if (moves[event.key] >= all.length) $("older").click();
  } else if (event.key === "Enter" || event.key === " ") reach(row, true);
  else return;
  event.preventDefault();
}

/** The match that was searched for, or that says most. */
function leadingMatch(matches) {
  const { rule, class: wanted } = current();
  const name = wanted || foremost(matches);
  return matches.find((match) => String(match.rule) === rule) ?? matches.find((match) => match.class === name);
}

function row(piece) {
  const { matches } = piece;
  const first = leadingMatch(matches);
  const leading = first?.class ?? "none";
  const others = matches.filter((match) => match !== first);
  const more = others.length ? `+${others.length}` : "";
  const [date, time] = dateAndTime(piece.time_us);
  const name = first?.name ?? "kept for its flow";
  const element = h("tr", { role: "row", tabindex: -1, class: leading, "aria-selected": "false" },
    cell("time", h("span", { class: "date" }, date), " ", h("time", { datetime: piece.time }, time)),
    cell("rule", h("span", { class: "mark", "aria-hidden": "true" }), h("span", { class: "unseen" }, `${leading}: `),
      h("span", { class: "name" }, name), first && h("span", { class: "id" }, first.rule),
      more && h("span", { class: "more", title: others.map((match) => match.name).join("\n") }, more)),
    cell("found", first ? found(first) : ""),
    cell("source", endpoint(piece.sip, piece.sport)),
    cell("destination", endpoint(piece.dip, piece.dport)),
    cell("protocol", piece.protocol),
    cell("length", String(piece.wirelen)),
    cell("vlan", piece.vlan.join(" ")),
    cell("origin", `${piece.devid} ${piece.interface}`),
  );
  element.dataset.key = piece.key;
  return element;
}

function cell(name, ...content) {
  const text = content.length === 1 && typeof content[0] === "string" ? content[0] : null;
  return h("td", { role: "gridcell", class: name, title: text || false }, ...content);
}
