/** The evidence page: reacts to changes of the view and updates it with time. */

import { address } from "./client.js";
import * as brush from "./brush.js";
import * as dialogs from "./dialogs.js";
import { $, announce, h } from "./dom.js";
import { download } from "./download.js";
import * as feed from "./feed.js";
import * as filters from "./filters.js";
import { number, plural } from "./format.js";
import * as holds from "./holds.js";
import * as keys from "./keys.js";
import { notice } from "./notices.js";
import * as packet from "./packet.js";
import * as state from "./state.js";
import * as status from "./status.js";
import * as table from "./table.js";
import * as timeline from "./timeline.js";
import * as view from "./view.js";

const FOLLOW_MS = 2000;
const SURVEY_MS = 10_000; // less often: the timeline and the status are expensive

const SEARCH = new Set([...view.FILTERS, "last", "since_us", "until_us"]);

view.onChange((changed) => {
  if ([...changed].some((name) => SEARCH.has(name))) search();
  if (changed.has("key") || changed.has("tab")) showPacket();
  else if (changed.has("bytes")) packet.showBytes();
  if (changed.has("live")) showLive();
});

/** Fetch everything that depends on filters and range. */
async function search() {
  filters.show();
  showLive();
  for (const name of ["pcap", "pcapng"]) $(`export-${name}`).href = address(`export.${name}`, view.query());
  $("results").setAttribute("aria-busy", "true");
  $("shown").textContent = "Searching…";
  $("state").replaceChildren();
  const survey = timeline.load().then(brush.show);
  try {
    await Promise.all([feed.reload(), survey]);
    table.clear();
    showTable();
    announce($("shown").textContent);
  } catch (problem) {
    if (problem.name === "AbortError") return;
    table.clear();
    $("shown").textContent = "";
    $("older").hidden = true;
    $("state").replaceChildren(state.refusal(problem, search));
  }
  $("results").removeAttribute("aria-busy");
}

function showTable() {
  const items = feed.items();
  table.show(items);
  table.mark(view.current().key);
  $("older").hidden = !feed.hasOlder();
  const all = view.current().text ? "" : ` of ${number(timeline.total())}`; // the timeline ignores the text
  $("shown").textContent = items.length ? `${plural(items.length, "item")}${all}, newest first` : "";
  $("state").replaceChildren(...(items.length ? [] : [state.empty()]));
}

async function showPacket() {
  const { key } = view.current();
  table.mark(key);
  const loaded = packet.load(feed.items().find((item) => item.key === key));
  table.reveal(); // the open packet makes the table smaller
  await loaded;
}

function openPacket(key, again) {
  if (again) packet.focus();
  else view.change({ key, bytes: "" }, { replace: view.current().key !== "" });
}

async function readOlder() {
  if ($("older").getAttribute("aria-busy") === "true") return;
  $("older").setAttribute("aria-busy", "true");
  await attempt("older", feed.readOlder);
  $("older").removeAttribute("aria-busy");
  showTable();
}

/** Run an action that may fail without clearing the page; show a notice until it works again. */
async function attempt(name, action) {
  try {
    const result = await action();
    notice(name, null);
    return result;
  } catch (problem) {
    if (problem.name !== "AbortError") notice(name, "error", `${problem.title ?? "The page failed"}. ${problem.detail ?? problem}`);
    return undefined;
  }
}

const isSearching = () => $("results").hasAttribute("aria-busy");
const isFollowing = () => view.current().live !== "off" && !view.isClosed();

function showLive() {
  const closed = view.isClosed();
  $("live").disabled = closed;
  $("live").setAttribute("aria-pressed", String(isFollowing()));
  $("live").textContent = closed ? "Range ended" : isFollowing() ? "Live" : "Paused";
}

async function follow() {
  if (isFollowing() && !document.hidden && !isSearching()) {
    const mayCut = table.isAtTop() && !view.current().key;
    if (await attempt("live", () => feed.readNewer({ mayCut }))) showTable();
  }
  setTimeout(follow, FOLLOW_MS);
}

async function survey() {
  if (!document.hidden) {
    await attempt("status", status.load);
    await attempt("holds", holds.load);
    if (isFollowing() && $("brush").hidden && !isSearching() && await attempt("timeline", timeline.load)) {
      brush.show();
      showTable();
    }
  }
  setTimeout(survey, SURVEY_MS);
}

/** Without a time range in the address, choose the shortest one that covers all evidence, at most a day, or all times. */
function chooseRange() {
  const { last, since_us, until_us } = view.current();
  const extent = status.extent();
  if (last || since_us || until_us || !extent) return;
  const age = Date.now() * 1000 - extent.oldest_us;
  const recent = Date.now() * 1000 - extent.newest_us < view.LASTS["24h"];
  const fitting = Object.keys(view.LASTS).find((name) => view.LASTS[name] >= age && name !== "7d") ?? "24h";
  if (recent) view.changeRange({ last: fitting }, { replace: true });
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(view.link());
    $("copy-link").textContent = "Copied";
    announce("Link copied");
  } catch {
    notice("link", "info", h("span", { class: "data" }, view.link())); // no clipboard without TLS
  }
  setTimeout(() => { $("copy-link").textContent = "Copy link"; }, 1500);
}

dialogs.start();
filters.start();
holds.start();
timeline.start();
brush.start();
table.start(openPacket);
packet.start();
keys.start();
$("live").addEventListener("click", () => view.change({ live: isFollowing() ? "off" : "" }, { replace: true }));
$("copy-link").addEventListener("click", copyLink);
$("older").addEventListener("click", readOlder);
$("export-pcap").addEventListener("click", download);
$("export-pcapng").addEventListener("click", download);
new IntersectionObserver(([entry]) => entry.isIntersecting && readOlder()).observe($("older"));

await attempt("status", status.load);
chooseRange();
await search();
await showPacket();
await attempt("rules", filters.loadRules);
await attempt("holds", holds.load);
setTimeout(follow, FOLLOW_MS);
setTimeout(survey, SURVEY_MS);
