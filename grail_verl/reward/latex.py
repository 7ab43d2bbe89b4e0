r"""An answer's text as tokens in one spelling, with words and mathematics apart.

On the grader's way: text (spelling.py) → *tokens* → parts (reading.py) → values (values.py) → verdict. What only looks
differently becomes the same here: fonts, sizes, colours, frames, `\dfrac12` and `\frac{1}{2}`. What `\text{…}` holds
becomes `Word`s, or mathematics again where it is no word. Nothing is dropped that could change the value.
"""

import itertools
import re

from grail_verl.reward.units import unit_name


class Word(str):
    """A token of prose: lower-case, or a single letter as it was written."""


_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\d+(?:\.\d+)?|\.\d+|[a-zA-Z]{2,}|\S", re.DOTALL)

_TEXT_NAMES = (
    r"\text \textbf \textit \textrm \textsf \texttt \textnormal \textup \textsc \textmd \mbox \hbox \emph \mathrm "
    r"\operatorname \mathop"
)
_TEXT = set(_TEXT_NAMES.split())
_DROPPED_NAMES = (
    r"\displaystyle \textstyle \scriptstyle \limits \nolimits \left \right \middle \big \Big \bigg \Bigg \bigl \bigr "
    r"\Bigl \Bigr \biggl \biggr \mleft \mright \large \Large \LARGE \huge \Huge \small \tiny \normalsize \bf \rm \it "
    r"\sf \tt \bfseries \itshape \boxed \fbox \underline \mathbf \boldsymbol \bm \mathit \mathsf \mathtt \mathnormal "
    r"\mathord \mathstrut \ensuremath \pmb \strut \protect \underbrace \hphantom \cal \mathclose \mathopen"
)
_DROPPED = set(_DROPPED_NAMES.split())
_DROPPED_WITH_ARGUMENT = {
    r"\color", r"\textcolor", r"\colorbox", r"\phantom", r"\vphantom", r"\hspace", r"\vspace", r"\tag", r"\label",
}  # fmt: skip
_RENAMED = {
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\nicefrac": r"\frac", r"\sfrac": r"\frac",
    r"\flatfrac": r"\frac", r"\dbinom": r"\binom", r"\tbinom": r"\binom", r"\lbrace": r"\{", r"\rbrace": r"\}",
    r"\lbrack": "[", r"\rbrack": "]", r"\lparen": "(", r"\rparen": ")", r"\neq": r"\ne", r"\leq": r"\le",
    r"\leqslant": r"\le", r"\leqq": r"\le", r"\geqq": r"\ge", r"\surd": r"\sqrt",
    r"\geq": r"\ge", r"\geqslant": r"\ge",
    r"\lt": "<", r"\gt": ">", r"\simeq": r"\approx",
    r"\rightarrow": r"\to", r"\longrightarrow": r"\to", r"\mapsto": r"\to", r"\dots": r"\ldots", r"\cdots": r"\ldots",
    r"\dotsc": r"\ldots", r"\dotsb": r"\ldots", r"\varnothing": r"\emptyset", r"\smallsetminus": r"\setminus",
    r"\backslash": r"\setminus", r"\colon": ":", r"\lvert": "|", r"\rvert": "|", r"\vert": "|", r"\mid": "|",
    r"\lVert": r"\|", r"\rVert": r"\|", r"\Vert": r"\|", "%": r"\%", r"\varepsilon": r"\epsilon", r"\varphi": r"\phi",
    r"\vartheta": r"\theta", r"\varrho": r"\rho", r"\varsigma": r"\sigma", r"\ast": "*", r"\intercal": r"\top",
    r"\widehat": r"\hat", r"\widetilde": r"\tilde", r"\overrightarrow": r"\vec", r"\Bbb": r"\mathbb", r"\R": r"\Reals",
    r"\imath": "i", r"\jmath": "j", r"\land": r"\wedge", r"\prime": "'", r"\iff": r"\Leftrightarrow",
    r"\bar": r"\overline",
    r"\arcsinh": r"\arsinh", r"\arccosh": r"\arcosh", r"\arctanh": r"\artanh", r"\tg": r"\tan", r"\ctg": r"\cot",
    r"\complement": "c", r"\bigcup": r"\cup", r"\times": r"\cdot", "*": r"\cdot"
}  # fmt: skip
_ARGUMENTS = {r"\frac": 2, r"\binom": 2, r"\sqrt": 1, "^": 1, "_": 1}
_ARGUMENTS |= dict.fromkeys([r"\vec", r"\hat", r"\overline", r"\tilde", r"\dot", r"\ddot"], 1)
_INFIX = {r"\over": r"\frac", r"\choose": r"\binom"}
# Names that stand for functions or relations where they are set upright.
_UPRIGHT_NAMES = (
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp gcd max min det arsinh arcosh artanh "
    "arcsinh arccosh arctanh"
)
_UPRIGHT = set(_UPRIGHT_NAMES.split())
_NAMES = {"infinity": r"\infty", "inf": r"\infty", "sqrt": r"\sqrt", "pi": r"\pi", "infty": r"\infty"}
_CONNECTIVES = {"and", "or"}
_BEFORE = _CONNECTIVES | {"at", "to", "if", "for", "on", "in", "is", "are", "from", "through", "with"}  # (1, 2)
_CAPITALISED = re.compile("[A-Z][a-z]{3,}")
_WORD = re.compile(r"[a-zA-Z][a-zA-Z'’\-]*[a-zA-Z]|[^a-zA-Z\s]+|[a-zA-Z]")


def words_of(text: str) -> set[str]:
    r"""The words in `\text{…}` and the like, and those of a sentence: the same letters elsewhere are no product."""
    found = {word.casefold() for match in _PROSE.finditer(text) for word in re.findall("[a-zA-Z]{2,}", match[1])}
    bare = [run for run in _BARE.findall(_PROSE.sub("", text)) if run not in _UPRIGHT]
    if len(bare) > 2 and sum(map(len, bare)) >= 3 * len(bare):
        found |= {run.casefold() for run in bare}
    return found


_PROSE = re.compile(r"\\(?:text[a-z]*|mbox|hbox|mathrm|emph)\s*\{([^{}]*)\}")
_BARE = re.compile(r"(?<![\\{a-zA-Z])[a-zA-Z]{2,}(?![a-zA-Z}])")


def tokens(text: str, known: set[str] = frozenset()) -> list[str]:
    """The tokens of a cleaned text, arguments in braces.

    Args:
        text: what `cleaned` gives.
        known: words (of the truth or the answer) that are words without `\\text` as well.

    Raises:
        ValueError: braces do not match, or an argument is missing.
    """
    return _spell(_tree(_TOKEN.findall(text)), known)


def _tree(flat: list[str]) -> list:
    """Braces as nested lists."""
    stack = [[]]
    for token in flat:
        if token == "{":
            stack.append([])
        elif token == "}":
            if len(stack) == 1:
                raise ValueError("a } without its {")
            group = stack.pop()
            stack[-1].append(group)
        else:
            stack[-1].append(token)
    if len(stack) > 1:
        raise ValueError("a { without its }")
    return stack[0]


def _spell(tree: list, known: set[str], script: bool = False) -> list[str]:
    out: list[str] = []
    for sign in _INFIX:
        if sign in tree:
            tree = [_INFIX[sign], tree[: tree.index(sign)], tree[tree.index(sign) + 1 :]]
    items = list(reversed(tree))
    while items:
        item = items.pop()
        if isinstance(item, list):
            inner = _spell(item, known, script)
            is_argument = bool(out) and (out[-1] in ("^", "_") or out[-1][0] == "\\")
            needless = not is_argument and (len(inner) <= 1 or _is_bracketed(inner) or _continues(out, inner))
            out += inner if needless else ["{", *inner, "}"]
            continue
        item = _RENAMED.get(item, item)
        if item in _DROPPED:
            if item in (r"\left", r"\right") and items and items[-1] == ".":
                items.pop()  # a bracket that is not drawn
        elif item in _DROPPED_WITH_ARGUMENT:
            if items and isinstance(items[-1], list):
                items.pop()
        elif item in _TEXT:
            out += _words(_argument(items), items, known, script)
        elif item in (r"\mathbb", r"\mathcal", r"\mathfrak"):
            out += [item, "{", *_flat(_argument(items)), "}"]
        elif item == r"\Reals":
            out += [r"\mathbb", "{", "R", "}"]
        elif item in (r"\pmod", r"\bmod", r"\mod"):
            argument = _argument(items) if items and isinstance(items[-1], list) else []
            out += [Word("mod"), *_spell(argument, known)]
        elif item == r"\sqrt":
            out += _root(items, known)
        elif item in _ARGUMENTS:
            out += _command(item, items, known)
        elif item == r"\begin" or item == r"\end":
            out += [item, "{", "".join(_flat(_argument(items))), "}"]
        elif re.fullmatch("[a-zA-Z]{2,}", item):
            out += _run(item, known, script, items)
        else:
            out.append(item)
    return out


def _is_bracketed(inner: list[str]) -> bool:
    """( … ) from its beginning to its end."""
    depths = list(itertools.accumulate((token == "(") - (token == ")") for token in inner))
    return inner[0] == "(" and 0 in depths and depths.index(0) == len(inner) - 1


def _continues(out: list[str], inner: list[str]) -> bool:
    """5{+1} is drawn as 5+1, and is no product."""
    return inner[0] in ("+", "-") and bool(out) and (out[-1].isalnum() or out[-1] == ")")


def _argument(items: list) -> list:
    """The next argument: a group, or one token; of a number one digit."""
    while items and isinstance(items[-1], str) and items[-1] in _DROPPED:
        items.pop()
    if not items:
        raise ValueError("an argument is missing")
    item = items.pop()
    if isinstance(item, list):
        return item
    if len(item) > 1 and item[0] != "\\":
        items.append(item[1:])
        return [item[0]]
    if item in _ARGUMENTS or item in (r"\mathbb", r"\mathrm", r"\text", r"\mathcal", r"\mathfrak"):
        taken = [item]
        if item == r"\sqrt" and items and items[-1] == "[":
            while items and taken[-1] != "]":
                taken.append(items.pop())
        for _ in range(_ARGUMENTS.get(item, 1)):
            taken.append(_argument(items))
        return taken
    return [item]


def _command(name: str, items: list, known: set[str]) -> list[str]:
    out = [name]
    if name == "^" and items and items[-1] == "(":  # x^(1/2), as plain text has it
        return [name, "{", *_spell(_parenthesised(items), known, True), "}"]
    if name == "^" and len(items) > 1 and items[-1] in ("+", "-"):
        sign = items.pop()
        return [name, "{", sign, *_spell(_whole_number(items), known, True), "}"]
    for _ in range(_ARGUMENTS[name]):
        argument = _whole_number(items) if name == "^" else _argument(items)
        out += ["{", *_spell(argument, known, name in "^_"), "}"]
    return out


def _whole_number(items: list) -> list:
    """As `_argument`, but of a number all digits: `\\sqrt 12` and `2^10` as they are meant."""
    if items and isinstance(items[-1], str) and re.fullmatch(r"\d+(\.\d+)?", items[-1]):
        return [items.pop()]
    return _argument(items)


def _root(items: list, known: set[str]) -> list[str]:
    out = [r"\sqrt"]
    if items and items[-1] == "[":
        items.pop()
        degree = []
        while items and items[-1] != "]":
            degree.append(items.pop())
        if not items:
            raise ValueError("a [ without its ]")
        items.pop()
        out += ["[", *_spell(degree, known), "]"]
    argument = _parenthesised(items) if items and items[-1] == "(" else _whole_number(items)
    return [*out, "{", *_spell(argument, known), "}"]


def _parenthesised(items: list) -> list:
    """What stands in the parentheses that open next."""
    depth, taken = 0, []
    while items:
        item = items.pop()
        depth += (item == "(") - (item == ")")
        if depth == 0:
            return taken[1:]
        taken.append(item)
    raise ValueError("a ( without its )")


def _run(run: str, known: set[str], script: bool, items: list) -> list[str]:
    """Letters without a command: a word if it is known to be one, or a product of variables."""
    if run.casefold() in known or run in _CONNECTIVES or (_CAPITALISED.fullmatch(run) and not script):
        return [Word(run.casefold())]
    if run in _NAMES:
        items.append(_NAMES[run])
        return []
    if run in _UPRIGHT:
        return ["\\" + run]
    return list(run)


def _without_text(tree: list) -> list:
    r"""\text within \text is the same text."""
    out: list = []
    for item in tree:
        nested = isinstance(item, list) and bool(out) and out[-1] in _TEXT
        out[len(out) - nested :] = _without_text(item) if nested else [item]
    return out


def _flat(tree: list) -> list[str]:
    return [token for item in tree for token in (_flat(item) if isinstance(item, list) else [item])]


def _words(tree: list, items: list, known: set[str], script: bool) -> list[str]:
    r"""The tokens of what `\text{…}` holds; `items` is what follows."""
    tree = _without_text(tree)
    inner = _flat(tree)
    name = "".join(inner)
    if name in _UPRIGHT and (unit_name(name) is None or (items and items[-1] in ("(", r"\{", "_"))):
        items.append("\\" + name)
        return []
    is_function = bool(items) and items[-1] in ("_", "(") and len(name) > 1 and name.isalpha() and name not in _BEFORE
    if script or is_function:
        return _name(name)
    out: list[str] = []
    unit = all(unit_name(token) or token in ("/", r"\cdot", "^", "2", "3") for token in inner)
    for item, after in zip(tree, [*tree[1:], ""], strict=True):
        if item == "." and out and isinstance(out[-1], Word):  # sq. ft.
            continue
        if isinstance(item, list) or not item.isalpha():
            out += _spell([item], known)
        elif len(item) > 1:
            out.append(Word(item.casefold() if unit_name(item) is None else item))
        elif unit:
            out.append(Word(item))
        elif item != "a" or not after:  # an article
            out.append(item)
    return out


def _name(name: str) -> list[str]:
    letters = re.sub("[^a-zA-Z0-9]", "", name)
    if len(letters) == 1:
        return [letters]
    return [r"\mathit", "{", letters, "}"] if letters else []
