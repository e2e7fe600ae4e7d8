/** Spans of bytes: {start, end}, half-open offsets in the frame. */

import { CLASSES } from "./format.js";

/** Return layers, fields and matches (most important first) of a packet as spans; each has its path in the tree. */
export function spansOf(packet) {
  const layers = packet.layers.map((layer, at) => ({ ...layer, path: `${at}` }));
  const fields = layers.flatMap((layer) => layer.fields.map((field, at) => ({ ...field, path: `${layer.path}.${at}` })));
  const rank = ({ class: name }) => CLASSES.indexOf(name);
  const ranked = packet.matches.toSorted((one, other) => rank(one) - rank(other));
  const inFrame = (offset) => (offset === null ? NaN : packet.payload_start + offset); // NaN: no byte is in the span
  const matches = ranked.map((match, at) => ({ ...match, path: `m${at}`, start: inFrame(match.start), end: inFrame(match.end) }));
  return { layers, fields, matches };
}

/** Return the narrowest layer or field that contains this byte, or undefined. */
export function narrowest({ layers, fields }, byte) {
  const holding = [...fields, ...layers].filter(({ start, end }) => start <= byte && byte < end);
  return holding.sort((one, other) => one.end - one.start - (other.end - other.start))[0];
}

/** Cut 0..length at the edges of all spans and at each multiple of `width`; return the resulting spans in order. */
export function cutAtEdges({ layers, fields, matches }, length, width) {
  const edges = new Set([0, length]);
  for (const { start, end } of [...layers, ...fields, ...matches]) edges.add(start).add(end);
  for (let at = width; at < length; at += width) edges.add(at);
  const sorted = [...edges].filter((edge) => edge >= 0 && edge <= length).sort((one, other) => one - other);
  return sorted.slice(1).map((end, at) => ({ start: sorted[at], end }));
}

/** Return true if `span` contains all of `part`. */
export const holds = (span, part) => span.start <= part.start && part.end <= span.end;
