/** Downloads. Files are fetched, not linked, so that the token is sent and an error is shown instead of saved. */

import { get } from "./client.js";
import { announce, h } from "./dom.js";
import { bytes } from "./format.js";
import { notice } from "./notices.js";

/** Handle a click on a link to a file. */
export async function download(event) {
  event.preventDefault();
  const link = event.currentTarget;
  if (link.getAttribute("aria-busy") === "true") return;
  link.setAttribute("aria-busy", "true");
  notice("download", null);
  try {
    const response = await get(link.getAttribute("href"));
    const content = await response.blob();
    save(content, nameOf(response));
    announce(`Downloaded ${bytes(content.size)}`);
  } catch (problem) {
    notice("download", "error", `${problem.title ?? "The download failed"}. ${problem.detail ?? ""}`);
  } finally {
    link.removeAttribute("aria-busy");
  }
}

function nameOf(response) {
  const [, name] = /filename="?([^";]+)/.exec(response.headers.get("Content-Disposition") ?? "") ?? [];
  return name ?? "evidence.pcap";
}

function save(content, name) {
  const url = URL.createObjectURL(content);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // the browser may still be asking where to save it
}
