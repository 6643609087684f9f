document.documentElement.classList.add("scripted");

// Examples: a slider between the raw frame and a selected one. While a frame is pressed (or Space
// is held on it), the raw frame replaces it: flicker makes differences visible.
for (const frames of document.querySelectorAll(".frames")) {
  const stage = frames.querySelector(".stage");
  const raw = stage.querySelector("img");
  const slider = frames.querySelector("input");
  const others = frames.querySelectorAll("figure:not(.raw) > img");
  const overlay = raw.cloneNode();
  overlay.classList.add("overlay");
  stage.append(overlay);

  const select = (image) => {
    overlay.src = image.dataset.own;
    overlay.alt = image.alt;
    frames.querySelector(".chosen").textContent = image.nextElementSibling.textContent;
    for (const other of others) other.classList.toggle("selected", other === image);
  };
  const move = () => stage.style.setProperty("--at", `${slider.value}%`);
  slider.addEventListener("input", move);
  const follow = (event) => {
    if (!event.buttons) return;
    const box = stage.getBoundingClientRect();
    slider.value = (100 * (event.clientX - box.left)) / box.width;
    move();
  };
  for (const type of ["pointerdown", "pointermove"]) stage.addEventListener(type, follow);
  for (const box of frames.querySelectorAll("[data-view]")) {
    box.addEventListener("change", () => {
      const viewport = stage.parentElement;
      viewport.style.height = `${viewport.clientHeight}px`; // a larger frame scrolls in it
      stage.classList.toggle(box.dataset.view, box.checked);
      if (!stage.classList.contains("zoomed")) viewport.style.height = "";
    });
  }
  raw.draggable = overlay.draggable = false;
  move();

  for (const image of others) {
    image.dataset.own = image.src;
    const show = (source) => (event) => {
      if (event.type.startsWith("key") && event.key !== " ") return;
      event.preventDefault();
      image.src = source;
      image.classList.toggle("shows-raw", source === raw.src);
    };
    image.draggable = false;
    for (const type of ["pointerdown", "focus"]) image.addEventListener(type, () => select(image));
    for (const type of ["pointerdown", "keydown"]) image.addEventListener(type, show(raw.src));
    for (const type of ["pointerup", "pointerleave", "pointercancel", "keyup", "blur"]) image.addEventListener(type, show(image.src));
    image.addEventListener("contextmenu", (event) => event.preventDefault());
  }
  if (others.length) select(others[0]);
  else slider.remove();
}

// Tables: a header sorts by its column; rows without a value stay last.
const valueOf = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = table.querySelectorAll("th[aria-sort]");
  for (const header of headers) {
    const button = document.createElement("button");
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const column = header.cellIndex;
      const isText = table.tBodies[0].rows[0].cells[column].dataset.value === undefined;
      const before = header.getAttribute("aria-sort");
      const isAscending = before === "descending" || (before === "none" && isText);
      const compare = (a, b) => (isText ? a.localeCompare(b, "en", { numeric: true }) : a - b);
      const rows = [...table.tBodies[0].rows].sort((first, second) => {
        const [a, b] = [valueOf(first, column), valueOf(second, column)];
        if (!a || !b) return !a - !b;
        return isAscending ? compare(a, b) : compare(b, a);
      });
      table.tBodies[0].append(...rows);
      for (const other of headers) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", isAscending ? "ascending" : "descending");
    });
  }
}

// Exports: tables as CSV and LaTeX, plots as SVG.
const save = (name, type, text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
const textOf = (cell) => {
  const small = cell.querySelector("small");
  const whole = cell.textContent.trim();
  if (!small) return whole;
  const inner = small.textContent;
  return `${whole.slice(0, whole.length - inner.length).trim()} (${inner.trim()})`;
};
const rowsOf = (table) => {
  let group = "";
  const skipped = table.querySelector("td img") ? 1 : 0; // the column of pictures
  return [...table.rows].map((row) => {
    const texts = [...row.cells].slice(skipped).map(textOf);
    // A cell over several rows belongs to each of them.
    const first = row.querySelector("[rowspan]");
    if (first) group = textOf(first);
    else if (row.closest("tbody")?.querySelector("[rowspan]")) texts.unshift(group);
    return texts;
  });
};
const toCsv = (rows) =>
  rows.map((row) => row.map((text) => {
    const plain = text.replaceAll("\u2212", "-").replace(/[\u2009\u00a0]/g, " ");
    return /[",\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
  }).join(",")).join("\n") + "\n";
const LATEX = {
  "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
  "\u2212": "$-$", "\u2013": "--", "\u00b1": "$\\pm$", "\u0394": "$\\Delta$", ">": "$>$", "|": "$|$",
  "\u00a0": "~", "\u2009": "\\,", "\u2011": "-", "\u2019": "'",
};
const escapeLatex = (text) =>
  text.replace(/[\\~^\u2212\u2013\u00b1\u0394>|\u00a0\u2009\u2011\u2019]|[&%$#_{}]/g, (one) => LATEX[one] ?? `\\${one}`);
const toLatex = ([header, ...rows]) => {
  const line = (row) => `${row.map(escapeLatex).join(" & ")} \\\\`;
  return [
    "% Needs \\usepackage{booktabs}.",
    `\\begin{tabular}{l${"r".repeat(header.length - 1)}}`,
    "\\toprule", line(header), "\\midrule", ...rows.map(line), "\\bottomrule",
    "\\end{tabular}", "",
  ].join("\n");
};
const toSvg = (plot) => {
  const copy = plot.cloneNode(true);
  const [, , width, height] = plot.getAttribute("viewBox").split(" ");
  const style = getComputedStyle(document.documentElement);
  const variables = ["ink", "muted", "rule", "paper", "model", "constant", "ridge", "trees", "other"];
  const values = variables.map((name) => `--${name}: ${style.getPropertyValue(`--${name}`)};`);
  const sheet = document.createElementNS(plot.namespaceURI, "style");
  sheet.textContent = `svg { ${values.join(" ")} background: var(--paper); font-family: sans-serif; }`;
  copy.prepend(sheet);
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  return new XMLSerializer().serializeToString(copy);
};
const addButtons = (place, formats) => {
  const line = document.createElement("div");
  line.className = "exports";
  for (const [label, write] of Object.entries(formats)) {
    const button = document.createElement("button");
    button.textContent = label;
    button.addEventListener("click", write);
    line.append(button);
  }
  place(line);
};
let exported = 0;
for (const part of document.querySelectorAll(".table, figure > svg.plot")) {
  const name = `${part.closest("section").querySelector("h2").id}-${++exported}`;
  const table = part.querySelector("table");
  if (table) {
    const isInGrid = getComputedStyle(part.parentElement).display === "grid";
    addButtons((line) => (isInGrid ? part.append(line) : part.after(line)), {
      CSV: () => save(`${name}.csv`, "text/csv", toCsv(rowsOf(table))),
      LaTeX: () => save(`${name}.tex`, "text/plain", toLatex(rowsOf(table))),
    });
  } else {
    addButtons((line) => part.after(line), { SVG: () => save(`${name}.svg`, "image/svg+xml", toSvg(part)) });
  }
}
