/** Builds elements without parsing markup, so that the content of evidence stays text. */

/**
 * Make an element.
 *
 * Strings among the children become text nodes. Properties that begin with "on" are event listeners, all others are
 * attributes; an attribute that is false, null or undefined is left out.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Make an SVG element with these attributes. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Return the element of the page with this id. */
export const $ = (id) => document.getElementById(id);

/** Announce an event to screen readers. */
export function announce(text) {
  $("announce").textContent = text;
}
