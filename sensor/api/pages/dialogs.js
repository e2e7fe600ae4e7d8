/** Help, and the question for a token. */

import { onUnauthorized, token } from "./client.js";
import { $, h } from "./dom.js";

const SWITCH = "sensor-keys";
const KEYS = [
  ["/", "search the text of payloads"],
  ["t", "to the table"],
  ["h", "to the timeline (start; Tab: end)"],
  ["p", "pause, or follow"],
  ["c", "copy a link to this view"],
  ["?", "this help"],
  ["↑ ↓ PgUp PgDn Home End", "table, layers: move"],
  ["Enter", "table: open the packet; again: into its layers"],
  ["← →", "layers: fold, unfold; bytes: field by field; timeline: move an end, with Shift ten bins"],
  ["Enter", "timeline: take the range"],
  ["Esc", "close, step back"],
];

/** Whether single keys are commands (WCAG 2.1.4: they can be turned off). */
export const keysAreOn = () => localStorage.getItem(SWITCH) !== "off";

/** Build both, and ask for a token whenever the API wants one. */
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
    h("p", {}, h("label", {}, onOff, " Single keys are commands")),
    h("p", {}, "Times are UTC. Drag over the timeline to choose a range, click a bar to choose it. The address of this page is " +
      "the view: it can be kept, sent, and undone with Back."),
    h("p", {}, "For programs: ", h("a", { href: "openapi.json" }, "openapi.json"), "."),
    h("form", { method: "dialog" }, h("button", {}, "Close")),
  ];
}

function ask(problem) {
  const dialog = $("token");
  const refused = token.get() !== null;
  const input = h("input", { type: "password", name: "token", required: "", autocomplete: "off", spellcheck: "false", size: 48 });
  const why = h("p", { role: "alert" }, refused ? "The API refused this token." : problem.detail || problem.title);
  const done = new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      $("forget-token").hidden = !token.get();
      resolve();
    }, { once: true });
  });
  const form = h("form", { method: "dialog", onsubmit: () => token.set(input.value.trim()) },
    h("h2", { id: "token-title" }, "A token is needed"), why, h("label", {}, "Token ", input),
    h("p", { class: "quiet" }, "It is kept until this tab is closed. ", h("code", {}, "sensor token create"), " makes one."),
    h("button", {}, "Continue"));
  dialog.replaceChildren(form);
  dialog.addEventListener("cancel", (event) => event.preventDefault()); // there is nothing to see without one
  dialog.showModal();
  return done;
}
