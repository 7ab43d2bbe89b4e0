"""Every option of GRAIL, its default and its check: what a user writes under `algorithm.grail`.

First on the data's way: *options* → responses → answers → scores → weights → advantages. Which scores and weights there
are, and which options each of them reads, is rule.py's to know.
"""

import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

SECTION = "algorithm.grail"
HOPS = 8  # at most
LARGEST = 1e12  # of a number: squares of weights, and sums of them over a batch, stay within float32

CHOICES = {
    "leaf": ("embeddings", "first", "middle", "last"),
    "rollouts": ("wrong", "correct", "all"),
    "alignment": ("predictor", "token"),
    "occurrence": ("last", "first"),
    "statistics": ("response", "reasoning"),
}


@dataclass(frozen=True)
class GrailConfig:
    """The options of GRAIL (arXiv 2606.04889, section 3), with the published defaults.

    Attributes:
        score: what a token's score is, a file of scores/ or a name that one of `modules` registers; or several, whose
            product it is.
        weights: what weights are made of the scores, a file of weights/ or a name that one of `modules` registers.
        modules: rules of one's own: files, and `pkg://` names of installed modules, imported in every process.
        std: spread of standardised weights, the factor of the standardised log-score; at least 0.
        mean: standardised weight of a token of average score, and of the answer's boundary; in [w_min, w_max].
        w_min: lower clipping bound of a standardised weight; at least 0.
        w_max: upper clipping bound, and the weight of the answer's content.
        leaf: the activation whose gradient saliency takes: the input embedding's output, or the output of the
            first, middle or last but one transformer block (hidden_states[1], [n // 2], [n - 1]).
        hops: how often saliency is repeated from what it found, to carry credit back (docs/hops.md); 0 is
            GRAIL's; at most 8.
        rollouts: the responses whose tokens are reweighted: wrong (advantage <= 0), correct (> 0) or all.
        alignment: the input position whose saliency a token gets: its predictor's (t - 1) or its own.
        occurrence: which complete `\\boxed{}` is the final answer. The published code takes the first; the
            last is the one that rewards grade.
        statistics: the tokens over which log-scores are standardised: all of the response (published) or
            only those before the answer.
        total: sum of a response's proportional weights; above 0.
        share: of the rollout batch's tokens, those with the largest scores, that weigh 1 by top_share; in (0, 1].
        dump_dir: a folder for records of responses and their weights (look/records.py), written while training;
            None writes nothing.
        dump_responses: how many responses of a step are written there, over all ranks; at least 1.
        log_pictures: once in so many steps figures of what is written there go to verl's logger; 0 for never.

    Raises:
        ValueError: a value out of range; names the option, the value and what is allowed.
    """

    score: Any = "saliency"  # a string or a list of them: OmegaConf knows no type for that
    weights: str = "standardised"
    modules: list[str] = field(default_factory=list)
    std: float = 0.5
    mean: float = 1.0
    w_min: float = 0.5
    w_max: float = 5.0
    leaf: str = "embeddings"
    hops: int = 0
    rollouts: str = "wrong"
    alignment: str = "predictor"
    occurrence: str = "last"
    statistics: str = "response"
    total: float = 4.0
    share: float = 0.2
    dump_dir: str | None = None
    dump_responses: int = 32
    log_pictures: int = 0

    def __post_init__(self):
        if not isinstance(self.weights, str):
            raise _bad_value("weights", self.weights, "a name")
        several = isinstance(self.score, list | tuple)
        names = [name for name in self.scores if isinstance(name, str)]
        if len(set(names)) < len(self.scores) or several and len(names) < 2:
            raise _bad_value("score", self.score, "a name, or a list of different names to multiply")
        for name in ("std", "mean", "w_min", "w_max", "total", "share"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value < math.inf:
                raise _bad_value(name, value, "a finite number")
            if value < 0:
                raise _bad_value(name, value, "a number >= 0")
            if value > LARGEST:
                raise _bad_value(name, value, f"a number <= {LARGEST:g}")
        if self.w_max < self.w_min:
            raise _bad_value("w_max", self.w_max, f"a number >= w_min ({self.w_min})")
        if not self.w_min <= self.mean <= self.w_max:
            raise _bad_value("mean", self.mean, f"a number from w_min to w_max ({self.w_min} to {self.w_max})")
        if self.total == 0:
            raise _bad_value("total", self.total, "a number > 0")
        if not 0 < self.share <= 1:
            raise _bad_value("share", self.share, "a number > 0 and <= 1")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise _bad_value(name, getattr(self, name), " | ".join(allowed))
        modules = self.modules
        if not isinstance(modules, list) or not all(map(_is_path, modules)):
            raise _bad_value("modules", modules, "a list of files and pkg:// names: [rules.py, pkg://my_package.rules]")
        if isinstance(self.hops, bool) or not isinstance(self.hops, int) or not 0 <= self.hops <= HOPS:
            raise _bad_value("hops", self.hops, f"a whole number from 0 to {HOPS}")
        if self.dump_dir is not None and not _is_path(self.dump_dir):
            raise _bad_value("dump_dir", self.dump_dir, "a folder")
        for name, least in (("dump_responses", 1), ("log_pictures", 0)):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < least:
                raise _bad_value(name, count, f"a whole number >= {least}")

    @property
    def scores(self) -> list[str]:
        """The names of which the score is the product."""
        return list(self.score) if isinstance(self.score, list | tuple) else [self.score]

    @classmethod
    def from_options(cls, options: Mapping | None) -> "GrailConfig":
        """The options a user wrote, defaults filled in.

        Args:
            options: mapping from option to value (a dict or an OmegaConf section), or None for no options.

        Raises:
            ValueError: an unknown option or a value out of range.
        """
        if options is None:
            return cls()
        if not isinstance(options, Mapping):
            raise ValueError(f"{SECTION}={options!r} is not a section of options; write +{SECTION}.std=0.3")
        allowed = [option.name for option in fields(cls)]
        for name in options:
            if name not in allowed:
                close = difflib.get_close_matches(str(name), allowed, n=1)
                hint = f"did you mean {close[0]}? " if close else ""
                raise ValueError(
                    f"unknown option {SECTION}.{name}={options[name]!r}; {hint}allowed: {', '.join(allowed)}"
                )
        return cls(**options)


def _is_path(value: object) -> bool:
    """A name that a file could have: the operating system's ends at a NUL, and has no half of a character."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def _bad_value(name: str, value: object, allowed: str) -> ValueError:
    return ValueError(f"{SECTION}.{name}={value!r:.200} is not allowed; allowed: {allowed}")
