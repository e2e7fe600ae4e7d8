/** Holds: evidence that is kept until it is released. The badge at the top, and the dialog behind it. */

import { change, getJson } from "./client.js";
import { askForRights } from "./dialogs.js";
import { $, announce, h } from "./dom.js";
import { plural } from "./format.js";
import { query } from "./view.js";

const RIGHTS = "Holding and releasing evidence requires a token with the role admin.";

let latest = { holds: [], may_change: false };

/** Listen for clicks on the buttons that open the dialog. */
export function start() {
  $("open-holds").addEventListener("click", open);
  $("hold-search").addEventListener("click", open);
}

/** Fetch the holds in force, and show how many there are. Throws Problem. */
export async function load() {
  latest = await getJson("holds");
  $("open-holds").textContent = latest.holds.length ? plural(latest.holds.length, "hold") : "Holds";
  $("open-holds").classList.toggle("set", latest.holds.length > 0);
  $("hold-search").hidden = !latest.may_change;
}

async function open() {
  $("holds").replaceChildren(h("h2", { id: "holds-title" }, "Holds"), h("p", { class: "quiet" }, "Loading…"));
  $("holds").showModal();
  await attempt(load);
}

/** Run an action, then show the dialog as it is now, with the problem if there was one. */
async function attempt(action) {
  let problem = null;
  try {
    announce((await action()) ?? "");
  } catch (error) {
    problem = error;
  }
  const refusal = problem && h("p", { class: "wrong", role: "alert" }, `${problem.title ?? "The page failed"}. ${problem.detail ?? problem}`);
  $("holds").replaceChildren(h("h2", { id: "holds-title" }, "Holds"), refusal ?? "",
    h("p", {}, "Evidence that is held is deleted by no limit until it is released."),
    latest.may_change ? holdForm() : rights(), list(),
    h("form", { method: "dialog" }, h("button", {}, "Close")));
}

function rights() {
  const ask = async () => {
    await askForRights(RIGHTS);
    await attempt(load);
  };
  return h("p", { class: "actions" }, RIGHTS, " ", h("button", { type: "button", onclick: ask }, "Use a token"));
}

/** Return the form that holds the evidence of the current search. */
function holdForm() {
  const filters = query();
  const words = Object.entries(filters).filter(([, value]) => value !== "" && value !== undefined && value !== null)
    .map(([name, value]) => `${name}=${value}`).join(", ");
  return form("Hold", "Hold this search", async (reason) => {
    const { devices, deleted } = await change("POST", "holds", { ...filters, reason });
    await load();
    const files = devices.reduce((sum, device) => sum + device.files, 0);
    return `${plural(files, "file")} held${deleted.length ? `; ${deleted.length} were deleted before` : ""}`;
  }, h("p", { class: "quiet" }, `The files with this evidence are kept whole: ${words || "all evidence"}.`));
}

function list() {
  if (!latest.holds.length) return h("p", { class: "quiet" }, "Nothing is held.");
  return h("ul", { class: "holds" }, latest.holds.map((hold) => h("li", {},
    h("p", {}, h("strong", {}, hold.reason), " ", h("span", { class: "quiet" },
      `${hold.hold} · by ${hold.by} · ${hold.time} · ${hold.devices.map((one) => `device ${one.devid}: ${plural(one.files, "file")}`).join(", ")}`)),
    h("p", { class: "quiet" }, hold.query || "all evidence"),
    latest.may_change ? form("Release", `Release ${hold.hold}`, async (reason) => {
      await change("DELETE", `holds/${encodeURIComponent(hold.hold)}`, { reason });
      await load();
      return `${hold.hold} released`;
    }) : null)));
}

/** Return a form with a reason that runs `action(reason)`. */
function form(text, label, action, ...content) {
  const input = h("input", { name: "reason", required: "", maxlength: 500, autocomplete: "off", placeholder: "case 17" });
  return h("form", {
    "aria-label": label,
    onsubmit: (event) => {
      event.preventDefault();
      event.currentTarget.querySelector("button").disabled = true;
      attempt(() => action(input.value));
    },
  }, ...content, h("div", { class: "actions" }, h("label", {}, "Reason ", input), h("button", { type: "submit" }, text)));
}
