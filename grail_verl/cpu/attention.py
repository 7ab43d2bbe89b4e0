"""Attention for generating one token: transformers' sdpa, without copying the keys for every query head.

With grouped queries and a padding mask, transformers repeats keys and values per query head at every step,
which costs a small model as much as all the rest. A lone query token needs no order among the queries, so the
heads that share a key can stand in as the rows of one query instead.
"""

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "sdpa_grouped"


def grouped_attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """query (B, heads, Q, D), key, value (B, key heads, T, D), mask (B, 1, Q, T) -> (B, Q, heads, D)."""
    batch, heads, queries, size = query.shape
    if queries > 1 or heads == key.shape[1]:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    rows = query.reshape(batch, key.shape[1], heads // key.shape[1], size)
    output = torch.nn.functional.scaled_dot_product_attention(
        rows, key, value, attn_mask=attention_mask, scale=scaling
    )
    return output.reshape(batch, 1, heads, output.shape[-1]), None


def use_grouped_attention(model) -> None:
    """Switch a model that runs on sdpa; one with another attention keeps it."""
    if model.config._attn_implementation == "sdpa":
        ALL_ATTENTION_FUNCTIONS.register(NAME, grouped_attention)
        ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
