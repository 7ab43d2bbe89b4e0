// Responses of one step to one prompt, each wrong one beside the right one that it follows longest, as lines of a grid
// whose columns break alike: what they share takes the same room, and the line where they part is at the same height.

function groupsOf(kept) {
  const groups = new Map();
  for (const response of kept) {
    const key = `${response.step} ${response.prompt}`;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(response);
  }
  const several = [...groups.values()].filter((group) => group.length > 1);
  const mixed = (group) => group.some((response) => response.correct !== group[0].correct);
  return [...several.filter(mixed), ...several.filter((group) => !mixed(group))]; // right beside wrong comes first
}

function sharedLength(one, other) {
  const end = Math.min(one.tokens.length, other.tokens.length);
  let place = 0;
  while (place < end && one.tokens[place] === other.tokens[place]) place += 1;
  return place;
}

// [right, wrong, how many tokens they share], then the right ones that are beside none.
function pairsOf(group) {
  const [right, wrong] = [true, false].map((correct) => group.filter((response) => response.correct === correct));
  const pairs = wrong.map((response) => {
    const shared = right.map((other) => sharedLength(response, other));
    const longest = Math.max(...shared);
    return [right[shared.indexOf(longest)], response, longest];
  });
  const used = new Set(pairs.map(([one]) => one));
  return [...pairs, ...right.filter((response) => !used.has(response)).map((response) => [response])];
}

function family(group) {
  const made = element("section", "family"), [first] = group;
  const right = group.filter((response) => response.correct).length;
  const title = element("h4", "", `Step ${first.step}: ${right} correct, ${group.length - right} wrong`);
  title.tabIndex = -1;
  const prompt = promptOf(first);
  prompt.open = prompts[first.prompt].length < 200;
  made.append(title, prompt);
  for (const [one, other, fork] of pairsOf(group)) {
    const line = element("div", "pair"), of = { heading: "h5", prompt: false, fork: one && other ? fork : undefined };
    for (const response of [one, other]) line.append(response ? card(response, of) : element("div"));
    made.append(line);
  }
  return made;
}
