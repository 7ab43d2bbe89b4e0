"""A language model that has read worked solutions of a task: it imitates them, on the device that verl finds.

    python -m recipes.smollm2.prepare outputs/smollm2/policy
    python -m recipes.study.imitate word_problems outputs/smollm2/policy outputs/study/word_problems/policy --steps 60

Between a task and what trains or measures the policy, train.py and hop_variants.py, as policy.py is between small tasks
and those. Problems are given, not imitated; held-out ones are never drawn.
"""

import argparse
import random
from pathlib import Path

import torch
from rich.progress import track
from transformers import AutoModelForCausalLM, AutoTokenizer
from verl.utils.device import get_device_name

from recipes.quickstart.policy import save_whole
from recipes.study.response import worked
from recipes.study.tasks import LANGUAGE

BATCH, RATE, WARM_UP = 4, 1e-4, 5


def demonstrations(task, tokenizer, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels of a batch, padded on the right."""
    ids, labels = [], []
    for _ in range(BATCH):
        response = worked(tokenizer, *task.example(rng))
        ids.append(torch.tensor(response.prompt + response.tokens))
        labels.append(torch.tensor([-100] * len(response.prompt) + response.tokens))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(ids, batch_first=True, padding_value=tokenizer.pad_token_id), pad(labels, True, -100)


def imitate(task, model, tokenizer, steps: int) -> list[float]:
    """The loss of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    factor = lambda step: min((step + 1) / WARM_UP, 1 - step / steps)  # noqa: E731
    schedule, rng = torch.optim.lr_scheduler.LambdaLR(optimizer, factor), random.Random(0)
    losses = []
    for _ in track(range(steps), "Imitating"):
        ids, labels = (tensor.to(model.device) for tensor in demonstrations(task, tokenizer, rng))
        loss = model(input_ids=ids, labels=labels).loss  # causal: padding behind a response reaches none of it
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=LANGUAGE)
    parser.add_argument("model", type=Path, help="a Hugging Face folder")
    parser.add_argument("folder", type=Path, help="for the policy")
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32)
    losses = imitate(LANGUAGE[given.task], model.to(get_device_name()).train(), tokenizer, given.steps)
    print("nats a token, every tenth step:", *(f"{loss:.2f}" for loss in losses[::10]), f"… {losses[-1]:.2f}")
    save_whole(given.folder, model.eval().cpu(), tokenizer)
