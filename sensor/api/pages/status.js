/** What is kept, and whether the index is whole: the line at the top and its notice. */

import { getJson } from "./client.js";
import { $, h } from "./dom.js";
import { bytes, plural, timeText } from "./format.js";
import { showDevices } from "./filters.js";
import { notice } from "./notices.js";

let latest = null;

/** The last status, or null. */
export const status = () => latest;

/** The time of the oldest and the newest evidence, or null where there is none. */
export function extent() {
  const kept = (latest?.devices ?? []).filter((device) => device.pieces);
  if (!kept.length) return null;
  return {
    oldest_us: Math.min(...kept.map((device) => device.oldest_us)),
    newest_us: Math.max(...kept.map((device) => device.newest_us)),
  };
}

/** Fetch and show. Throws Problem. */
export async function load() {
  latest = await getJson("status");
  showDevices(latest.devices.map((device) => device.devid));
  const sum = (name) => latest.devices.reduce((total, device) => total + device[name], 0);
  const { disk, index } = latest;
  const figures = [plural(sum("pieces"), "piece"), bytes(sum("bytes")), `disk ${bytes(disk.free_bytes)} free`];
  const newest = extent();
  if (newest) figures.splice(1, 0, `newest ${timeText(newest.newest_us, 1e6)}`);
  $("figures").replaceChildren(...figures.map((figure) => h("span", {}, figure)));
  if (index.state === "ok") return notice("index", null);
  const { done, total } = index;
  return notice("index", "info", `The index is being rebuilt: ${bytes(done)} of ${bytes(total)}. `,
    h("progress", { value: done, max: Math.max(total, 1), "aria-label": "Index" }), " What is not in it yet is not found.");
}
