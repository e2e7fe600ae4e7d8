/** Parts of the panel below the table, the same for a packet and for a conversation. */

import { address } from "./client.js";
import { h } from "./dom.js";
import { download } from "./download.js";
import { set } from "./filters.js";
import { endpoint } from "./format.js";
import { change } from "./view.js";

/** Close the panel. */
export function close() {
  change({ key: "", bytes: "", tab: "" });
}

/** A button that closes the panel. */
export const closeButton = (label) => h("button", { type: "button", class: "close", "aria-label": label, onclick: close }, "✕");

/** An address and a port, each a button that searches for it. */
export function side(ip, port) {
  const pivot = (name, value, text) => h("button", { type: "button", class: "pivot", title: `Search ${name} ${value}`,
    onclick: () => set(name, value) }, text);
  if (!port) return pivot("network", ip, ip);
  const text = endpoint(ip, port);
  const at = text.lastIndexOf(":") + 1;
  return h("span", {}, pivot("network", ip, text.slice(0, at - 1)), ":", pivot("port", port, text.slice(at)));
}

/** A link that downloads a file of the API. */
export function fileLink(path, parameters, text, label) {
  return h("a", { href: address(path, parameters), download: "", "aria-label": label, onclick: download }, text);
}
