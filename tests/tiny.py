"""Tiny real parts for tests: a byte-level BPE tokenizer, causal LMs with random weights, rollout batches."""

import torch
from tensordict import TensorDict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from verl.utils import tensordict_utils as tu

CORPUS = [r"3 + 4 = 7, so we get \boxed{7}. Done", r"the answer is \boxed{42}", "0 1 2 3 4 5 6 7 8 9 = + - * x"]

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

# What an architecture needs beside the sizes that all of them share.
SIZES = {
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
        **{"linear_key_head_dim": 8, "linear_value_head_dim": 8},
        **{"num_experts": 4, "num_experts_per_tok": 2},
        **{"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    },
}


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=320,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<pad>", "<|im_end|>"],
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<|im_end|>", chat_template=CHAT_TEMPLATE
    )


def model(
    architecture: str = "qwen3", *, tied: bool = True, layers: int = 3, seed: int = 0, vocabulary: int = 320,
    head_dim: int = 8, hidden: int = 32,
):
    """A causal LM with random weights, of an architecture by transformers' name for it."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        architecture,
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        tie_word_embeddings=tied,
        max_position_embeddings=512,
        bos_token_id=None,
        pad_token_id=0,
        eos_token_id=1,
        initializer_range=0.2,
        **SIZES.get(architecture, {}),
    )
    attention = "eager" if architecture == "gpt_oss" else "sdpa"  # it has no other on a CPU
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def save_policy(folder, **options) -> None:
    """An ordinary Hugging Face folder of `model(**options)` with `tokenizer()`."""
    model(**options).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def teach(
    folder, tokenizer, texts: list[str], steps: int = 150, architecture: str = "qwen3", **options
) -> None:
    """Saves a model that has learned the texts by heart, in seconds; as many embeddings as the tokenizer has tokens,
    since the rollout draws from these alone."""
    policy = model(architecture, seed=1, vocabulary=len(tokenizer), **options)
    batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = policy(**{name: batch[name] for name in ("input_ids", "attention_mask")}, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    policy.config.eos_token_id = policy.generation_config.eos_token_id = tokenizer.eos_token_id
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def rollout_batch(
    responses: list[list[int]],
    advantages: list[float],
    masks: list[list[int]] | None = None,
    seed: int = 0,
    prompt_lengths: tuple[int, int] = (2, 8),
    prompts: list[list[int]] | None = None,
    **extra,
) -> TensorDict:
    """A rollout batch as verl's V1 trainer hands it to the actor's `train_mini_batch` (nested, jagged).

    Prompts that are not given are random, of lengths between the two given; `extra` are non-tensor entries besides
    the usual ones.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, list] = {name: [] for name in (
        "prompts", "responses", "input_ids", "position_ids", "response_mask", "loss_mask", "advantages", "old_log_probs"
    )}
    for index, response in enumerate(responses):
        length = int(torch.randint(prompt_lengths[0], prompt_lengths[1] + 1, (1,), generator=generator))
        prompt = torch.randint(2, 250, (length,), generator=generator)
        if prompts is not None:
            prompt = torch.tensor(prompts[index])
        response = torch.tensor(response, dtype=torch.long)
        mask = torch.tensor([1] * len(response) if masks is None else masks[index], dtype=torch.long)
        tensors["prompts"].append(prompt)
        tensors["responses"].append(response)
        tensors["input_ids"].append(torch.cat([prompt, response]))
        tensors["position_ids"].append(torch.arange(len(prompt) + len(response)))
        tensors["response_mask"].append(mask)
        tensors["loss_mask"].append(mask)
        tensors["advantages"].append(advantages[index] * mask.float())
        tensors["old_log_probs"].append(-3 * torch.rand(len(response), generator=generator))
    nested = {name: torch.nested.as_nested_tensor(rows, layout=torch.jagged) for name, rows in tensors.items()}
    entries = {
        "temperature": 1.0,
        "mini_batch_size": len(responses),
        "global_batch_size": len(responses),
        "epochs": 1,
        "seed": 1,
        "dataloader_kwargs": {"shuffle": False},
        "calculate_entropy": False,
        **extra,
    }
    return tu.get_tensordict(nested, non_tensor_dict=entries)


def traces(module: torch.nn.Module) -> tuple[list, ...]:
    """What a saliency pass could leave behind: modes, hooks, flags, gradients, random state."""
    children, parameters = list(module.modules()), list(module.parameters())
    return (
        [child.training for child in children],
        [(len(c._forward_hooks), len(c._forward_pre_hooks), len(c._backward_hooks)) for c in children],
        [parameter.requires_grad for parameter in parameters],
        [parameter.grad is None for parameter in parameters],
        torch.get_rng_state().tolist(),
    )
