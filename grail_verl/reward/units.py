r"""The closed list of units: what may stand behind a number without being part of its value.

On the grader's way: text → *tokens* → parts → values. Of tokens that end in `12 \text{ cm}^{2}` this finds where the
unit begins and which it is. A unit that is not here is prose, which is compared as words. Abbreviations of one letter
count only where they are set as text behind a number: everywhere else they are variables.
"""

from collections import Counter

# A line for each unit: its name, then other ways to write it. A plural's s or es is taken off before.
_TABLE = """
mm millimeter millimetre
cm centimeter centimetre
dm decimeter decimetre
m meter metre
km kilometer kilometre
nm nanometer nanometre
inch in inches
foot feet ft
yard yd
mile mi
lightyear ly
s sec second
ms millisecond
minute min
hour h hr
day
week
month
year yr
mg milligram
g gram gm
kg kilogram
ton tonne
pound lb
ounce oz
L l liter litre
mL ml milliliter millilitre
gallon gal
acre
hectare ha
N newton
J joule
kJ kilojoule
W watt
kW kilowatt
V volt
A amp ampere
C coulomb
K kelvin
F farad
T tesla
Pa pascal
kPa
MPa
atm
bar
mol mole
M molar
Hz hertz
MHz
eV
MeV
keV
GeV
erg
ohm
dB
degree deg
radian rad
dollar usd
cent
euro
unit
percent pct percentage
"""
# Things that are counted.
_COUNTED_TABLE = """
apple ball book box boy car card cat chair child children coin cookie cow cube digit dog edge egg element face fish
flower game girl gift integer jelly light line man men marble match mark member monkey number page page pair part
people person pen pencil penny pennies piece plate player point pole prime problem question race ring row seat sheep
shirt side solution song square squares stamp step stick stone student sticker subset team term test ticket tile time
toy tree triangle vertex vertices vote way win woman women word worker zero root bird candle cup bag bottle lap
outcome value possibility possibilities combination arrangement permutation handshake divisor factor color colour
sheet slice pizza candy candies pieces revolution rotation trip crayon
"""
_COMPOUND = {"mph": {"mile": 1, "hour": -1}, "kmh": {"km": 1, "hour": -1}, "kph": {"km": 1, "hour": -1}}
_ADJECTIVES = {"positive", "distinct", "different", "possible", "ordered", "total"}
_LENGTHS = {"mm", "cm", "dm", "m", "km", "nm", "inch", "foot", "yard", "mile", "unit"}
_MODIFIERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}

_NAMES = {name: line.split()[0] for line in _TABLE.strip().splitlines() for name in line.split()}
_NAMES |= {name: name for name in _COUNTED_TABLE.split()}
# What needs no \text behind a number and a space: nobody writes these for a product of variables.
BARE_UNITS = "|".join(
    sorted((f"{name}s?" for name in _NAMES if len(name) > 3), key=len, reverse=True)
) + r"|inches|feet|km/h|m/s|m/s\^2|ft/s|days?|ways?|mph|sq|cubic"  # fmt: skip

DEGREE, PERCENT, CURRENCY = r"\circdegree", r"\%", r"\$"
_SIGNS = {DEGREE: "degree", PERCENT: "percent", CURRENCY: "dollar"}

Unit = tuple[tuple[str, int], ...]


def unit_name(word: str) -> str | None:
    """The unit's own name, None if it is none of the list. A single letter is told by its case."""
    for name in (word, word[:-1] if word.endswith("s") else "", word[:-2] if word.endswith("es") else ""):
        if len(name) > 1 or word == name:
            found = _NAMES.get(name) or (_NAMES.get(name.casefold()) if len(name) > 1 else None)
            if found:
                return found
    return None


def split_unit(tokens: list[str], is_word) -> tuple[list[str], Unit]:
    """The tokens before a unit at the end, and the unit: () if there is none."""
    for start in range(max(1, len(tokens) - 12), len(tokens)):
        unit = _unit(tokens[start:], is_word)
        if unit:
            return tokens[:start], unit
    return tokens, ()


def _unit(tokens: list[str], is_word) -> Unit | None:
    if not (is_word(tokens[0]) or tokens[0] in _SIGNS):
        return None
    powers, sign, scale, index = Counter(), 1, 1, 0
    while index < len(tokens):
        token = tokens[index]
        index += 1
        if token in ("/", "per") and index > 1:
            sign = -1
            continue
        if (token == r"\cdot" and index > 1) or (is_word(token) and token in _ADJECTIVES):
            continue
        if is_word(token) and token in _MODIFIERS and index < len(tokens):
            scale = _MODIFIERS[token]
            continue
        if is_word(token) and token in _COMPOUND:
            powers.update(_COMPOUND[token])
            continue
        name = _SIGNS.get(token) or (unit_name(token) if is_word(token) else None)
        if name == "degree" and index < len(tokens) and tokens[index] in ("C", "F", "K"):
            name += tokens[index]
            index += 1
        if name is None or (scale > 1 and name not in _LENGTHS):
            return None
        power, index = _power(tokens, index)
        if power is None:
            return None
        powers[name] += sign * scale * power
        sign, scale = 1, 1
    return tuple(sorted(powers.items())) if powers and sign == scale == 1 else None


def _power(tokens: list[str], index: int) -> tuple[int | None, int]:
    if index >= len(tokens) or tokens[index] != "^":
        return 1, index
    end = tokens.index("}", index)
    text = "".join(tokens[index + 2 : end])
    return (int(text) if text.lstrip("-").isdigit() else None), end + 1
