/** One packet: addresses, matches, layers, bytes, and downloads. */

import { address, getJson } from "./client.js";
import { $, announce, h } from "./dom.js";
import { download } from "./download.js";
import { set } from "./filters.js";
import { CUT, dateAndTime, endpoint } from "./format.js";
import { fromHex, octets } from "./octets.js";
import { refusal } from "./state.js";
import { narrowest, spansOf } from "./spans.js";
import { tree } from "./tree.js";
import { change, current } from "./view.js";

const narrow = matchMedia("(max-width: 700px)");

let request = new AbortController();
let packet = null;
let views = null; // the views of layers and of bytes that are shown

/** Redraw when the number of bytes per row changes. */
export function start() {
  narrow.addEventListener("change", () => packet && draw());
}

/** Show the packet of the current view, or none. `known` is its item in the table, if loaded. */
export async function load(known) {
  request.abort();
  request = new AbortController();
  const { key } = current();
  packet = null;
  views = null;
  $("packet").hidden = !key;
  cover();
  if (!key) return $("packet").replaceChildren();
  $("packet").setAttribute("aria-busy", "true");
  if (known && !$("packet").firstChild) $("packet").replaceChildren(head(known));
  try {
    packet = await getJson(`evidence/${encodeURIComponent(key)}`, {}, request.signal);
    draw();
  } catch (problem) {
    if (problem.name === "AbortError") return;
    $("packet").replaceChildren(known ? head(known, false) : bare(key), refusal(problem, () => load(known)));
    announce(problem.title);
  }
  $("packet").removeAttribute("aria-busy");
}

/** Mark the bytes that the current view names. */
export function showBytes() {
  if (views) views.forEach((shown) => shown.choose(spanOfView()));
}

/** Move the keyboard focus to the layers. */
export function focus() {
  ($("packet").querySelector("[role=treeitem][tabindex='0']") ?? $("packet")).focus();
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
    h("div", { class: "actions" }, ...(withFiles ? files(item) : []), closeButton()));
}

function bare(key) {
  return h("header", {}, h("h2", { class: "data" }, key), h("div", { class: "actions" }, closeButton()));
}

const closeButton = () => h("button", { type: "button", class: "close", "aria-label": "Close the packet", onclick: close }, "✕");

function side(ip, port) {
  const pivot = (name, value, text) => h("button", { type: "button", class: "pivot", title: `Search ${name} ${value}`,
    onclick: () => set(name, value) }, text);
  if (!port) return pivot("network", ip, ip);
  const text = endpoint(ip, port);
  const at = text.lastIndexOf(":") + 1;
  return h("span", {}, pivot("network", ip, text.slice(0, at - 1)), ":", pivot("port", port, text.slice(at)));
}

function files(item) {
  const own = `evidence/${encodeURIComponent(item.key)}`;
  const link = (path, text, label) => h("a", { href: address(`${own}/${path}`), download: "", "aria-label": label,
    onclick: download }, text);
  return [
    h("span", {}, "packet: ", link("pcap", "pcap", "Download the packet as pcap"), " ",
      link("pcapng", "pcapng", "Download the packet as pcapng")),
    h("span", {}, "flow: ", link("flow.pcap", "pcap", "Download its flow as pcap"), " ",
      link("flow.pcapng", "pcapng", "Download its flow as pcapng")),
  ];
}

/** Close the packet. */
export function close() {
  change({ key: "", bytes: "" });
}
