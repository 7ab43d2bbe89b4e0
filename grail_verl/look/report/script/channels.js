// What a token's colour says: a channel, chosen in the form, with its scale.

const chosen = () => channels[Number(field("channel").value)];
const given = (response, rule) => (rule ? response.second : response);

// A number of a token by a rule, 0 or 1; null where it has none.
function valueOf(response, { key, shared }, place, rule) {
  if (key === "weight") return given(response, rule).weight[place];
  if (key === "score") return given(response, rule).score?.[place] ?? null;
  if (key === "difference") return differenceOf(response, place, rule);
  return given(response, shared ? 0 : rule).channels[key]?.[place] ?? null;
}

// Each rule's weights over their mean before the answer.
function relative(response) {
  response.relative ??= [0, 1].map((rule) => {
    const { weight } = given(response, rule), places = reasoning(response);
    const mean = places.reduce((sum, place) => sum + weight[place], 0) / places.length;
    return weight.map((one) => (mean > 0 && one !== null ? one / mean : null));
  });
  return response.relative;
}

function differenceOf(response, place, rule) {
  const [one, other] = [rule, 1 - rule].map((each) => relative(response)[each][place]);
  return one === null || other === null ? null : one - other;
}

// From the middle to the full colour.
function reachOf(response, channel, rule) {
  if (channel.reach !== null) return channel.reach;
  const values = reasoning(response).map((place) => valueOf(response, channel, place, rule));
  return Math.max(0, ...values.filter((value) => value !== null));
}

// What is never negative goes down to 0 at most.
const downTo = (middle, reach) => (middle > 0 ? Math.min(middle, reach) : reach);

function paint(tokens) {
  const { response, rule } = tokens, channel = chosen(), up = reachOf(response, channel, rule);
  const down = downTo(channel.middle, up);
  for (const made of tokens.querySelectorAll(".token")) {
    const place = Number(made.dataset.place);
    const value = isForeign(response, place) ? null : valueOf(response, channel, place, rule);
    const away = value === null ? 0 : value - (channel.middle ?? 0);
    made.classList.toggle("low", away < 0);
    made.classList.toggle("unknown", value === null);
    const reach = away < 0 ? down : up;
    made.style.setProperty("--share", `${reach ? Math.min(100, Math.round((100 * Math.abs(away)) / reach)) : 0}%`);
  }
}

function describe(channel) {
  const { name, about, middle, reach } = channel;
  document.querySelector(".legend .bar.low").hidden = document.getElementById("least").hidden = middle === null;
  const least = middle - downTo(middle, reach);
  document.getElementById("least").textContent = `${shortened(least)}${least === 0 ? "" : " or less"}`;
  document.getElementById("middle").textContent = shortened(middle ?? 0);
  document.getElementById("most").textContent =
    reach === null ? "the response’s largest before its answer" : `${shortened((middle ?? 0) + reach)} or more`;
  document.getElementById("about").textContent = `${name}: ${about}`;
}

// By a rule, where there are two of them.
const named = (rule) => (rules ? ` by ${rules[rule]}` : "");

// A token's numbers, a line each.
function numbersOf(response, place) {
  return channels.flatMap((channel) => {
    const own = rules && !channel.shared ? [0, 1] : [0];
    if (channel.key === "difference") return [];
    return own.map((rule) => {
      const value = valueOf(response, channel, place, rule);
      return value === null && channel.key !== "weight" ? `no ${channel.name}${own[1] ? named(rule) : ""}`
        : `${channel.name}${own[1] ? named(rule) : ""} ${shortened(value)}`;
    });
  });
}
