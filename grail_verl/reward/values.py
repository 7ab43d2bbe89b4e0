r"""From the tokens of one expression to its value, and when two values are equal.

On the grader's way: text → tokens → parts → *values* → verdict. The expression is parsed by math-verify's LaTeX grammar
(latex2sympy2_extended) and computed by sympy. Ours is what stands between them: letters that the grammar takes for
something else (I, E, T, d, \gamma, primes, subscripts) become names of their own, decimals exact fractions, and no
number is ever chopped.

Two numbers are equal if they are so exactly, or if 120 digits cannot tell them apart (sympy's evalf, which knows how
many of the digits it gives are right). Two expressions with variables are equal if they are so at every point tried: at
positive rationals, and at negative ones where everything within is real; or, if all variables are named as integers
are, at integers.
"""

import functools
import itertools
import re

import sympy
from latex2sympy2_extended.antlr_parser import PSParser
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy
from sympy.core.function import AppliedUndef

if not hasattr(PSParser.AtomContext, "FUNC_GAMMA"):  # forgotten for Hydra's antlr 4.9: no percentage was read
    PSParser.AtomContext.FUNC_GAMMA = lambda self: None

DIGITS = 120


class _Divisor(sympy.Function):
    """The greatest common divisor of integers. sympy's own takes symbols for polynomials, whose divisor is 1."""

    of_integers = staticmethod(sympy.igcd)

    @classmethod
    def eval(cls, *numbers):
        if all(number.is_Integer for number in numbers):
            return sympy.Integer(cls.of_integers(*numbers))
        ordered = sorted(numbers, key=sympy.default_sort_key)
        return None if list(numbers) == ordered else cls(*ordered)


class _Lcm(_Divisor):
    of_integers = staticmethod(sympy.ilcm)


FUNCTIONS = {
    "zeta": sympy.zeta, "Gamma": sympy.gamma, "erf": sympy.erf, "erfc": sympy.erfc, "sgn": sympy.sign,
    "coth": sympy.coth, "sech": sympy.sech, "csch": sympy.csch, "lcm": _Lcm, "Re": sympy.re, "Im": sympy.im,
}  # fmt: skip
INTEGERS = frozenset({"n", "k", "m", "N"})


class Unread(ValueError):
    """Nothing that the grammar takes for mathematics."""


class _Converter(_Latex2Sympy):
    def parse_number(self, text: str):
        return sympy.Rational(text.replace(",", ""))

    def handle_gcd_lcm(self, f, args):
        return {"gcd": _Divisor, "lcm": _Lcm}[f](*args)

    def convert_postfix_list(self, arr, i=0):
        """What stands side by side is multiplied; the parent adds 3(4), as if it were a mixed number."""
        first = self.convert_postfix(arr[i])
        if isinstance(first, list) or i == len(arr) - 1:
            return super().convert_postfix_list(arr, i)
        rest = self.convert_postfix_list(arr, i + 1)
        is_matrix = any(getattr(factor, "is_Matrix", False) for factor in (first, rest))
        return self.mat_mul_flat(first, rest) if is_matrix else self.mul_flat(first, rest)


_KNOWN_NAMES = (
    r"\frac \binom \sqrt \cdot \div \sin \cos \tan \csc \sec \cot \arcsin \arccos \arctan \sinh \cosh \tanh \arsinh "
    r"\arcosh \artanh \ln \log \exp \lim \to \int \sum \prod \infty \max \min \gcd \det \lfloor \rfloor \lceil \rceil "
    r"\begin \end \mathbb \mathit \overline \vec \hat \tilde \dot \emptyset \cup \cap \setminus \{ \} \| "
    r"\mathcal \\ \% "
    r"\alpha \beta \delta \epsilon \eta \theta \iota \kappa \lambda \mu \nu \xi \pi \rho \sigma \tau \upsilon \phi "
    r"\chi \psi \omega \Delta \Theta \Lambda \Xi \Pi \Sigma \Upsilon \Phi \Psi \Omega \partial \wedge"
)
_KNOWN = set(_KNOWN_NAMES.split())
_OWN_SCRIPTS = {r"\log", r"\sum", r"\prod", r"\int", r"\lim", r"\max", r"\min"}
_SIGNS = {"+": "plus", "-": "minus", "*": "star", ",": "comma", "/": "over", "'": "prime", "=": "is"}


def _names(tokens: list[str], calls: list[tuple[str, list[str]]]) -> list[str]:
    """The tokens with a name of its own for each letter that the grammar would take for something else.

    Functions that it does not know get the name call1, call2, …; `calls` takes their own names and arguments.
    """
    differentials = r"\int" in tokens or bool(_DERIVATIVE.search("".join(tokens)))
    out, index = [], 0
    while index < len(tokens):
        token = tokens[index]
        index += 1
        after = tokens[index] if index < len(tokens) else ""
        if token in (r"\mathit", r"\mathcal", r"\mathfrak"):
            end = _end(tokens, index)
            name = token[5:] * (token != r"\mathit") + "".join(tokens[index + 1 : end])
            index = end + 1
        elif token[0] == "\\" and token[1:].isalpha() and (token not in _KNOWN):
            name = token[1:]
        elif token.isalpha() and len(token) == 1 and (token in "IET" or (token == "d" and not differentials)):
            name = token
        elif (token.isalpha() and len(token) == 1 and token not in "e") or (
            token[1:].isalpha() and token in _KNOWN and after in ("_", "'") and token not in _OWN_SCRIPTS
        ):
            if after not in ("_", "'"):
                out.append(token)
                continue
            name = token.removeprefix("\\")
        elif token == "'":  # of a number or a bracket: feet, or a derivative
            raise Unread(tokens)
        else:
            out.append(token)
            if token in (r"\max", r"\min", r"\gcd") and after == r"\{":
                end = _end(tokens, index, (r"\{", r"\}"))
                out += ["(", *_names(tokens[index + 1 : end], calls), ")"]
                index = end + 1
            continue
        while index < len(tokens) and tokens[index] in ("_", "'"):
            if tokens[index] == "'":
                name += "prime"
                index += 1
            else:
                end = _end(tokens, index + 1)
                name += "sub" + "".join(_SIGNS.get(part, part) for part in tokens[index + 2 : end])
                index = end + 1
        name = re.sub(r"[^a-zA-Z0-9]", "", name)
        if not name:
            raise Unread(tokens)
        if tokens[index : index + 1] == ["("] and len(name) > 1:
            end = _end(tokens, index, "()")
            calls.append((name, tokens[index + 1 : end]))
            name, index = f"call{len(calls)}", end + 1
        out += [rf"\mathit{{{name}}}"]
    return out


_DERIVATIVE = re.compile(r"\\frac\{d[^{}]*\}\{d[a-zA-Z]")


def _end(tokens: list[str], start: int, brackets=("{", "}")) -> int:
    """Where the group that begins at `start` ends."""
    depth = 0
    for index in range(start, len(tokens)):
        depth += (tokens[index] == brackets[0]) - (tokens[index] == brackets[1])
        if depth == 0:
            return index
    raise Unread(tokens)


_MIXED = re.compile(r"(?<![\d}\^_])(\d+) ?\\frac\{(\d+)\}\{(\d+)\}")


_ENDS_IN_COMMAND = re.compile(r"\\[a-zA-Z]+$")


def latex(tokens: list[str]) -> str:
    """The tokens as text again, with a space where a command would run into a letter."""
    text = ""
    for token in tokens:
        text += " " * (token[0].isalpha() and bool(_ENDS_IN_COMMAND.search(text))) + token
    return text


def _mixed(match: re.Match) -> str:
    whole, above, below = map(int, match.groups())
    if not 0 < above < below:
        return rf"{whole}\cdot\frac{{{above}}}{{{below}}}"
    return rf"\frac{{{whole * below + above}}}{{{below}}}"


_NUMBER = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(?:/(\d+))?")
_FRACTION = re.compile(r"([+-]?)\\frac\{([+-]?\d+)\}\{([+-]?\d+)\}")


@functools.lru_cache(maxsize=256)
def value(tokens: tuple[str, ...]):
    """The value of an expression.

    Raises:
        Unread: the grammar does not take it.
    """
    text = latex(tokens)
    for token, after in zip(tokens, tokens[1:]):
        if token[0].isdigit() and after[0].isdigit() or (token, after) == ("!", "!"):
            raise Unread(text)
    if match := _NUMBER.fullmatch(text) or _FRACTION.fullmatch(text):
        below = int(match[3] or 1)
        number = sympy.Rational(match[2]) / below if below else sympy.zoo
        return -number if match[1] == "-" else number
    calls: list[tuple[str, list[str]]] = []
    text = _MIXED.sub(_mixed, latex(_names(list(tokens), calls)))
    converter = _Converter(is_real=None, config=ConversionConfig(lowercase_symbols=False))
    try:
        result = converter.parse(text)
    except Exception as error:  # antlr raises what it likes, on any text
        raise Unread(text) from error
    if not isinstance(result, sympy.Basic | sympy.MatrixBase):
        raise Unread(text)
    if sympy.Symbol("i") in result.free_symbols:
        result = result.xreplace({sympy.Symbol("i"): sympy.I})
    return result.xreplace({sympy.Symbol(f"math{{call{n}}}"): _called(*call) for n, call in enumerate(calls, 1)})


def _called(name: str, arguments: list[str]):
    pieces, depth = [[]], 0
    for token in arguments:
        depth += (token in _OPENING) - (token in _CLOSING)
        if token == "," and depth == 0:
            pieces.append([])
        else:
            pieces[-1].append(token)
    if not all(pieces):
        raise Unread(arguments)
    values = [value(tuple(piece)) for piece in pieces]
    if not all(isinstance(argument, sympy.Expr) for argument in values):
        raise Unread(arguments)
    known = FUNCTIONS.get(name)
    return known(*values) if known and len(values) == (2 if name == "lcm" else 1) else sympy.Function(name)(*values)


_OPENING, _CLOSING = {"(", "[", "{", r"\{"}, {")", "]", "}", r"\}"}


def equal(one, other) -> bool:
    """The values are the same."""
    if one == other:
        return True
    matrices = [isinstance(part, sympy.MatrixBase | sympy.MatrixExpr) for part in (one, other)]
    if any(matrices):
        if not all(matrices):
            return False
        one, other = (sympy.Matrix(part.doit()) for part in (one, other))
        return one.shape == other.shape and all(map(equal, one.flat(), other.flat()))
    if not (isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr)):
        return False
    if one.has(sympy.Derivative) or other.has(sympy.Derivative):  # of symbols, which sympy takes for constants
        return False
    one, other = one.doit(), other.doit()
    infinite = (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan)
    if one.has(*infinite) or other.has(*infinite):
        return one == other
    return is_zero(one - other)


def is_zero(difference) -> bool:
    """An expression is zero wherever it is defined."""
    if difference.is_Rational:
        return difference == 0
    unknown = sorted(difference.atoms(AppliedUndef), key=str)
    difference = difference.xreplace({function: sympy.Dummy(f"_{n}") for n, function in enumerate(unknown)})
    symbols = sorted(difference.free_symbols, key=str)
    if not symbols:
        return _is_zero_number(difference)
    if {symbol.name for symbol in symbols} <= INTEGERS:
        # what a binomial coefficient of negative numbers is, is a convention
        points = _INTEGER_POINTS if not difference.has(sympy.binomial) else [p for p in _INTEGER_POINTS if min(p) > 0]
        return _zero_at(difference, symbols, points + _FAR_INTEGER_POINTS * _bends(difference))
    if difference.has(sympy.floor, sympy.ceiling) and not _zero_at(difference, symbols, _INTEGER_POINTS):
        return False
    return _zero_at(difference, symbols, _POINTS + _FAR_POINTS * _bends(difference))


def _bends(expression) -> bool:
    """It may be another formula far away, as |x - 50| is."""
    powers = [power for power in expression.atoms(sympy.Pow) if power.base.free_symbols]
    roots = any(power.exp.is_Rational and not power.exp.is_Integer for power in powers)
    return roots or expression.has(sympy.Abs, sympy.Max, sympy.Min)


def _is_zero_number(number) -> bool | None:
    """None: it has no value."""
    if number.is_Rational:
        return number == 0
    if number.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo):
        return None
    parts = number.evalf(15, maxn=DIGITS).as_real_imag()
    if not all(part.is_Float or part.is_Rational for part in parts):
        return None
    return all(part == 0 or (part.is_Float and part._prec == 1) for part in parts)


# Of a symbol the nth of a list is at each point another number; none is where a formula of a contest would be special.
_POINTS = [[sympy.Rational(*pair) for pair in pairs] for pairs in (
    [(37, 29), (53, 61), (101, 43), (71, 97), (149, 83), (23, 67)],
    [(17, 71), (211, 89), (31, 103), (67, 41), (13, 59), (181, 101)],
    [(523, 79), (41, 113), (97, 19), (29, 37), (367, 53), (73, 47)],
    [(-59, 47), (43, 31), (-83, 29), (-19, 61), (107, 71), (-31, 43)],
    [(-13, 53), (-127, 59), (61, 73), (-47, 17), (-89, 97), (53, 23)],
    [(-307, 41), (-11, 67), (-37, 83), (113, 31), (-79, 59), (-29, 71)],
)]  # fmt: skip
_FAR_POINTS = [[sympy.Rational(*pair) for pair in pairs] for pairs in (
    [(811703, 61), (-500303, 37), (600701, 29), (-400109, 19), (900103, 47), (-700103, 53)],
    [(-997303, 83), (791907, 41), (-300101, 13), (550101, 23), (-800903, 59), (621107, 43)],
)]  # fmt: skip
_INTEGER_POINTS = [[sympy.Integer(n) for n in row] for row in (
    [7, 4, 3, 2], [12, 5, 7, 3], [10, 9, 2, 5], [9, 2, 8, 6], [5, 3, 4, 1], [16, 8, 11, 7], [-3, 2, -5, 4],
    [-4, -1, 6, -7],
)]  # fmt: skip
_FAR_INTEGER_POINTS = [
    [sympy.Integer(n) for n in row] for row in ([11003, 8009, 13007, 9001], [7001, 12007, 8011, 1409])
]


def _zero_at(difference, symbols, points) -> bool:
    places = [dict(zip(symbols, itertools.chain(point, itertools.count(point[0] + 7)))) for point in points]
    real = [place for place in places if _is_real_throughout(difference, place)]
    tried = 0
    for place in real if len(real) > 1 else [place for place in places if min(place.values()) > 0]:
        zero = _is_zero_number(difference.xreplace(place).doit())
        if zero is False:
            return False
        tried += bool(zero)
    return tried > 1 or sympy.simplify(difference) == 0


def _is_real_throughout(expression, place) -> bool:
    """Roots and logarithms of negative numbers depend on the branch: such a point decides nothing."""
    for part in expression.atoms(sympy.Pow, sympy.log, sympy.asin, sympy.acos, sympy.atanh, sympy.acosh):
        argument = part.args[0].xreplace(place).evalf()
        if isinstance(part, sympy.asin | sympy.acos | sympy.atanh):
            argument = 1 - argument**2
        elif isinstance(part, sympy.acosh):
            argument -= 1
        if not (isinstance(part, sympy.Pow) and part.exp.is_integer) and not argument.is_nonnegative:
            return False
    return True


def decimal_digits(tokens: tuple[str, ...]) -> tuple[int, sympy.Rational] | None:
    """Of a decimal: the significant digits given, and what one of the last is worth. None: it is no decimal."""
    match = re.fullmatch(r"[+-]?(\d*)\.(\d+)(?:\\cdot 10\^\{([+-]?\d+)\})?", latex(tokens))
    if not match:
        return None
    whole, part, power = match[1], match[2], int(match[3] or 0)
    return len((whole + part).lstrip("0")), sympy.Rational(10) ** (power - len(part))
