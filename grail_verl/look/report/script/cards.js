// A response as a card: its facts, its prompt, its tokens by each rule.

function token(response, place, found) {
  const made = element("span", "token", visible(response.tokens[place]));
  made.tabIndex = place ? -1 : 0;
  made.dataset.place = place;
  if (isAnswer(response, place)) made.classList.add("answer");
  if (isForeign(response, place)) made.classList.add("foreign");
  if (found.has(place)) made.classList.add("found");
  return made;
}

function description(response, place) {
  const lines = [`Token ${place + 1} of ${response.tokens.length}: ${visible(JSON.stringify(response.tokens[place]))}`,
    ...numbersOf(response, place)];
  if (isAnswer(response, place)) {
    const [, start, end] = response.answer;
    lines.push(start <= place && place < end ? "the answer’s content" : "part of the answer, around its content");
  }
  if (isForeign(response, place)) lines.push("not written by the policy");
  return lines.join("\n");
}

// fork: before which token a line says that siblings differ from there on.
function tokensOf(response, rule, fork) {
  const made = element("div", "tokens"), found = placesOf(response);
  made.setAttribute("role", "group");
  made.setAttribute("aria-label", `Response, token by token${named(rule)}`);
  made.dir = "auto";
  made.append(...response.tokens.map((_, place) => token(response, place, found)));
  if (fork !== undefined) made.insertBefore(element("span", "fork", "they differ from here on"), made.children[fork] ?? null);
  Object.assign(made, { response, rule });
  paint(made);
  return made;
}

function answerOf(response) {
  const text = response.tokens.slice(response.answer[0], response.answer[3]).map(visible).join("").trim();
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

function factsOf(response) {
  const facts = [
    response.reward === null ? "no reward" : `reward ${shortened(response.reward)}`,
    `advantage ${shortened(response.advantage)}`,
    `${response.tokens.length.toLocaleString("en")} tokens`,
    response.answer === null ? "no answer" : `answer ${answerOf(response)}`,
  ];
  if (!rules) return [...facts, response.weighted ? "weighted" : "not weighted"];
  const [correlation, common] = response.agreement;
  if (common === null) return [...facts, "not weighted by both rules"];
  return [...facts, `rank correlation ${shortened(correlation)}`, `${Math.round(100 * common)}% of the top fifth in common`];
}

function promptOf(response) {
  const made = element("details");
  made.append(element("summary", "", "Prompt"), element("p", "", prompts[response.prompt]));
  made.lastChild.tabIndex = 0;
  return made;
}

// prompt: its own is shown; among siblings it is not, and the outcome is said instead.
function card(response, { heading = "h4", prompt = true, fork } = {}) {
  const made = element("article", response.correct ? "correct" : "wrong"), head = element("header"), title = element(heading), body = element("div", "rules");
  if (prompt) title.id = idOf(response); // among siblings one can stand there several times
  const link = element("a", "", nameOf(response));
  link.href = `#${idOf(response)}`;
  title.append(link);
  title.tabIndex = -1;
  const facts = prompt ? factsOf(response) : [response.correct ? "correct" : "wrong", ...factsOf(response)];
  head.append(title, element("p", "facts", facts.join(" · ")));
  if (prompt) head.append(promptOf(response));
  for (const rule of rules ? [0, 1] : [0]) {
    const block = element("div");
    if (rules) block.append(element("p", "rule", rules[rule]));
    block.append(tokensOf(response, rule, fork));
    body.append(block);
  }
  made.append(head, body);
  return made;
}
