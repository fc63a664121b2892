// The spread of a figure, "0.13 (0.12–0.18)", breaks before its bracket and not within.
function keepSpreadsWhole() {
  for (const cell of document.querySelectorAll('.md-typeset td[style*="right"]')) {
    const found = cell.textContent.match(/^(\S+) (\(\S+\))$/);
    if (!found || cell.children.length) continue;
    const spread = document.createElement("span");
    spread.className = "spread";
    spread.textContent = found[2];
    cell.replaceChildren(`${found[1]} `, spread);
  }
}

// On narrow screens a table of sentences becomes a list of cards, one per row, with the headings as labels.
// Tables of figures (right-aligned columns) stay tables: they scroll, and their first column stays in sight.
const narrow = window.matchMedia("(max-width: 44.99em)");

function isProse(table) {
  return table.tHead && !table.querySelector('td[style*="right"], td[style*="center"]');
}

function label(table) {
  const headings = Array.from(table.tHead.rows[0].cells, (cell) => cell.textContent.trim());
  for (const row of table.tBodies[0].rows) {
    Array.from(row.cells).forEach((cell, column) => {
      if (column > 0 && headings[column]) cell.dataset.label = headings[column];
    });
  }
}

function fold() {
  for (const table of document.querySelectorAll(".md-typeset table")) {
    delete table.dataset.fold;
    if (!narrow.matches || !isProse(table)) continue;
    const frame = table.closest(".md-typeset__scrollwrap") || table.parentElement;
    if (table.tHead.rows[0].cells.length > 2 || table.scrollWidth > frame.clientWidth) {
      label(table);
      table.dataset.fold = "";
    }
  }
}

keepSpreadsWhole();
window.addEventListener("load", fold);
narrow.addEventListener("change", fold);
