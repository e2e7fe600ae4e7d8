/** Formats values for display. Times are microseconds since the epoch, shown in UTC. */

/** Rule classes, most important first. */
export const CLASSES = ["threat", "midware", "device", "os", "service"];

/** The remark on an incomplete item. */
export const CUT = "the search was cut for its cost, so more rules may match";

const count = new Intl.NumberFormat("en");

/** 1234567 -> "1,234,567". */
export const number = (value) => count.format(value);

/** A quantity and its noun: "1 item", "2 items". */
export const plural = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;

/** Bytes in binary units: "3.2 GiB". */
export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${at && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[at]}`;
}

/** Date and time of day in UTC: ["2026-01-05", "09:59:57.027374"]. */
export function dateAndTime(time_us) {
  const milliseconds = Math.floor(time_us / 1000);
  const [date, time] = new Date(milliseconds).toISOString().slice(0, -1).split("T");
  return [date, time + String(time_us - milliseconds * 1000).padStart(3, "0")];
}

/** A time with the precision that steps of `step_us` need. */
export function timeText(time_us, step_us = 1) {
  const [date, time] = dateAndTime(time_us);
  if (step_us >= 86_400e6) return date;
  if (step_us >= 60e6) return `${date} ${time.slice(0, 5)}`;
  if (step_us >= 1e6) return `${date} ${time.slice(0, 8)}`;
  return `${date} ${time.slice(0, step_us >= 1000 ? 12 : 15)}`;
}

/** A duration: "250 µs", "4.2 s", "3 h", "12 d". */
export function duration(length_us) {
  const units = [[86_400e6, "d"], [3_600e6, "h"], [60e6, "min"], [1e6, "s"], [1e3, "ms"], [1, "µs"]];
  const [size, name] = units.find(([size]) => length_us >= size * 0.995) ?? units.at(-1);
  const value = length_us / size;
  return `${value < 10 ? Number(value.toFixed(1)) : Math.round(value)} ${name}`;
}

/** An address with its port, written as in RFC 5952 and RFC 3986. */
export function endpoint(address, port) {
  if (!port) return address;
  return address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
}

/** Version, vendor and operating system that a match found; the type of its rule if it found none of them. */
export function found(match) {
  return [match.version, match.vendor, match.os].filter(Boolean).join(", ") || match.type;
}

/** The most important class among these matches. */
export function foremost(matches) {
  return CLASSES.find((name) => matches.some((match) => match.class === name)) ?? "none";
}
