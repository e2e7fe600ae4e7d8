/** Keys in a table whose rows are one stop of the tab key (WAI-ARIA practices: grid). */

const PAGE_ROWS = 15;

/** Return the row that a key leads to from another one, or undefined for other keys. */
export function reached(key, row) {
  const all = [...row.parentElement.children];
  const at = all.indexOf(row);
  const moves = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + PAGE_ROWS, PageUp: at - PAGE_ROWS, Home: 0, End: all.length - 1 };
  return key in moves ? all[Math.min(all.length - 1, Math.max(0, moves[key]))] : undefined;
}

/** Return true if a key from this row asks for what comes after the last one. */
export function leadsBeyond(key, row) {
  const to = reached(key, row);
  return (key === "ArrowDown" && to === row) || (key === "PageDown" && to === row.parentElement.lastElementChild);
}

/** Make this row the only one that the tab key reaches. */
export function reachOnly(table, row) {
  for (const other of table.querySelectorAll("tr[tabindex='0']")) other.tabIndex = -1;
  if (row) row.tabIndex = 0;
}
