"""Names of rules: what `register_score` and `register_weights` enter, and what options are looked up in.

At the start of the data's way: *options* → responses → answers → scores → weights → advantages.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from grail_verl.credit.config import SECTION

Kind = TypeVar("Kind")


class Registry(Generic[Kind]):
    """Name → rule, of one kind.

    Args:
        option: by which a user chooses among them.
        base: what all of them derive from.
    """

    def __init__(self, option: str, base: type[Kind]):
        self.option, self.base = option, base
        self.rules: dict[str, type[Kind]] = {}

    def register(self, name: str) -> Callable[[type[Kind]], type[Kind]]:
        """A decorator that enters a class under a name.

        Raises:
            TypeError: it is no class that derives from the kind's base.
            ValueError: the name is taken.
        """

        def enter(rule: type[Kind]) -> type[Kind]:
            if not (isinstance(rule, type) and issubclass(rule, self.base)):
                raise TypeError(f"{SECTION}.{self.option}={name}: {rule!r} does not derive from {self.base.__name__}")
            # Run again, the cell of a notebook replaces what it registered before.
            if name in self.rules and not self.rules[name].__module__ == rule.__module__ == "__main__":
                one, other = self.rules[name].__module__, rule.__module__
                raise ValueError(f"{SECTION}.{self.option}={name} is registered twice: by {one} and by {other}")
            self.rules[name] = rule
            return rule

        return enter

    def find(self, name: str) -> type[Kind]:
        """Raises ValueError: no rule has this name."""
        if name not in self.rules:
            raise ValueError(
                f"{SECTION}.{self.option}={name!r} is not allowed; allowed: {' | '.join(sorted(self.rules))}, and what "
                f"{SECTION}.modules register"
            )
        return self.rules[name]
