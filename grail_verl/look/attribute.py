r"""What weights GRAIL gives to responses that are already there, under any causal language model.

In Python, for one response, in a terminal or a notebook:

    from grail_verl import attribute

    shown = attribute("3 + 4 - 9 =", " 3 + 4 = 7, 7 - 9 = 8, \\boxed{8}", "Qwen/Qwen3-0.6B")
    shown.show()

As a command, for one or for many, whose records `grail-verl report DIR` draws:

    grail-verl attribute MODEL --prompt '3 + 4 =' --response ' 7, so \boxed{7}' leaf=last
    grail-verl attribute MODEL --rollouts rollouts/ --out records/ rollouts=all
    grail-verl attribute MODEL --rollouts rollouts/ --out records/ --rule carried --rule 'surprise total=2'

The data's way as in training, around a plain model: responses → answers → scores → weights; verl is not needed. What
differs: every response that the rule can weigh is scored, one with an advantage of 0 too, which training passes by
because it moves nothing; a response without an advantage counts as chosen. Two rules on the same responses are shown
beside each other, with numbers of how far they agree (agreement.py).
"""

import argparse
import shlex
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from yaml import YAMLError

from grail_verl.command import CommandError, add_trust_argument, mendable
from grail_verl.credit.batch import divisor
from grail_verl.credit.config import SECTION, GrailConfig
from grail_verl.credit.rows import Budget
from grail_verl.credit.rule import Rule
from grail_verl.look import rollouts
from grail_verl.look.attribution import Attribution, told_agreement
from grail_verl.look.encoding import encode
from grail_verl.look.records import SETTINGS, Writer, rule_settings
from grail_verl.look.rollouts import Rollout
from grail_verl.look.rules import options_of
from grail_verl.look.scoring import TOKENS, attributions
from grail_verl.look.words import counted
from grail_verl.model import find_model


def attribute(
    prompt: str | list[int] | list[dict],
    response: str | list[int],
    model,
    tokenizer=None,
    *,
    temperature: float = 1.0,
    trust_checkpoint: bool = False,
    **options,
) -> Attribution:
    """Scores and weights of one response, as if its advantage were one that `rollouts` chooses.

    Text is encoded as it stands, without special tokens of the tokenizer's own. That may give other tokens than a
    policy sampled; token ids are taken as they are.

    Args:
        prompt: text, token ids, or chat messages for the tokenizer's chat template.
        response: text or token ids.
        model: a loaded causal language model, or what `find_model` takes: a folder, a hub name, a checkpoint of verl's.
        tokenizer: needed with a loaded model.
        temperature: of the rollout, which divides the logits.
        trust_checkpoint: see `find_model`.
        options: GRAIL's, as under algorithm.grail: leaf="last", score="oar_g", weights="reshaped".

    Raises:
        ValueError: an option, the temperature, a prompt without a token, or text that the tokenizer lacks tokens for.
        CommandError: no such model, or a rule that needs what is not given here.
        TypeError: a tokenizer in whose tokens no answer can be located, or none with a loaded model.
    """
    rule = checked(options, temperature)
    if isinstance(model, str | Path):
        model, tokenizer = load(str(model), trust_checkpoint)
    elif tokenizer is None:
        raise TypeError("a loaded model needs its tokenizer: attribute(prompt, response, model, tokenizer)")
    encoded = encode([Rollout(prompt, response)], tokenizer)
    (attribution,) = attributions(encoded, model, tokenizer, rule, temperature)
    return attribution


def checked(options: dict, temperature: float = 1.0) -> Rule:
    """Raises ValueError: an option that is unknown, out of range, or without effect here; or a temperature by which no
    logits can be divided."""
    divisor(temperature)
    return _rule(options)


def _rule(options: dict) -> Rule:
    config = GrailConfig.from_options(options)
    rule = Rule(config)
    rule.refuse_unread(options)
    if config.dump_dir is not None:
        raise ValueError(f"{SECTION}.dump_dir={config.dump_dir!r} has no effect outside of training")
    return rule


def load(name: str, trust_checkpoint: bool = False):
    """A model, on the accelerator if there is one, and its tokenizer; raises what `find_model` does."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = find_model(name, trust_checkpoint=trust_checkpoint)
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").requires_grad_(False)
    device = torch.accelerator.current_accelerator(check_available=True)
    return model.to(device or "cpu"), AutoTokenizer.from_pretrained(path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a Hugging Face folder or hub name, or a checkpoint of verl's (global_step_N)")
    parser.add_argument("--prompt", help="text as the model shall see it")
    parser.add_argument("--response", help="what it answered")
    parser.add_argument(
        "--rollouts", type=Path, metavar="PATH",
        help="verl's trainer.rollout_data_dir, one of its files, or JSON lines with prompt and response",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder for the records of --rollouts")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the rollout; default 1.0")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"of a micro-batch, with padding; default {TOKENS}")
    parser.add_argument(
        "--rule", action="append", default=[], metavar="RULE",
        help="presets, options or both, in quotes: 'carried total=2'; given twice, both on the same responses",
    )
    add_trust_argument(parser)
    parser.add_argument("options", nargs="*", help="GRAIL's, such as leaf=last or rollouts=all")


def run(options: argparse.Namespace) -> None:
    """Shows one response, or writes the records of many.

    Raises:
        argparse.ArgumentError: arguments that do not go together.
        CommandError: an option, files that are no rollouts, or no such model.
    """
    _require_fitting(options)
    with mendable(ValueError, OSError, YAMLError):
        rules = _rules(options)
        if options.rollouts is None:
            given = [Rollout(options.prompt, options.response)]
        else:
            given = rollouts.read_rollouts(options.rollouts)
            if (options.out / SETTINGS).exists():
                raise CommandError(f"{options.out} holds records already; --out needs a new folder")
            writer = Writer(options.out)
        model, tokenizer = load(options.model, options.trust_checkpoint)
        encoded = encode(given, tokenizer)
    budget = Budget(packed=False, tokens=options.tokens)

    def by_every_rule(done=lambda rows: None) -> Iterator[tuple[Attribution, ...]]:
        """Of each response what each rule gives it."""
        given = encoded, model, tokenizer
        return zip(*(attributions(*given, rule, options.temperature, budget, done, rule is rules[0]) for rule in rules))

    console = Console()
    if options.rollouts is None:
        (of_rules,) = by_every_rule()
        _show(console, of_rules, options.rule)
        return
    first, second = options.rule if len(rules) == 2 else (None, None)
    other = rule_settings(rules[1].config, rules[1].weights.bounds, second) if second else None
    writer.write_settings(rules[0].config, rules[0].weights.bounds, name=first, second=other)
    weighted = [0] * len(rules)
    with Progress(console=console) as progress:
        task = progress.add_task("responses", total=len(encoded) * len(rules))
        for of_rules in by_every_rule(partial(progress.advance, task)):
            writer.add_responses([Attribution.record(*of_rules)])
            weighted = [count + one.weighted for count, one in zip(weighted, of_rules, strict=True)]
    if bare := sum(not one.marked for one in encoded):
        console.print(
            f"{bare:,} of {len(encoded):,} prompts are used as verl's dump has them, without special tokens: the "
            "tokenizer's chat template does not account for them", soft_wrap=True,
        )
    counts = " and ".join(f"{count:,}" for count in weighted)
    said = f"{counted(len(encoded), 'response')}, {counts} weighted; to draw them: grail-verl report {options.out}"
    console.print(said, highlight=False, markup=False, soft_wrap=True)


def _rules(options: argparse.Namespace) -> list[Rule]:
    """Raises ValueError as `checked` does; of a rule that was named, with its name; or of two that look at different
    answers."""
    divisor(options.temperature)
    words = [shlex.split(rule) for rule in options.rule]
    if [] in words:
        blank = options.rule[words.index([])]
        raise ValueError(f"--rule {blank!r} is not allowed; allowed: presets, options, or both")
    if not words:
        return [_rule(options_of([], options.options))]
    rules = []
    for name, of_rule in zip(options.rule, words, strict=True):
        written = options_of(of_rule, options.options)
        try:
            rules.append(_rule(written))
        except ValueError as error:
            raise ValueError(f"--rule {name!r}: {error}") from error
    one, other = rules[0].config.occurrence, rules[-1].config.occurrence
    if one != other:  # a record has one answer, before which two rules are compared
        first, second = options.rule
        raise ValueError(
            f"--rule {second!r}: {SECTION}.occurrence={other!r} is not allowed beside {one!r} of --rule {first!r}; "
            "allowed: the same answer for both"
        )
    return rules


def _show(console: Console, of_rules: Sequence[Attribution], names: Sequence[str]) -> None:
    for name, attribution in zip(names or [""], of_rules, strict=True):
        if name:
            console.print(name, style="bold", highlight=False, markup=False)
        console.print(attribution)
    if len(of_rules) == 2:
        console.print(f"The two rules: {told_agreement(*of_rules)}.", style="italic", highlight=False)


def _require_fitting(options: argparse.Namespace) -> None:
    one, many = (options.prompt, options.response), (options.rollouts, options.out)
    if (None in one or any(many)) and (None in many or any(part is not None for part in one)):
        raise argparse.ArgumentError(None, "needed: --prompt and --response, or --rollouts and --out")
    if unlike := [option for option in options.options if "=" not in option]:
        raise argparse.ArgumentError(None, f"{unlike[0]!r} is no option=value, such as leaf=last")
    if len(options.rule) > 2:
        raise argparse.ArgumentError(None, f"--rule is there {len(options.rule)} times; allowed: once or twice")
    if options.tokens <= 0:
        raise argparse.ArgumentError(None, f"--tokens {options.tokens} is not allowed; allowed: a number > 0")
