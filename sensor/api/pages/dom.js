/** Builds elements without parsing markup, so that the content of evidence stays text. */

const UNSEEN = /[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u2800]/gu;

/** Replace characters that show nothing, or change the direction of text, by escapes: "\\u202e". Newlines stay. */
function shown(text) {
  return text.replace(UNSEEN, (one) => (one === "\n" ? one : `\\u${one.codePointAt(0).toString(16).padStart(4, "0")}`));
}

/**
 * Make an element.
 *
 * Strings among the children become text nodes, and are escaped, as titles are. Properties that begin with "on" are event listeners, all others are
 * attributes; an attribute that is false, null or undefined is left out.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, name === "title" ? shown(value) : value);
    }
  }
  const present = children.flat().filter((child) => child !== null && child !== undefined);
  element.append(...present.map((child) => (typeof child === "string" ? shown(child) : child)));
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
