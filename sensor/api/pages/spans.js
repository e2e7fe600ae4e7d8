/** Which bytes belong to what. Spans are {start, end}, half open, in bytes of the frame. */

import { CLASSES } from "./format.js";

/** Layers, their fields, and the matches of a packet (what says most first) as spans; each knows where it stands. */
export function spansOf(packet) {
  const layers = packet.layers.map((layer, at) => ({ ...layer, path: `${at}` }));
  const fields = layers.flatMap((layer) => layer.fields.map((field, at) => ({ ...field, path: `${layer.path}.${at}` })));
  const rank = ({ class: name }) => CLASSES.indexOf(name);
  const ranked = packet.matches.toSorted((one, other) => rank(one) - rank(other));
  const matches = ranked.map((match, at) => ({
    ...match,
    path: `m${at}`,
    start: packet.payload_start + match.start,
    end: packet.payload_start + match.end,
  }));
  return { layers, fields, matches };
}

/** The narrowest layer or field that holds this byte, or undefined. */
export function narrowest({ layers, fields }, byte) {
  const holding = [...fields, ...layers].filter(({ start, end }) => start <= byte && byte < end);
  return holding.sort((one, other) => one.end - one.start - (other.end - other.start))[0];
}

/** Cut 0..length at the edges of all spans and at each multiple of `width`: pieces no span crosses, by row. */
export function cutAtEdges({ layers, fields, matches }, length, width) {
  const edges = new Set([0, length]);
  for (const { start, end } of [...layers, ...fields, ...matches]) edges.add(start).add(end);
  for (let at = width; at < length; at += width) edges.add(at);
  const sorted = [...edges].filter((edge) => edge >= 0 && edge <= length).sort((one, other) => one - other);
  return sorted.slice(1).map((end, at) => ({ start: sorted[at], end }));
}

/** Whether `span` holds all of `piece`. */
export const holds = (span, piece) => span.start <= piece.start && piece.end <= span.end;
