/** Single-key commands for the whole page; keys inside a part of it are handled there. */

import { $ } from "./dom.js";
import { keysAreOn } from "./dialogs.js";
import * as packet from "./packet.js";
import { close } from "./panel.js";
import * as table from "./table.js";
import { current } from "./view.js";

const COMMANDS = {
  "/": () => {
    $("search-panel").open = true;
    $("filters").elements.text.focus();
    $("filters").elements.text.select();
  },
  "?": () => $("help").showModal(),
  t: table.focus,
  h: () => $("from").focus(),
  p: () => $("live").click(),
  c: () => $("copy-link").click(),
  b: packet.switchTab,
};

/** Listen for keys. */
export function start() {
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") return stepBack(event);
    if (isTyping(event.target) || !keysAreOn() || !COMMANDS[event.key]) return;
    event.preventDefault();
    COMMANDS[event.key]();
  });
}

const isTyping = (element) => element.matches("input, select, textarea");

function stepBack(event) {
  const { target } = event;
  if (isTyping(target)) {
    event.preventDefault();
    if (target.value === "" || target.tagName === "SELECT") return table.focus();
    target.value = "";
    target.dispatchEvent(new Event("change", { bubbles: true }));
  } else if (current().key) {
    close();
    table.focus();
  }
}
