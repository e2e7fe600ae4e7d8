/** A frame in hexadecimal and as text, side by side, with the same bytes marked in both. */

import { h } from "./dom.js";
import { foremost } from "./format.js";
import { cutAtEdges, holds, narrowest } from "./spans.js";

/**
 * Show the bytes of a frame, `width` per row.
 *
 * `on.hover(span | null)` is called with the layer or field under the pointer, `on.choose(span)` with the one clicked or
 * reached by arrow keys. The returned element has `light(span | null)`, `choose(span | null)` and `reveal(span)`, which scrolls.
 */
export function octets(frame, spans, width, on) {
  const parts = cutAtEdges(spans, frame.length, width);
  const element = h("div", { class: "octets", tabindex: 0, role: "group", "aria-label": "Bytes; arrow keys move from field to field" });
  for (const part of parts) {
    if (part.start % width === 0) element.append(emptyRow(part.start));
    const matches = spans.matches.filter((match) => holds(match, part));
    const [, hex, text] = element.lastChild.children;
    part.elements = [marked(hexText(frame, part, width), matches), marked(asciiText(frame, part), matches)];
    hex.append(part.elements[0]);
    text.append(part.elements[1]);
    for (const node of part.elements) node.dataset.start = part.start;
  }

  let chosen = null;
  const toggle = (name, span) => {
    for (const part of parts) {
      for (const node of part.elements) node.classList.toggle(name, span !== null && holds(span, part));
    }
  };
  element.light = (span) => toggle("lit", span);
  element.choose = (span) => {
    chosen = span;
    toggle("chosen", span);
    element.reveal(span);
  };
  element.reveal = (span) => {
    const line = parts.find((part) => span && holds(span, part))?.elements[0].closest(".line");
    if (!line) return;
    const top = line.offsetTop;
    const below = top + line.offsetHeight * 3; // a match often continues on the next line
    const isSeen = top >= element.scrollTop && below <= element.scrollTop + element.clientHeight;
    if (!isSeen) element.scrollTop = top - element.clientHeight / 3;
  };

  const under = (event) => {
    const part = event.target.closest("[data-start]");
    return part ? narrowest(spans, Number(part.dataset.start)) : null;
  };
  element.addEventListener("pointermove", (event) => on.hover(under(event) ?? null));
  element.addEventListener("pointerleave", () => on.hover(null));
  element.addEventListener("click", (event) => {
    const span = under(event);
    if (span && getSelection().isCollapsed) on.choose(span);
  });
  element.addEventListener("keydown", (event) => {
    const { start, end } = chosen ?? { start: 0, end: 0 };
    const byte = { ArrowLeft: start - 1, ArrowRight: end, ArrowUp: start - width, ArrowDown: start + width,
      Home: 0, End: frame.length - 1 }[event.key];
    if (byte === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const span = narrowest(spans, Math.min(frame.length - 1, Math.max(0, chosen ? byte : 0)));
    if (span) on.choose(span);
  });
  return element;
}

/** Return the bytes of hexadecimal text. */
export function fromHex(text) {
  return Uint8Array.from({ length: text.length / 2 }, (_, at) => parseInt(text.substr(at * 2, 2), 16));
}

function emptyRow(offset) {
  return h("div", { class: "line" }, h("span", { class: "offset" }, offset.toString(16).padStart(4, "0")),
    h("span", { class: "hex" }), h("span", { class: "text" }));
}

/** Text that is marked if matches are in it. */
export function marked(text, matches) {
  if (!matches.length) return h("span", {}, text);
  const title = matches.map((match) => `${match.class} ${match.rule} ${match.name}`).join("\n");
  return h("mark", { class: foremost(matches), title }, text);
}

function hexText(frame, { start, end }, width) {
  let text = "";
  for (let at = start; at < end; at += 1) {
    const column = at % width;
    text += frame[at].toString(16).padStart(2, "0");
    if (column < width - 1) text += column === 7 ? "  " : " ";
  }
  return text;
}

function asciiText(frame, { start, end }) {
  return Array.from(frame.subarray(start, end), (byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : "·")).join("");
}
