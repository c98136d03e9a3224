// Sortable tables, and names for what has none. No library, no request; without it every page still reads.
"use strict";

function value(cell) {
  const text = cell.textContent.trim();
  const number = Number.parseFloat(text.replace(/,/g, ""));
  return Number.isNaN(number) ? text.toLowerCase() : number;
}

function before(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a === "number") return -1; // numbers before words and dashes
  if (typeof b === "number") return 1;
  return a.localeCompare(b);
}

function sort(table, column, heading) {
  const upwards = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", upwards ? "ascending" : "descending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [value(row.cells[column]), row]);
  rows.sort(([a], [b]) => (upwards ? before(a, b) : before(b, a)));
  body.append(...rows.map(([, row]) => row));
}

function makeSortable(table) {
  if (!table.tHead || !table.tBodies.length) return;
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort-by";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(table, column, heading));
    heading.append(button);
  });
}

// A table that scrolls sideways must be reachable with the keyboard.
function makeReachable(box) {
  if (box.scrollWidth <= box.clientWidth) return;
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "Table, scrolls sideways");
}

// The theme's arrows that open a part of the contents have no name of their own.
function nameArrow(summary) {
  const page = summary.closest("li")?.querySelector("a")?.textContent.trim();
  summary.setAttribute("aria-label", `Pages below ${page}`);
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".toctree-toggle").forEach((arrow) => nameArrow(arrow.closest("summary") ?? arrow));
  // A bibliography is marked as a list whose entries are none.
  document.querySelectorAll(".citation-list").forEach((list) => list.removeAttribute("role"));
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  document.querySelectorAll(".pst-scrollable-table-container").forEach(makeReachable);
});
