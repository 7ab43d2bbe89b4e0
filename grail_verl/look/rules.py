"""What `--rule` names: presets as `+grail=…` has them, options, or both: `--rule carried --rule 'surprise total=2'`.

Beside attribute.py, whose command it serves. Of a preset only what stands under `algorithm.grail` is of use without a
trainer; the word `grail` is GRAIL with its default options.
"""

from collections.abc import Sequence
from importlib import resources

from omegaconf import OmegaConf

from grail_verl.credit.config import SECTION

PLAIN = "grail"
GROUP = ("grail=", "+grail=")  # as the command line of a trainer names a preset; here it is the name alone


def presets() -> dict[str, dict]:
    """Those that say anything of a rule of credit: name → options."""
    found = {PLAIN: {}}
    files = resources.files("grail_verl.conf").joinpath("grail").iterdir()
    for file in sorted((file for file in files if file.is_file()), key=lambda file: file.name):
        options = OmegaConf.select(OmegaConf.create(file.read_text(encoding="utf-8")), SECTION)
        if options is not None:
            found[file.name.removesuffix(".yaml")] = OmegaConf.to_container(options)
    return found


def options_of(words: Sequence[str], shared: Sequence[str] = ()) -> dict:
    """The options of a rule, the later ones beating the earlier: its presets, what all rules share, its own.

    Args:
        words: presets and `option=value`, of one rule.
        shared: `option=value`, of every rule.

    Raises:
        ValueError: a word that is neither.
    """
    options, known = {}, presets()
    names = [word for word in words if "=" not in word or word.startswith(GROUP)]
    for name in names:
        if name not in known:
            allowed = " | ".join(known)
            raise ValueError(f"--rule {name!r} is not allowed; allowed: {allowed}, and options such as leaf=last")
        options.update(known[name])
    for dotlist in (shared, [word for word in words if word not in names]):
        options.update(OmegaConf.to_container(OmegaConf.from_dotlist(list(dotlist))))
    return options
