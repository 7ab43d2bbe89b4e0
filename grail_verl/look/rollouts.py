"""Prompts and responses from files: verl's rollout dump (`trainer.rollout_data_dir`), or JSON lines of one's own.

Before attribute.py, which computes what weights such responses get. A line of verl's dump has `input`, `output`,
`score`, `step`; one of one's own `prompt` (text, or chat messages), `response`, and if known `reward`, `advantage`,
`step`. Either text may be a list of token ids instead, which are then the tokens; text is encoded again, and may give
other tokens than were sampled.

verl's dump leaves out special tokens. The prompt's are put back where the tokenizer's chat template accounts for the
text (`with_chat_marks`), and every response is taken to have ended by itself.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from grail_verl.credit.config import LARGEST

Text = str | list[int]


@dataclass(frozen=True)
class Rollout:
    """A response to a prompt.

    Attributes:
        prompt: text, token ids, or chat messages.
        response: text or token ids.
        step: of training; 0 where nobody told.
        row: its number in the input.
        group: responses of one step to one prompt have the same.
        reward, advantage: None where nobody told.
        stripped: special tokens are missing.
    """

    prompt: Text | list[dict]
    response: Text
    step: int = 0
    row: int = 0
    group: str = ""
    reward: float | None = None
    advantage: float | None = None
    stripped: bool = False


def read_rollouts(path: Path) -> list[Rollout]:
    """The rollouts of a file, or of a folder's *.jsonl in the order of their numbers; with advantages, see
    `with_advantages`.

    Raises:
        ValueError: a line that is none, or no line at all; names the file and the line.
        OSError: no such file.
    """
    files = [path] if not path.is_dir() else sorted(path.glob("*.jsonl"), key=lambda file: (len(file.name), file.name))
    rollouts = [rollout for file in files for rollout in _of_file(file)]
    if not rollouts:
        raise ValueError(f"{path} holds no line of a prompt and a response" + " in any *.jsonl" * path.is_dir())
    return with_advantages([replace(rollout, row=row) for row, rollout in enumerate(rollouts)])


def _of_file(file: Path) -> Iterator[Rollout]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield _of_line(json.loads(line))
            except (ValueError, TypeError, OverflowError) as error:
                raise ValueError(f"{file}, line {number}: {error}") from error


def _of_line(line: Mapping) -> Rollout:
    if not isinstance(line, dict):
        raise ValueError("no JSON object")
    stripped = {"input", "output"} <= line.keys()
    names = ("input", "output", "score") if stripped else ("prompt", "response", "reward")
    for name in names[:2]:
        if name not in line:
            has = ", ".join(line) or "nothing"
            raise ValueError(f"it has {has}; needed: prompt and response, or verl's input and output")
        kinds = (str, int) if name == "response" or stripped else (str, int, dict)
        of_list = isinstance(line[name], list) and all(type(part) in kinds[1:] for part in line[name])
        if not isinstance(line[name], str) and not of_list:
            raise ValueError(f"{name} is {line[name]!r:.80}; allowed: text, token ids" + ", messages" * (dict in kinds))
    prompt, response = (line[name] for name in names[:2])
    if stripped and isinstance(line.get("uid"), str):  # prompt, session, output
        group = line["uid"].rsplit("_", 2)[0]
    else:
        group = json.dumps([prompt, line.get("gts")], sort_keys=True)
    return Rollout(
        prompt,
        response,
        step=int(line.get("step") or 0),
        group=group,
        reward=_number(line, names[2]),
        advantage=_number(line, "advantage"),
        stripped=stripped,
    )


def _number(line: Mapping, name: str) -> float | None:
    if (value := line.get(name)) is None:
        return None
    if not abs(float(value)) <= LARGEST:
        raise ValueError(f"{name} is {value}; allowed: a finite number of at most {LARGEST:g}")
    return float(value)


def with_advantages(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """An advantage for each that has none but a reward: the reward minus the mean of its group and step, GRPO's before
    it divides by the group's standard deviation, which changes no weight. A response that is alone gets none."""
    rewards: dict[tuple, list[float]] = {}
    for rollout in rollouts:
        if rollout.reward is not None:
            rewards.setdefault((rollout.step, rollout.group), []).append(rollout.reward)

    def advantage(rollout: Rollout) -> float | None:
        group = rewards.get((rollout.step, rollout.group), [])
        if rollout.advantage is not None or rollout.reward is None or len(group) < 2:
            return rollout.advantage
        return rollout.reward - mean(group)  # exact: that of equal rewards is their value

    return [replace(rollout, advantage=advantage(rollout)) for rollout in rollouts]


def with_chat_marks(tokenizer, text: str) -> str | None:
    """The prompt of which `text` is what remains without special tokens: a user's turn, or a system's and a user's,
    under the tokenizer's chat template, thinking left open or off. None if the template makes no such text."""
    if tokenizer.chat_template is None:
        return None
    for roles in (("user",), ("system", "user")):
        for options in ({}, {"enable_thinking": False}):

            def render(contents, roles=roles, options=options) -> str:
                messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
                return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **options)

            marks = [f"content{number}content" for number in range(len(roles))]
            try:
                fixed = re.split("|".join(marks), _plain(tokenizer, render(marks)))
            except Exception as error:  # a template raises what it likes where it has no such role
                if type(error).__module__.partition(".")[0] != "jinja2":
                    raise
                continue
            if len(fixed) != len(roles) + 1:
                continue
            found = re.fullmatch("(.*?)".join(map(re.escape, fixed)), text, flags=re.DOTALL)
            if found and _plain(tokenizer, prompt := render(found.groups())) == text:
                return prompt
    return None


def _plain(tokenizer, text: str) -> str:
    """As verl's dump has it."""
    return tokenizer.decode(tokenizer.encode(text, add_special_tokens=False), skip_special_tokens=True)
