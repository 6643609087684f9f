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
