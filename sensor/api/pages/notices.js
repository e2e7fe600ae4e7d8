/** Lines above everything else: what is wrong, or still under way. */

import { $, h } from "./dom.js";

const shown = new Map();

/** Show, change or (without a kind) take away the notice of this name; none is shown twice. Kinds: "info", "error". */
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
