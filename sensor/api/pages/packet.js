/** The panel below the table: the conversation of a packet, or its layers and bytes. */

import { getJson } from "./client.js";
import { conversationView, fetchConversation } from "./conversation.js";
import { $, announce, h } from "./dom.js";
import { CUT, dateAndTime } from "./format.js";
import { fromHex, octets } from "./octets.js";
import { closeButton, fileLink, side } from "./panel.js";
import { refusal } from "./state.js";
import { narrowest, spansOf } from "./spans.js";
import { tree } from "./tree.js";
import { change, current } from "./view.js";

const BYTES = "bytes"; // of `tab` in the view: layers and bytes, also of a packet that is part of a conversation
const CLOSE = "Close the packet";
const narrow = matchMedia("(max-width: 700px)");

let request = new AbortController();
let packet = null;
let views = null; // the views of layers and of bytes that are shown
let talk = null; // the conversation that is shown, or was before its packet: number, device, parts, and whether it grows

/** Redraw when the number of bytes per row changes. */
export function start() {
  narrow.addEventListener("change", () => packet && draw());
}

/** Show the packet of the current view, or its conversation, or nothing. `known` is its item in the table, if loaded. */
export async function load(known) {
  request.abort();
  request = new AbortController();
  const { key, tab } = current();
  const hadFocus = $("packet").contains(document.activeElement);
  packet = null;
  views = null;
  $("packet").hidden = !key;
  cover();
  if (!key) return clear();
  $("packet").setAttribute("aria-busy", "true");
  if (known && !$("packet").firstChild) $("packet").replaceChildren(head(known));
  try {
    const asked = tab !== BYTES && known?.conversation ? known : await getJson(`evidence/${encodeURIComponent(key)}`, {}, request.signal);
    if (tab !== BYTES && asked.conversation) await showConversation(asked);
    else {
      packet = asked;
      draw();
    }
    if (hadFocus) focus();
  } catch (problem) {
    if (problem.name === "AbortError") return;
    clear();
    $("packet").replaceChildren(known ? head(known, false) : bare(key), refusal(problem, () => load(known)));
    announce(problem.title);
  }
  $("packet").removeAttribute("aria-busy");
}

/** Switch between the conversation of the packet and its bytes. */
export function switchTab() {
  if (current().tab === BYTES) change({ tab: "", bytes: "" });
  else if (isTalking()) change({ tab: BYTES });
}

const isTalking = () => talk !== null && talk.body.isConnected;

function clear() {
  talk = null;
  $("packet").replaceChildren();
}

/** Show the conversation of an item. One that has ended is fetched once, as long as no other is opened. */
async function showConversation(item) {
  const isSame = talk && talk.number === item.conversation && talk.devid === item.devid;
  if (!isSame || talk.grows) {
    const found = await fetchConversation(item, request.signal);
    const onOpen = (key) => change({ key, tab: BYTES, bytes: "" });
    const [header, body] = conversationView(found, onOpen, () => load(item));
    talk = { number: item.conversation, devid: item.devid, header, body, grows: found.about.ended === "open" };
  }
  if (!isTalking()) $("packet").replaceChildren(talk.header, talk.body);
  talk.body.select(current().key);
}

/** Mark the bytes that the current view names. */
export function showBytes() {
  if (views) views.forEach((shown) => shown.choose(spanOfView()));
}

/** Move the keyboard focus to the layers, or to the packets of the conversation. */
export function focus() {
  if (isTalking()) talk.body.reach();
  else ($("packet").querySelector("[role=treeitem][tabindex='0']") ?? $("packet")).focus();
}

/** On a narrow screen the packet covers the page; make the rest of it unreachable. */
function cover() {
  const covered = narrow.matches && current().key !== "";
  for (const element of [$("top"), $("search-panel"), $("timeline"), $("results")]) element.inert = covered;
  if (covered && !$("packet").contains(document.activeElement)) $("packet").focus();
}

function draw() {
  cover();
  const spans = spansOf(packet);
  const frame = fromHex(packet.frame);
  const on = {
    hover: (span) => views.forEach((shown) => shown.light(span)),
    choose: (span) => change({ bytes: `${span.start}-${span.end}` }, { replace: true }),
  };
  const width = narrow.matches ? 8 : 16;
  views = [tree(spans, on), octets(frame, spans, width, on)];
  $("packet").replaceChildren(head(packet), h("div", { class: "views" }, ...views));
  showBytes();
  if (!spanOfView()) views[1].reveal(spans.matches.find(({ start }) => start >= 0));
}

function spanOfView() {
  const [start, end] = current().bytes.split("-").map(Number);
  if (!packet || !(end > start)) return null;
  const { layers, fields, matches } = spansOf(packet);
  const all = [...fields, ...matches, ...layers];
  return all.find((span) => span.start === start && span.end === end) ?? narrowest({ layers, fields }, start) ?? null;
}

function head(item, withFiles = true) {
  const [date, time] = dateAndTime(item.time_us);
  const cut = item.caplen < item.wirelen ? `${item.caplen} of ${item.wirelen} bytes kept` : `${item.wirelen} bytes`;
  const where = [item.interface && `interface ${item.interface}`, item.vlan.length && `VLAN ${item.vlan.join(" in ")}`,
    `device ${item.devid}`, `${item.file} at ${item.offset}`].filter(Boolean);
  return h("header", {},
    h("h2", {}, h("span", { class: "data" }, `${date} ${time}`), " ", h("span", { class: "data talk" }, item.protocol, " ",
      side(item.sip, item.sport), " → ", side(item.dip, item.dport))),
    h("p", { class: "where" }, `${cut} · ${where.join(" · ")}`),
    item.incomplete ? h("p", { class: "where" }, `Incomplete: ${CUT}.`) : null,
    h("div", { class: "actions" }, item.conversation ? conversationButton() : null, ...(withFiles ? files(item) : []),
      closeButton(CLOSE)));
}

function bare(key) {
  return h("header", {}, h("h2", { class: "data" }, key), h("div", { class: "actions" }, closeButton(CLOSE)));
}

const conversationButton = () => h("button", { type: "button", "aria-keyshortcuts": "b", onclick: switchTab }, "Conversation");

function files(item) {
  const own = `evidence/${encodeURIComponent(item.key)}`;
  const link = (path, text, label) => fileLink(`${own}/${path}`, {}, text, label);
  return [
    h("span", {}, "packet: ", link("pcap", "pcap", "Download the packet as pcap"), " ",
      link("pcapng", "pcapng", "Download the packet as pcapng")),
    h("span", {}, "flow: ", link("flow.pcap", "pcap", "Download its flow as pcap"), " ",
      link("flow.pcapng", "pcapng", "Download its flow as pcapng")),
  ];
}
