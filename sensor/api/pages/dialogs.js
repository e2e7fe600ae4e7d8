/** The dialogs: help, and asking for a token. */

import { onUnauthorized, token } from "./client.js";
import { $, h } from "./dom.js";

const SWITCH = "sensor-keys";
const KEYS = [
  ["/", "search the text of payloads"],
  ["t", "go to the table"],
  ["h", "go to the timeline: start of the range; Tab: end"],
  ["p", "pause or resume live updates"],
  ["c", "copy a link to this view"],
  ["b", "switch between the conversation of a packet and its bytes"],
  ["?", "this help"],
  ["↑ ↓ PgUp PgDn Home End", "table, packets, layers: move"],
  ["Enter", "table: open the packet or its conversation; again: go there; packets: show the bytes"],
  ["← →", "layers: fold, unfold; bytes: previous or next field; timeline: move an end, with Shift by ten bins"],
  ["Enter", "timeline: apply the range"],
  ["Esc", "close, go back"],
];

/** Return true if single-key commands are on (WCAG 2.1.4 requires that they can be turned off). */
export const keysAreOn = () => localStorage.getItem(SWITCH) !== "off";

/** Build the help dialog, and ask for a token whenever the API requires one. */
export function start() {
  $("help").append(...helpContent());
  $("open-help").addEventListener("click", () => $("help").showModal());
  $("forget-token").hidden = !token.get();
  $("forget-token").addEventListener("click", () => {
    token.forget();
    location.reload();
  });
  let asking = null;
  onUnauthorized((problem) => {
    asking ??= ask(problem).finally(() => { asking = null; });
    return asking;
  });
}

function helpContent() {
  const onOff = h("input", { type: "checkbox", onchange: () => localStorage.setItem(SWITCH, onOff.checked ? "on" : "off") });
  onOff.checked = keysAreOn();
  return [
    h("h2", { id: "help-title" }, "Keys"),
    h("table", {}, h("tbody", {}, KEYS.map(([keys, meaning]) => h("tr", {},
      h("th", { scope: "row" }, keys.split(" ").map((key) => h("kbd", {}, key))), h("td", {}, meaning))))),
    h("p", {}, h("label", {}, onOff, " Single-key commands")),
    h("p", {}, "Times are UTC. Drag over the timeline to choose a range, or click a bar. The address of this page contains the " +
      "whole view: bookmark it, share it, or use Back to undo a step."),
    h("p", {}, "For programs: ", h("a", { href: "openapi.json" }, "openapi.json"), "."),
    h("form", { method: "dialog" }, h("button", {}, "Close")),
  ];
}

/** Ask for a token with more rights; return a promise that resolves when the dialog is closed. */
export const askForRights = (why) => ask({ detail: why }, { mayCancel: true });

function ask(problem, { mayCancel = false } = {}) {
  const dialog = $("token");
  const refused = token.get() !== null && !mayCancel;
  const input = h("input", { type: "password", name: "token", required: "", autocomplete: "off", spellcheck: "false", size: 48 });
  const why = h("p", { role: "alert" }, refused ? "The API refused this token." : problem.detail || problem.title);
  const done = new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      $("forget-token").hidden = !token.get();
      resolve();
    }, { once: true });
  });
  const forget = () => {
    token.forget();
    dialog.close();
  };
  const form = h("form", { method: "dialog", onsubmit: () => token.set(input.value.trim()) },
    h("h2", { id: "token-title" }, "Token required"), why, h("label", {}, "Token ", input),
    h("p", { class: "quiet" }, "The token is kept until this tab is closed. Create one with ", h("code", {}, "sensor token create"), "."),
    h("div", { class: "actions" }, h("button", {}, "Continue"),
      refused ? h("button", { type: "button", onclick: forget }, "Forget this token") : null,
      mayCancel ? h("button", { type: "button", onclick: () => dialog.close() }, "Cancel") : null));
  dialog.replaceChildren(form);
  dialog.oncancel = (event) => mayCancel || event.preventDefault(); // without a token there is nothing to show
  dialog.showModal();
  return done;
}
