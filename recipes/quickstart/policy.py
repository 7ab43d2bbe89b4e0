"""The policy of the quick start: a small Qwen3, built from scratch, that makes mistakes.

    python -m recipes.quickstart.policy outputs/quickstart/policy

It imitates worked solutions (data.py) of which every fifth step is wrong, as a model does that has read much and
checked little. Sampled, it is right on every second or third problem; its most likely answer is better than that,
and reinforcement learning has something to find. Simplified: one token a character, one fixed length, no
evaluation. The result is an ordinary Hugging Face folder, written in one go: an interrupted build leaves nothing.
"""

import os
import random
import sys
import tempfile
from pathlib import Path

import torch
from rich.progress import track
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from recipes.quickstart.data import draw_problem, work_out

STEPS, BATCH = 300, 64
MISTAKES = 0.2
LR=3e-3
B2=0.95
FF=256
SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer():
    pieces = SPECIAL + list("0123456789+-*= {}") + ["\\boxed"]
    tokenizer = Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token="<|pad|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\\boxed|."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIAL[2:],
        chat_template=CHAT_TEMPLATE,
        model_max_length=256,
    )


def demonstrations(tokenizer, rng):
    """One batch. Every problem and every solution has the same number of tokens: nothing is padded."""
    problems = [draw_problem(rng) for _ in range(BATCH)]
    texts = [f"<|user|>{problem}<|assistant|>{work_out(problem, rng, MISTAKES)}<|end|>" for problem in problems]
    inputs = tokenizer(texts, return_tensors="pt").input_ids
    labels = inputs.clone()
    labels[:, : 1 + len(problems[0]) + 1] = -100  # the problem is given, not imitated
    return inputs, labels


def build_model(tokenizer):
    torch.manual_seed(0)
    rng = random.Random(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=FF,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=32,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, B2), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LR, total_steps=STEPS, pct_start=0.1)
    for _ in track(range(STEPS), "Building the policy"):
        inputs, labels = demonstrations(tokenizer, rng)
        model(input_ids=inputs, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model
