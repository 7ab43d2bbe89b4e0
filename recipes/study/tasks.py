"""The study's tasks by their names.

`chains` and `legs` are those of the credit benchmark and of the first comparison of rules (docs/study/training.md). The
others have longer reasoning, in which one mistake hides among more tokens: so many steps without side computations, and
as many with filler between them; questions after more animals; sums of ten numbers. A language model has tasks of its
own, and its policies are made by imitate.py.
"""

from recipes.study.chains import Chains
from recipes.study.legs import Legs
from recipes.study.sums import Sums
from recipes.study.word_problems import WordProblems

LENGTHS = (5, 8, 14, 20)
FIRST = {"chains": Chains(), "legs": Legs()}
LONGER = {
    **{f"chains-{n}": Chains(n, 0, 0.0, 16 + 5 * n) for n in LENGTHS},
    **{f"chains-{n}-filler": Chains(n, 0, 0.25, 16 + 5 * n) for n in LENGTHS},
    "legs-8": Legs(8, 8, 144),
    "sums-10": Sums(10, 112),
}
SMALL = FIRST | LONGER  # their policies are built by policy.py
LANGUAGE = {"word_problems": WordProblems(), "language-sums": Sums(8, 96), "language-sums-5": Sums(5, 56)}
TASKS = SMALL | LANGUAGE
