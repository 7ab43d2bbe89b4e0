// The note on a token: under the pointer, or else at the focus; the keys that walk along tokens and steps.

const note = document.getElementById("note");
let noted = null;

function show(target) {
  hide();
  noted = target;
  note.textContent = description(target.parentElement.response, Number(target.dataset.place));
  note.hidden = false;
  target.setAttribute("aria-describedby", "note");
  settle();
}

function hide() {
  if (noted) noted.removeAttribute("aria-describedby");
  noted = null;
  note.hidden = true;
}

// Below the token's first line, above it where there is no room.
function settle() {
  if (!noted) return;
  const line = noted.getClientRects()[0];
  const below = line.bottom + 4;
  note.style.left = `${Math.max(8, Math.min(line.left, innerWidth - note.offsetWidth - 8))}px`;
  note.style.top = `${below + note.offsetHeight < innerHeight ? below : Math.max(8, line.top - note.offsetHeight - 4)}px`;
}

const tokenAt = (target) => target.closest?.(".tokens .token");
const ITEMS = ".tokens .token, .steps a"; // of each group one is reached by Tab, the others by arrow keys

document.addEventListener("pointerover", ({ target }) => {
  if (note.contains(target)) return;
  const under = tokenAt(target), focused = tokenAt(document.activeElement);
  if (under) show(under);
  else if (focused && noted && noted !== focused) show(focused);
  else if (!focused) hide();
});
document.addEventListener("focusin", ({ target }) => {
  const item = target.closest?.(ITEMS);
  if (item) {
    for (const other of item.parentElement.querySelectorAll('[tabindex="0"]')) other.setAttribute("tabindex", -1);
    item.setAttribute("tabindex", 0);
  }
  if (tokenAt(target)) show(target);
  else hide();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") return hide();
  const item = event.target.closest?.(ITEMS);
  if (!item || event.ctrlKey || event.altKey || event.metaKey) return;
  const all = [...item.parentElement.querySelectorAll(".token, a")], place = all.indexOf(item);
  const next = { ArrowRight: all[place + 1], ArrowLeft: all[place - 1], Home: all[0], End: all.at(-1) }[event.key];
  if (!next) return;
  event.preventDefault();
  next.focus();
});
document.addEventListener("scroll", settle, true);
addEventListener("resize", settle);
