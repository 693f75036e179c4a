"use strict";
// Headers of tables of class "sort" become buttons; cells may say by data-value what they are sorted by.
const valueOf = (row, column) => {
  const cell = row.cells[column], text = cell.dataset.value ?? cell.textContent.trim();
  const number = Number(text);
  return text === "" ? null : Number.isNaN(number) ? text : number;
};
const inOrder = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
const sort = (table, header) => {
  const first = header.classList.contains("number") ? "descending" : "ascending";
  const other = first === "ascending" ? "descending" : "ascending";
  const direction = header.getAttribute("aria-sort") === first ? other : first;
  table.querySelectorAll("th[aria-sort]").forEach((item) => item.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", direction);
  const body = table.tBodies[0], column = header.cellIndex, sign = direction === "ascending" ? 1 : -1;
  const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
  // rows without a value stay last in both directions
  rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * inOrder(a, b)));
  body.append(...rows.map(([, row]) => row));
};
for (const table of document.querySelectorAll("table.sort")) {
  for (const header of table.tHead.rows[0].cells) {
    if (header.classList.contains("plot")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sort(table, header));
  }
}
