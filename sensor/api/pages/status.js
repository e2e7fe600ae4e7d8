/** The status line at the top of the page, and the notice while the index is rebuilt. */

import { getJson } from "./client.js";
import { $, h } from "./dom.js";
import { bytes, plural, timeText } from "./format.js";
import { showDevices } from "./filters.js";
import { notice } from "./notices.js";

let latest = null;

/** Return the last status, or null. */
export const status = () => latest;

/** Return the times of the oldest and the newest evidence, or null if there is none. */
export function extent() {
  const kept = (latest?.devices ?? []).filter((device) => device.pieces);
  if (!kept.length) return null;
  return {
    oldest_us: Math.min(...kept.map((device) => device.oldest_us)),
    newest_us: Math.max(...kept.map((device) => device.newest_us)),
  };
}

/** Fetch and show the status. Throws Problem. */
export async function load() {
  latest = await getJson("status");
  showDevices(latest.devices.map((device) => device.devid));
  const sum = (name) => latest.devices.reduce((total, device) => total + device[name], 0);
  const { disk, index } = latest;
  const figures = [plural(sum("pieces"), "item"), bytes(sum("bytes")), `disk ${bytes(disk.free_bytes)} free`];
  const newest = extent();
  if (newest) figures.splice(1, 0, `newest ${timeText(newest.newest_us, 1e6)}`);
  $("figures").replaceChildren(...figures.map((figure) => h("span", {}, figure)));
  if (index.state === "ok") return notice("index", null);
  const { done, total } = index;
  return notice("index", "info", `The index is being rebuilt: ${bytes(done)} of ${bytes(total)}. `,
    h("progress", { value: done, max: Math.max(total, 1), "aria-label": "Index" }), " Evidence that is not indexed yet is not found.");
}
