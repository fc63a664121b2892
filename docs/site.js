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

// Paths in tables may break after a slash, long names in headings after a dot or an underscore.
function allowBreaks(selector, where) {
  for (const element of document.querySelectorAll(selector)) {
    for (const text of Array.from(element.childNodes).filter((node) => node.nodeType === Node.TEXT_NODE)) {
      const pieces = text.data.split(where);
      if (pieces.length > 1) text.replaceWith(...pieces.flatMap((piece, at) => (at ? [document.createElement("wbr"), piece] : [piece])));
    }
  }
}

// Which columns of small tables hold words: those with a cell that is longer than a name.
function markWords() {
  for (const table of document.querySelectorAll(".md-typeset table")) {
    const rows = Array.from(table.tBodies[0].rows);
    if (rows[0].cells.length > 4) continue;
    for (let column = 0; column < rows[0].cells.length; column++) {
      const cells = rows.map((row) => row.cells[column]).filter((cell) => cell && !cell.style.textAlign);
      if (cells.some((cell) => cell.textContent.trim().length > 20)) cells.forEach((cell) => (cell.dataset.words = ""));
    }
  }
}

// A drawing in characters keeps its columns.
function markDiagrams() {
  for (const code of document.querySelectorAll(".md-typeset .highlight pre > code")) {
    if (/[─│└▶]/.test(code.textContent)) code.closest(".highlight").classList.add("diagram");
  }
}

// On narrow screens a table that is too wide becomes a list of cards, one per row, with the headings as labels: sentences
// below each other, figures side by side. The three figures of the first page (centred) stay a table.
const narrow = window.matchMedia("(max-width: 44.99em)");
const LONGEST_FIGURE = 26;

function kindOf(table) {
  const cells = Array.from(table.querySelectorAll("td:not(:first-child)"));
  return cells.every((cell) => cell.textContent.trim().length <= LONGEST_FIGURE) ? "figures" : "sentences";
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
    if (!narrow.matches || !table.tHead || table.querySelector('[style*="center"]')) continue;
    const frame = table.closest(".md-typeset__scrollwrap") || table.parentElement;
    const kind = kindOf(table);
    const isTooWide = table.scrollWidth > frame.clientWidth || table.offsetWidth > frame.clientWidth;
    if (isTooWide || (kind === "sentences" && table.tHead.rows[0].cells.length > 2)) {
      label(table);
      table.dataset.fold = kind;
    }
  }
}

keepSpreadsWhole();
allowBreaks(".md-typeset td code", /(?<=\/)/);
allowBreaks(".md-typeset :is(h1, h2, h3, h4)", /(?<=[._])/);
markDiagrams();
markWords();
window.addEventListener("load", fold);
narrow.addEventListener("change", fold);
