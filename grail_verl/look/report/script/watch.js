// While a run goes on the command writes this page anew: it is loaded again, and looks as its reader left it.

const EVERY = 30_000; // milliseconds
const KEPT = `grail-verl report ${location.pathname}`; // files share one storage
const reload = document.getElementById("reload");

function keep() {
  const fields = [...form.elements].filter(({ name, type }) => name && type !== "fieldset").map(({ name, value }) => [name, value]);
  sessionStorage.setItem(KEPT, JSON.stringify({ fields, reload: reload.checked, at: [scrollX, scrollY] }));
}

function restored() {
  const kept = watched && JSON.parse(sessionStorage.getItem(KEPT));
  if (!kept) return null;
  for (const [name, value] of kept.fields) if (field(name)) field(name).value = value;
  reload.checked = kept.reload;
  return kept;
}

const kept = restored();
choose();
recolour();
if (kept) scrollTo(...kept.at);
else follow();
if (watched) {
  addEventListener("pagehide", keep);
  // Not while somebody walks along a response.
  setInterval(() => { if (reload.checked && !tokenAt(document.activeElement)) location.reload(); }, EVERY);
}
