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

STEPS, BATCH, LENGTH = 300, 128, 64
MISTAKES = 0.2
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
