// Which responses are shown and in which order, by the form: correct beside wrong, or siblings together.

const AT_ONCE = 10, TOKENS_AT_ONCE = 5000; // of a list, whichever is met first
const VALUES = { reward: (response) => response.reward, step: (response) => response.step,
  length: (response) => response.tokens.length };
const ORDERS = { ...VALUES, agreement: (response) => response.agreement[0] };
const said = document.getElementById("said");

// --- Lists that grow by a button --------------------------------------------------------------------------------

function list(id, make, responsesOf) {
  const section = document.getElementById(id);
  const made = { id, section, make, responsesOf, cards: section.querySelector(".cards"),
    count: section.querySelector("output"), more: section.querySelector(".more"), chosen: [], shown: 0 };
  made.more.addEventListener("click", () => {
    const first = made.shown;
    extend(made);
    made.cards.children[first].querySelector("[tabindex='-1']").focus();
  });
  return made;
}

const columns = ["correct", "wrong"].map((outcome) => list(outcome, card, (response) => [response]));
const families = list("siblings", family, (group) => group);
const lists = [...columns, families];

function extend(list) {
  const end = Math.min(list.shown + AT_ONCE, list.chosen.length);
  for (let tokens = 0; list.shown < end && tokens < TOKENS_AT_ONCE; list.shown += 1) {
    const item = list.chosen[list.shown];
    list.cards.append(list.make(item));
    tokens += list.responsesOf(item).reduce((sum, response) => sum + response.tokens.length, 0);
  }
  list.more.hidden = list.shown === list.chosen.length;
  list.count.value = `– ${list.shown.toLocaleString("en")} of ${list.chosen.length.toLocaleString("en")}`;
}

// --- What the form asks for -------------------------------------------------------------------------------------

function within(response, name) {
  const value = VALUES[name](response);
  const [from, to] = ["from", "to"].map((end) => field(`${name}-${end}`).value);
  return (from === "" || (value !== null && value >= Number(from))) && (to === "" || (value !== null && value <= Number(to)));
}

const sought = () => field("find").value.toLowerCase();

function holds(response, text) {
  response.lower ??= response.tokens.map((token) => token.toLowerCase());
  return response.lower.join("").includes(text) || prompts[response.prompt].toLowerCase().includes(text);
}

// The places of tokens in which the text that is looked for stands.
function placesOf(response) {
  const text = sought(), found = new Set();
  if (text === "" || !holds(response, text)) return found;
  const whole = response.lower.join("");
  let end = 0, at = whole.indexOf(text);
  response.lower.forEach((token, place) => {
    const start = end;
    end += token.length;
    if (at >= 0 && at + text.length <= start) at = whole.indexOf(text, start - text.length + 1);
    if (at >= 0 && at < end) found.add(place);
  });
  return found;
}

// By the chosen value, unknown ones last.
function compare(one, other) {
  const [first, second] = [one, other].map(ORDERS[field("sort").value]);
  if (first === null || second === null) return (first === null) - (second === null);
  return (first - second) * Number(field("order").value);
}

function choose() {
  hide();
  said.value = "";
  const text = sought(), outcome = field("outcome").value, together = field("arrange").value === "siblings";
  const kept = responses.filter((response) => Object.keys(VALUES).every((name) => within(response, name))
    && (outcome === "" || response.correct === (outcome === "correct")) && (text === "" || holds(response, text)));
  kept.sort(compare);
  for (const column of columns) {
    column.section.hidden = together || (outcome !== "" && outcome !== column.id);
    column.chosen = together ? [] : kept.filter((response) => response.correct === (column.id === "correct"));
  }
  families.section.hidden = !together;
  families.chosen = together ? groupsOf(kept) : [];
  for (const each of lists) {
    each.shown = 0;
    each.cards.replaceChildren();
  }
  lists.forEach(extend);
  if (lists.every((each) => each.chosen.length === 0)) {
    said.value = together && kept.length ? "No prompt has two of these responses." : "No response is like that.";
  }
}

function recolour() {
  describe(chosen());
  document.querySelectorAll(".tokens").forEach(paint);
}

for (const [name, value] of Object.entries(VALUES)) {
  const known = responses.map(value).filter((one) => one !== null);
  field(name).disabled = known.length === 0;
  if (known.length === 0) continue;
  const [least, most] = known.reduce(([low, high], one) => [Math.min(low, one), Math.max(high, one)], [Infinity, -Infinity]);
  field(`${name}-from`).placeholder = shortened(least);
  field(`${name}-to`).placeholder = shortened(most);
}
if (rules) field("sort").append(new Option("agreement of the rules", "agreement"));
field("channel").append(...channels.map(({ name }, place) => new Option(name, place)));
document.getElementById("responses").classList.toggle("two", rules !== null);
form.addEventListener("input", ({ target }) => (target.name === "channel" ? recolour() : choose()));
form.addEventListener("reset", () => setTimeout(() => {
  choose();
  recolour();
}));
form.addEventListener("submit", (event) => event.preventDefault());
