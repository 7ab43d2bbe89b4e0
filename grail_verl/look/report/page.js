"use strict";
// Responses as coloured tokens, chosen and ordered by the form. Their text reaches the page as text nodes alone.

const AT_ONCE = 10, TOKENS_AT_ONCE = 5000; // of an outcome, whichever is met first
const { mean, spread, score: scoreName, prompts, responses } = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("choice");
const field = (name) => form.elements.namedItem(name);
const note = document.getElementById("note");
const severalRanks = responses.some((response) => response.rank);
const VALUES = { reward: (response) => response.reward, step: (response) => response.step,
  length: (response) => response.tokens.length };

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function shortened(value) {
  if (value === null) return "unknown";
  return String(Number.isInteger(value) ? value : Number(value.toPrecision(3)));
}

// --- Tokens -----------------------------------------------------------------------------------------------------

// What would not be seen, or would move its neighbours, as a mark or as its code point.
function visible(text) {
  if (text === "") return "∅";
  if (/^ +$/.test(text)) return text.replaceAll(" ", "␣");
  return text.replaceAll("\n", "↵\n").replaceAll("\t", "⇥\t").replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (character) =>
    "\n\t".includes(character) ? character : `⟨U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

function isForeign(response, place) {
  return response.mask !== null && !response.mask[place];
}

function isAnswer(response, place) {
  return response.answer !== null && response.answer[0] <= place && place < response.answer[3];
}

function token(response, place) {
  const made = element("span", "token", visible(response.tokens[place]));
  const weight = response.weight[place];
  made.tabIndex = place ? -1 : 0;
  made.dataset.place = place;
  if (isAnswer(response, place)) made.classList.add("answer");
  if (isForeign(response, place)) made.classList.add("foreign");
  else if (weight !== null) {
    if (weight < mean) made.classList.add("low");
    made.style.setProperty("--share", `${Math.min(100, Math.round((100 * Math.abs(weight - mean)) / spread))}%`);
  }
  return made;
}

function description(response, place) {
  const score = response.score === null ? null : response.score[place];
  const lines = [
    `Token ${place + 1} of ${response.tokens.length}: ${visible(JSON.stringify(response.tokens[place]))}`,
    `weight ${shortened(response.weight[place])}`,
    score === null ? `no ${scoreName}` : `${scoreName} ${shortened(score)}`,
  ];
  if (isAnswer(response, place)) {
    const [, start, end] = response.answer;
    lines.push(start <= place && place < end ? "the answer’s content" : "part of the answer, around its content");
  }
  if (isForeign(response, place)) lines.push("not written by the policy");
  return lines.join("\n");
}

// --- Responses --------------------------------------------------------------------------------------------------

function answerOf(response) {
  const text = response.tokens.slice(response.answer[0], response.answer[3]).map(visible).join("").trim();
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

function card(response) {
  const made = element("article");
  const rank = severalRanks ? `, rank ${response.rank}` : "";
  made.append(element("h4", "", `Step ${response.step}${rank}, row ${response.row}`));
  made.firstChild.tabIndex = -1;
  const facts = [
    response.reward === null ? "no reward" : `reward ${shortened(response.reward)}`,
    `advantage ${shortened(response.advantage)}`,
    `${response.tokens.length.toLocaleString("en")} tokens`,
    response.answer === null ? "no answer" : `answer ${answerOf(response)}`,
    response.weighted ? "weighted" : "not weighted",
  ];
  made.append(element("p", "facts", facts.join(" · ")));
  const prompt = element("details");
  prompt.append(element("summary", "", "Prompt"), element("p", "", prompts[response.prompt]));
  prompt.lastChild.tabIndex = 0;
  const tokens = element("div", "tokens");
  tokens.setAttribute("role", "group");
  tokens.setAttribute("aria-label", "Response, token by token");
  tokens.dir = "auto";
  tokens.append(...response.tokens.map((_, place) => token(response, place)));
  tokens.response = response;
  made.append(prompt, tokens);
  return made;
}

const columns = ["correct", "wrong"].map((outcome) => {
  const section = document.getElementById(outcome);
  const column = { outcome, section, cards: section.querySelector(".cards"), count: section.querySelector("output"),
    more: section.querySelector(".more"), chosen: [], shown: 0 };
  column.more.addEventListener("click", () => {
    const first = column.shown;
    extend(column);
    column.cards.children[first].firstChild.focus();
  });
  return column;
});

function extend(column) {
  const end = Math.min(column.shown + AT_ONCE, column.chosen.length);
  for (let tokens = 0; column.shown < end && tokens < TOKENS_AT_ONCE; column.shown += 1) {
    column.cards.append(card(column.chosen[column.shown]));
    tokens += column.chosen[column.shown].tokens.length;
  }
  column.more.hidden = column.shown === column.chosen.length;
  column.count.value = `– ${column.shown.toLocaleString("en")} of ${column.chosen.length.toLocaleString("en")}`;
}

function within(response, name) {
  const value = VALUES[name](response);
  const [from, to] = ["from", "to"].map((end) => field(`${name}-${end}`).value);
  return (from === "" || (value !== null && value >= Number(from))) && (to === "" || (value !== null && value <= Number(to)));
}

// By the chosen value, unknown ones last.
function compare(one, other) {
  const [first, second] = [one, other].map(VALUES[field("sort").value]);
  if (first === null || second === null) return (first === null) - (second === null);
  return (first - second) * Number(field("order").value);
}

function choose() {
  hide();
  const kept = responses.filter((response) => Object.keys(VALUES).every((name) => within(response, name)));
  kept.sort(compare);
  const outcome = field("outcome").value;
  for (const column of columns) {
    column.section.hidden = outcome !== "" && outcome !== column.outcome;
    column.chosen = kept.filter((response) => response.correct === (column.outcome === "correct"));
    column.shown = 0;
    column.cards.replaceChildren();
    extend(column);
  }
}

for (const [name, value] of Object.entries(VALUES)) {
  const known = responses.map(value).filter((one) => one !== null);
  field(name).disabled = known.length === 0;
  if (known.length === 0) continue;
  const [least, most] = known.reduce(([low, high], one) => [Math.min(low, one), Math.max(high, one)], [Infinity, -Infinity]);
  field(`${name}-from`).placeholder = shortened(least);
  field(`${name}-to`).placeholder = shortened(most);
}
form.addEventListener("input", choose);
form.addEventListener("reset", () => setTimeout(choose));
form.addEventListener("submit", (event) => event.preventDefault());

// --- The note on a token: under the pointer, or else at the focus ------------------------------------------------

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

document.addEventListener("pointerover", ({ target }) => {
  if (note.contains(target)) return;
  const under = tokenAt(target), focused = tokenAt(document.activeElement);
  if (under) show(under);
  else if (focused && noted && noted !== focused) show(focused);
  else if (!focused) hide();
});
document.addEventListener("focusin", ({ target }) => {
  const focused = tokenAt(target);
  if (!focused) return hide();
  for (const other of focused.parentElement.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
  focused.tabIndex = 0;
  show(focused);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") return hide();
  const focused = tokenAt(event.target);
  if (!focused || event.ctrlKey || event.altKey || event.metaKey) return;
  const { parentElement: tokens } = focused;
  const next = { ArrowRight: focused.nextSibling, ArrowLeft: focused.previousSibling, Home: tokens.firstChild,
    End: tokens.lastChild }[event.key];
  if (!next) return;
  event.preventDefault();
  next.focus();
});
document.addEventListener("scroll", settle, true);
addEventListener("resize", settle);

choose();
