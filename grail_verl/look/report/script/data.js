"use strict";
// What the page shows: responses, prompts and channels as page.py writes them. Text of a policy reaches the page as text
// nodes alone.

const { rules, channels, prompts, responses, watched } = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("choice");
const field = (name) => form.elements.namedItem(name);
const severalRanks = responses.some((response) => response.rank);

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

// Places before the answer of tokens that the policy wrote.
function reasoning(response) {
  const end = response.answer === null ? response.tokens.length : response.answer[0];
  return [...Array(end).keys()].filter((place) => !isForeign(response, place));
}

// What the step and row of a response are called, in a link and in words.
const idOf = (response) => `step-${response.step}${severalRanks ? `-rank-${response.rank}` : ""}-row-${response.row}`;
const nameOf = (response) => `Step ${response.step}${severalRanks ? `, rank ${response.rank}` : ""}, row ${response.row}`;
