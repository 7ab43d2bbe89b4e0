"""The study's starting policies: small Qwen3s that imitate worked solutions with mistakes in them.

    python -m recipes.study.policy chains outputs/study/chains/policy

Between a task (tasks.py) and train.py; built on the device that verl finds. As of the quick start's policy, the result
is an ordinary Hugging Face folder, there as a whole or not at all; which one it is, task, sizes and steps decide.
"""

import argparse
import random
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from verl.utils.device import get_device_name

from recipes.quickstart.policy import SPECIAL, save_whole, train_policy, with_chat
from recipes.study.tasks import SMALL


def demonstration(task, rng: random.Random) -> tuple[str, str]:
    """A problem and a solution as a policy reads and writes them."""
    problem = task.draw_problem(rng)
    return f"<|user|>{problem}<|assistant|>", "".join(s.text for s in task.work_out(problem, rng)) + "<|im_end|>"


def build_tokenizer(task) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every digit and every sign is a token, and every word of the task one. Padding stands for
    what no task writes, such as the line break, whose one token verl asks of a Qwen3."""
    rng = random.Random(0)
    texts = ["".join(demonstration(task, rng)) for _ in range(2000)]
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=1000, min_frequency=2, special_tokens=SPECIAL, show_progress=False)
    )
    return with_chat(tokenizer)


def demonstrations(task, tokenizer, rng: random.Random, size: int):
    """A batch; padding and problems are not imitated."""
    pairs = [demonstration(task, rng) for _ in range(size)]
    batch = tokenizer([problem + solution for problem, solution in pairs], padding=True, return_tensors="pt")
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    for row, (problem, _) in enumerate(pairs):
        labels[row, : len(tokenizer(problem).input_ids)] = -100
    return batch.input_ids, batch.attention_mask, labels


def build(task_name: str, folder: Path, steps: int | None = None, hidden_size: int = 96, layers: int = 4) -> None:
    """Nothing, where the folder is there.

    Raises:
        FileNotFoundError: it is not, and the task's policy is a language model.
    """
    if folder.exists():
        return
    if task_name not in SMALL:
        raise FileNotFoundError(
            f"{folder} is not there: python -m recipes.study.imitate {task_name} MODEL {folder} makes it"
        )
    print(f"{folder} is not there; building it takes some minutes, once", flush=True)
    task = SMALL[task_name]
    steps = steps or task.imitation_steps
    tokenizer, rng = build_tokenizer(task), random.Random(0)
    batches = (demonstrations(task, tokenizer, rng, 64) for _ in range(steps))
    model = train_policy(tokenizer, batches, steps, hidden_size, layers, device=get_device_name())
    save_whole(folder, model, tokenizer)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=SMALL)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hidden-size", type=int, default=96)
    given = parser.parse_args()
    build(given.task, given.folder, hidden_size=given.hidden_size)
