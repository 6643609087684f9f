// While a frame is pressed (or Space is held on it), the raw frame replaces it: flicker makes
// differences visible. This is the only use of scripts.
document.documentElement.classList.add("scripted");
for (const image of document.querySelectorAll(".frames img:not([data-raw])")) {
  const own = image.src;
  const raw = image.closest(".frames").querySelector("[data-raw]").src;
  const show = (source) => (event) => {
    if (event.type.startsWith("key") && event.key !== " ") return;
    event.preventDefault();
    image.src = source;
    image.classList.toggle("shows-raw", source === raw);
  };
  image.draggable = false;
  for (const type of ["pointerdown", "keydown"]) image.addEventListener(type, show(raw));
  for (const type of ["pointerup", "pointerleave", "pointercancel", "keyup", "blur"]) image.addEventListener(type, show(own));
  image.addEventListener("contextmenu", (event) => event.preventDefault());
}
