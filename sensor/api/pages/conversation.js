/** The conversation around a match: its packets in order, and request and response side by side. */

import { getJson } from "./client.js";
import { h } from "./dom.js";
import { dateAndTime, duration, foremost, number, plural } from "./format.js";
import { marked } from "./octets.js";
import { closeButton, fileLink, side } from "./panel.js";
import { reachOnly, reached } from "./rows.js";

const ENDED = { open: "still open", fin: "closed by FIN", rst: "reset", silence: "silent", limit: "cut off at a limit",
  interrupted: "interrupted" };

/** Fetch a conversation by the number and device of an item. Throws Problem. */
export async function fetchConversation({ conversation, devid }, signal) {
  const path = `conversations/${conversation}`;
  const [about, { packets, cut }, transcript] = await Promise.all(["", "/packets", "/transcript"].map(
    (part) => getJson(path + part, { devid }, signal)));
  return { about, packets, packetsAreCut: cut, transcript };
}

/**
 * Show a conversation: [header, body]. `onOpen(key)` is called for a packet whose bytes are asked for, `onReload()` for
 * more packets of one that is still open. The body has `select(key)`, which marks a packet and its text, and `reach()`,
 * which focuses the marked packet.
 */
export function conversationView({ about, packets, packetsAreCut, transcript }, onOpen, onReload) {
  const passages = new Map(transcript.passages.map((passage) => [passage.key, passageView(passage, onOpen)]));
  const texts = h("div", { class: "texts", tabindex: 0, role: "group", "aria-label": "Request and response" },
    passages.size ? exchanges(transcript.passages, passages) : h("p", { class: "quiet" }, "No packet has payload."),
    transcript.cut ? h("p", { class: "quiet" }, "The text is cut here. Download the conversation for the rest.") : null);
  const rows = new Map(packets.map((packet) => [packet.key, packetRow(packet)]));
  const talk = h("div", { class: "talk-packets" }, packetTable(rows),
    packetsAreCut ? h("p", { class: "quiet" }, `The first ${plural(packets.length, "packet")}. Download the conversation for the rest.`) : null);
  const body = h("div", { class: "views conversation" }, talk, texts);

  body.select = (key) => {
    for (const [name, row] of rows) row.setAttribute("aria-selected", String(name === key));
    for (const [name, passage] of passages) passage.classList.toggle("chosen", name === key);
    reachOnly(talk, rows.get(key) ?? rows.values().next().value);
    const row = rows.get(key);
    if (row) reveal(talk, row);
    if (passages.has(key)) reveal(texts, passages.get(key));
  };
  body.reach = () => talk.querySelector("tr[tabindex='0']")?.focus({ preventScroll: true });
  talk.addEventListener("click", (event) => {
    const row = event.target.closest("tbody tr");
    if (row && getSelection().isCollapsed) onOpen(row.dataset.key);
  });
  talk.addEventListener("keydown", (event) => {
    const row = event.target.closest("tbody tr");
    if (!row || event.ctrlKey || event.metaKey || event.altKey) return;
    const to = reached(event.key, row);
    if (to) {
      body.select(to.dataset.key);
      body.reach();
    } else if (event.key === "Enter" || event.key === " ") onOpen(row.dataset.key);
    else return;
    event.preventDefault();
  });
  return [head(about, onReload), body];
}

function head(about, onReload) {
  const [date, time] = dateAndTime(about.first_us);
  const name = `conversations/${about.conversation}/export`;
  const link = (format) => fileLink(name, { devid: about.devid, format }, format, `Download the conversation as ${format}`);
  const facts = [`${duration(about.last_us - about.first_us)} long`, about.vlan.length && `VLAN ${about.vlan.join(" in ")}`, `device ${about.devid}`,
    about.community_id && `Community ID ${about.community_id}`,
    about.lost && `${plural(about.lost, "frame")} of any flow lost meanwhile`].filter(Boolean);
  return h("header", {},
    h("h2", {}, "Conversation ", h("span", { class: "data" }, `${date} ${time}`), " ",
      h("span", { class: "data talk" }, about.protocol, " ", side(about.sip, about.sport), " → ", side(about.dip, about.dport))),
    h("p", { class: "where state" }, h("strong", {}, completeness(about)), ` · ${totals(about)}`),
    h("p", { class: "where" }, facts.join(" · ")),
    h("p", { class: "where rules" }, about.matches.map((match) => h("span", { class: match.class },
      h("span", { class: "mark", "aria-hidden": "true" }), ` ${match.class} ${match.rule} ${match.name} `))),
    h("div", { class: "actions" },
      about.ended === "open" ? h("button", { type: "button", onclick: onReload }, "Load again") : null,
      h("span", {}, "conversation: ", link("pcap"), " ", link("pcapng")),
      closeButton("Close the conversation")));
}

function completeness({ complete, ended, why_incomplete: reasons }) {
  if (complete) return `Complete, ${ENDED[ended]}`;
  const end = ended === "fin" || ended === "rst" ? `${ENDED[ended]}; ` : ""; // other ends are among the reasons
  const words = `${complete === false ? "incomplete: " : ""}${end}${complete === null ? "completeness " : ""}${reasons.join("; ")}`;
  return words[0].toUpperCase() + words.slice(1);
}

const totals = (about) => `to the server ${plural(about.packets_to_server, "packet")}, ${number(about.bytes_to_server)} bytes; ` +
  `to the client ${plural(about.packets_to_client, "packet")}, ${number(about.bytes_to_client)} bytes`;

function packetTable(rows) {
  const heads = [["time", "Time (UTC)"], ["after", "After"], ["direction", "To"], ["length", "Payload"], ["role", "Role"]];
  return h("table", { role: "grid", "aria-label": "Packets of the conversation, in order" },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads.map(([name, text]) =>
      h("th", { role: "columnheader", scope: "col", class: name }, text)))),
    h("tbody", { role: "rowgroup" }, [...rows.values()]));
}

function packetRow(packet) {
  const [, time] = dateAndTime(packet.time_us);
  const names = packet.matches.map((match) => `${match.class} ${match.rule} ${match.name}`).join("; ");
  const cell = (name, ...content) => h("td", { role: "gridcell", class: name }, ...content);
  const row = h("tr", { role: "row", tabindex: -1, class: `${foremost(packet.matches)} ${packet.direction}`, "aria-selected": "false" },
    cell("time", time), cell("after", packet.after_us ? `+${duration(packet.after_us)}` : ""),
    cell("direction", packet.direction === "to_server" ? "→ server" : "← client"),
    cell("length", packet.payload_bytes ? number(packet.payload_bytes) : ""),
    cell("role", packet.matches.length ? h("span", { class: "mark", "aria-hidden": "true" }) : null, names || packet.role));
  row.dataset.key = packet.key;
  return row;
}

/** Group passages: what the client sent, and beside it what the server answered. */
function exchanges(passages, elements) {
  const groups = [];
  for (const passage of passages) {
    const last = groups.at(-1);
    const isRequest = passage.direction === "to_server";
    if (!last || (isRequest && last.to_client.length)) groups.push({ to_server: [], to_client: [] });
    groups.at(-1)[passage.direction].push(elements.get(passage.key));
  }
  return groups.map((group) => h("div", { class: "exchange" },
    h("div", { class: "request" }, group.to_server), h("div", { class: "response" }, group.to_client)));
}

function passageView({ key, time_us, direction, role, payload_bytes, parts, cut, matches }, onOpen) {
  const [, time] = dateAndTime(time_us);
  const content = parts === null ? h("p", { class: "quiet" }, "The file of this packet is gone.")
    : h("pre", {}, parts.map((part) => marked(part.text, part.matches.map((at) => matches[at]))));
  const title = `${direction === "to_server" ? "Client" : "Server"}, ${time}, ${plural(payload_bytes, "byte")}${role === "hit" ? "" : `, ${role}`}`;
  return h("div", { class: "passage" },
    // The table of packets leads to the bytes too, with one stop of the tab key for all.
    h("button", { type: "button", class: "pivot", tabindex: -1, title: "Show the bytes", onclick: () => onOpen(key) }, title),
    content, cut ? h("p", { class: "quiet" }, "…") : null);
}

/** Scroll a container to an element in it, if it is not seen. */
function reveal(container, element) {
  const top = element.offsetTop;
  const isSeen = top >= container.scrollTop && top + Math.min(element.offsetHeight, 60) <= container.scrollTop + container.clientHeight;
  if (!isSeen) container.scrollTop = top - container.clientHeight / 4;
}
