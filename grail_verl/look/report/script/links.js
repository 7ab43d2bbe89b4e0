// Links to a response, #step-12-row-3 or #step-12-rank-1-row-3, and to steps, #step-12 or #step-12-to-20, which figures
// have on each of their points.

function clear() {
  for (const name of ["outcome", "find", "arrange", ...Object.keys(VALUES).flatMap((each) => [`${each}-from`, `${each}-to`])]) {
    field(name).value = field(name).tagName === "SELECT" ? field(name).options[0].value : "";
  }
}

function goTo(target) {
  target.scrollIntoView({ block: "start" });
  target.focus({ preventScroll: true });
}

function follow() {
  const link = /^#step-(-?\d+)(?:-to-(-?\d+))?(?:-rank-(\d+))?(?:-row-(\d+))?$/.exec(location.hash);
  if (!link) return;
  const [, first, last, rank, row] = link;
  clear();
  [field("step-from").value, field("step-to").value] = [first, last ?? first];
  choose();
  const title = document.getElementById("responses-title");
  if (row === undefined) {
    const count = columns.reduce((sum, column) => sum + column.chosen.length, 0);
    said.value = `${count.toLocaleString("en")} response${count === 1 ? "" : "s"} of step ${first}${last ? ` to ${last}` : ""}.`;
    return goTo(title);
  }
  const wanted = (response) => response.row === Number(row) && (rank === undefined || response.rank === Number(rank));
  const column = columns.find((each) => each.chosen.some(wanted));
  if (!column) {
    said.value = `Step ${first}, row ${row} is not among the responses of this page.`;
    return goTo(title);
  }
  const place = column.chosen.findIndex(wanted);
  while (column.shown <= place) extend(column);
  goTo(column.cards.children[place].querySelector("h4"));
}

addEventListener("hashchange", follow);
document.addEventListener("click", ({ target }) => {
  const link = target.closest?.("a[href^='#step-']");
  if (link && link.getAttribute("href") === location.hash) follow(); // no change of it tells
});
