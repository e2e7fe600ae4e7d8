/** The layers and fields of a packet as a tree (WAI-ARIA practices: tree view). */

import { h } from "./dom.js";

/**
 * Show layers and fields.
 *
 * `on.hover(span | null)` is called for the item under the pointer, `on.choose(span)` for the one chosen by pointer or
 * keyboard. The returned element has `light(span | null)` and `choose(span | null)`.
 */
export function tree({ layers, fields, matches }, on) {
  const items = new Map();
  const make = (span, className, ...content) => {
    const item = h("li", { role: "treeitem", tabindex: -1, class: className, "aria-selected": "false" }, ...content);
    items.set(item, span);
    return item;
  };
  const element = h("ul", { role: "tree", class: "tree", "aria-label": "Layers and fields" });
  if (matches.length) {
    element.append(branch(make, { name: "Matches" }, matches.map((match) => make(match, `field match ${match.class}`,
      h("span", { class: "name" }, h("span", { class: "mark", "aria-hidden": "true" }), `${match.class} ${match.rule}`),
      h("span", { class: "value" }, matchText(match))))));
  }
  for (const layer of layers) {
    const own = fields.filter((field) => field.path.startsWith(`${layer.path}.`));
    element.append(branch(make, layer, own.map((field) => make(field, "field",
      h("span", { class: "name" }, field.name), h("span", { class: "value" }, field.value)))));
  }
  element.firstElementChild?.setAttribute("tabindex", "0");

  const itemOf = (span) => [...items.keys()].find((item) => span && items.get(item).path === span.path);
  element.light = (span) => {
    const lit = itemOf(span);
    for (const item of items.keys()) item.classList.toggle("lit", item === lit);
  };
  element.choose = (span) => {
    const chosen = itemOf(span);
    for (const item of items.keys()) item.setAttribute("aria-selected", String(item === chosen));
    if (!chosen) return;
    chosen.parentElement.closest("[aria-expanded]")?.setAttribute("aria-expanded", "true");
    reachOnly(element, chosen);
    chosen.scrollIntoView({ block: "nearest" });
  };
  const under = (event) => event.target.closest("[role=treeitem]");
  const spanned = (item) => (items.get(item)?.end > items.get(item)?.start ? items.get(item) : null);
  element.addEventListener("pointermove", (event) => on.hover(spanned(under(event))));
  element.addEventListener("pointerleave", () => on.hover(null));
  element.addEventListener("click", (event) => {
    const item = under(event);
    if (!item || !getSelection().isCollapsed) return;
    if (event.target.closest(".twist")) toggle(item);
    go(item);
  });
  element.addEventListener("keydown", onKey);

  function go(item) {
    reachOnly(element, item);
    item.focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest" });
    if (spanned(item)) on.choose(spanned(item));
  }

  function onKey(event) {
    const item = under(event);
    if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
    const visible = [...items.keys()].filter((each) => !each.parentElement.closest("[aria-expanded=false]"));
    visible.sort((one, other) => (one.compareDocumentPosition(other) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1));
    const at = visible.indexOf(item);
    const expanded = item.getAttribute("aria-expanded");
    const parent = item.parentElement.closest("[role=treeitem]");
    const to = {
      ArrowDown: visible[at + 1], ArrowUp: visible[at - 1], Home: visible[0], End: visible.at(-1),
      ArrowRight: expanded === "true" ? visible[at + 1] : undefined,
      ArrowLeft: expanded === "true" ? undefined : parent,
    }[event.key];
    if (to) go(to);
    else if (["ArrowRight", "ArrowLeft", "Enter", " "].includes(event.key)) toggle(item);
    else if (!["ArrowDown", "ArrowUp", "Home", "End"].includes(event.key)) return;
    event.preventDefault();
  }

  return element;
}

function matchText({ name, version, vendor, os, start }) {
  return [name, version, vendor, os, start >= 0 ? "" : "position unknown"].filter(Boolean).join(" · ");
}

function branch(make, span, children) {
  const head = h("div", { class: "head" }, h("span", { class: "twist", "aria-hidden": "true" }), h("span", { class: "name" }, span.name));
  if (!children.length) return make(span, "layer", head);
  const item = make(span, "layer", head, h("ul", { role: "group" }, ...children));
  item.setAttribute("aria-expanded", "true");
  return item;
}

function reachOnly(element, item) {
  for (const other of element.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
  item.tabIndex = 0;
}

function toggle(item) {
  const expanded = item.getAttribute("aria-expanded");
  if (expanded) item.setAttribute("aria-expanded", String(expanded !== "true"));
}
