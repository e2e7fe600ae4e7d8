/** Notices at the top of the page: errors, and work in progress. */

import { $, h } from "./dom.js";

const shown = new Map();

/** Show or replace the notice of this name; remove it if `kind` is null. Kinds: "info", "error". The same text shows once. */
export function notice(name, kind, ...content) {
  const text = content.map((part) => (typeof part === "string" ? part : part.outerHTML)).join("");
  if (shown.get(name)?.text === text && kind) return;
  shown.get(name)?.element.remove();
  shown.delete(name);
  if (!kind || [...shown.values()].some((other) => other.text === text)) return;
  const element = h("p", { class: `notice ${kind}` }, h("span", {}, ...content),
    h("button", { type: "button", "aria-label": "Dismiss", onclick: () => element.remove() }, "✕"));
  shown.set(name, { text, element });
  $("notices").append(element);
}
