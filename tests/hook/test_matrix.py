"""Every way to run verl's FSDP actor: the same weights as on the plain model, nothing left behind, verl's update.

docs/matrix.md is the table for users; each of its rows names a test, most of them a case here.
"""

from importlib import import_module

import harness
import pytest
import tiny
import torch
from harness import Case

FSDP = "actor_rollout_ref.actor.fsdp_config."
MODEL = "actor_rollout_ref.model."
PADDED = MODEL + "use_remove_padding=False"
CHECKPOINTED = MODEL + "enable_gradient_checkpointing=True"
PLAIN = MODEL + "enable_gradient_checkpointing=False"
ORIGINAL = FSDP + "use_orig_params=True"
NOT_RESHARDED = FSDP + "reshard_after_forward=False"
FUSED = [MODEL + "use_fused_kernels=True", MODEL + "fused_kernel_options.impl_backend=torch"]
TRITON = [MODEL + "use_fused_kernels=True", MODEL + "fused_kernel_options.impl_backend=triton"]
BF16 = [FSDP + "mixed_precision.param_dtype=bf16"]  # verl's default on a GPU
FP16 = [FSDP + "mixed_precision.param_dtype=fp16"]
HYBRID = FSDP + "fsdp_size=2"
PADDED_LENGTH = [FSDP + "pad_to_length=True", FSDP + "pad_to_length_bucket=32"]
LORA = [MODEL + "lora_adapter_path={adapter}", MODEL + "lora_rank=4", MODEL + "target_modules=all-linear"]
ULYSSES = [
    FSDP + "ulysses_sequence_parallel_size=2",
    "actor_rollout_ref.actor.ulysses_sequence_parallel_size=2",
    MODEL + "override_config.attn_implementation=ulysses",
]
BY_ROWS = [
    "actor_rollout_ref.actor.use_dynamic_bsz=False",
    "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=False",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=2",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=2",
]
ONE_ROW = [override.replace("=2", "=1") for override in BY_ROWS]
EAGER = MODEL + "override_config.attn_implementation=eager"
HOPS = {"hops": 3, "rollouts": "all"}
CARRIED = {"score": ["saliency", "surprise"], "hops": 3, "weights": "proportional", "total": 9.0}  # +grail=carried
OAR_G = {"score": "oar_g", "weights": "reshaped"}
SHARE = {"weights": "top_share", "share": 0.4}
FINE = 0.01  # of OAR-G's weights, which go up to 3 times the mean
LONG = ["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=4096"]
ROUGH = 0.05  # bfloat16 keeps 8 bits: weights of spread 1 agree to a twentieth
MODELS = ["qwen2", "llama", "mistral", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "qwen3_moe", "mixtral"]


def per_sample_temperature(rank: int):
    data = harness.rollout(rank)
    data["temperature"] = torch.linspace(0.5, 1.5, len(data))
    return data


def padding_rows(rank: int):
    """As the V1 trainer adds them where a batch does not divide: no valid token."""
    data = harness.rollout(rank)
    for name in ("response_mask", "loss_mask", "advantages"):
        rows = [row * (index not in (1, 3)) for index, row in enumerate(data[name].unbind())]
        data[name] = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    return data


def shuffled(rank: int):
    return harness.rollout(rank, mini_batch_size=4, epochs=3, dataloader_kwargs={"shuffle": True})


# Pieces of a response, and whether the policy wrote them: otherwise a tool did.
TURNS = {
    "a tool before the answer": [("3 + 4 = ", 1), ("7 7", 0), (r", so \boxed{7}. Done<|im_end|>", 1)],
    "a tool's box behind it": [(r"4 4 so \boxed{7} ", 1), (r"is \boxed{9}", 0), (" it is done<|im_end|>", 1)],
    "a tool's tokens inside it": [(r"we get \boxed{4", 1), ("2", 0), ("}<|im_end|>", 1)],
    "a tool's box alone": [("no answer", 1), (r"\boxed{5}", 0), ("done<|im_end|>", 1)],
    "thinking first": [(r"<think> 3 + 4 = \boxed{1} or \boxed{2}</think> the answer is \boxed{3}<|im_end|>", 1)],
    "one token": [("7", 1)],
    "truncated": [(r"9 - 4 = 5 so \boxed{5", 1)],
    "long": [("3 + 4 = 7, so we get 7 - 1 " * 70 + r"\boxed{6}<|im_end|>", 1)],
}


def turns(rank: int):
    """Ways a response can look, and a prompt that holds a box itself."""
    tokenizer = tiny.tokenizer()
    pieces = [[(tokenizer.encode(text), own) for text, own in response] for response in TURNS.values()]
    return tiny.rollout_batch(
        [[token for tokens, _ in response for token in tokens] for response in pieces],
        [-1.0 - rank, 0.5 + rank] * (len(TURNS) // 2),
        [[own for tokens, own in response for _ in tokens] for response in pieces],
        prompts=[tokenizer.encode(r"3 + 4 = \boxed{x}")] * len(TURNS),
        mini_batch_size=len(TURNS),
    )


def known_entropy(rank: int):
    """As the V1 trainer hands it over: from the pass that computed the old log-probs."""
    data = harness.rollout(rank)
    data["entropy"] = torch.nested.as_nested_tensor(
        [-0.5 * row for row in data["old_log_probs"].unbind()], layout=torch.jagged
    )
    return data


def with_entropy(rank: int):
    return harness.rollout(rank, calculate_entropy=True)  # the one thing that verl compiles


def ulysses_over_sdpa():
    """verl's sequence parallelism lives in its flash attention, and flash-attn has no CPU build. So this attention
    is verl's function, with its real all-to-alls, in which sdpa stands in for flash-attn's kernel alone."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from verl.models.transformers import monkey_patch

    def kernel(query, key, value, attention_mask, query_length, *args, position_ids, softmax_scale, **kwargs):
        segment_BS = (position_ids == 0).cumsum(dim=-1)
        mask_BSS = (segment_BS[:, :, None] == segment_BS[:, None, :]).tril()
        heads_first = (tensor.transpose(1, 2) for tensor in (query, key, value))
        output = torch.nn.functional.scaled_dot_product_attention(
            *heads_first, attn_mask=mask_BSS[:, None], scale=softmax_scale, enable_gqa=True
        )
        return output.transpose(1, 2)

    def attention(module, query, key, value, attention_mask, scaling=None, position_ids=None, **kwargs):
        query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
        output = monkey_patch._ulysses_flash_attention_forward(
            query, key, value, None, query.shape[1], position_ids=position_ids, softmax_scale=scaling
        )
        return output, None

    monkey_patch._flash_attention_forward = kernel
    ALL_ATTENTION_FUNCTIONS.register("ulysses", attention)


def triton_on_a_cpu():
    """verl's Triton kernel takes tensors of a GPU alone. On a CPU this stands in for it, with outputs of its shapes:
    the tokens of all rows one behind the other."""
    from verl.utils.device import get_device_name

    def linear_cross_entropy(hidden_BSD, weight_VD, labels_BS, temperature, reduction):
        logits_NV = hidden_BSD.flatten(0, 1) @ weight_VD.T / temperature
        log_probs_NV = logits_NV.float().log_softmax(dim=-1)
        of_labels_N = log_probs_NV.gather(-1, labels_BS.reshape(-1, 1)).squeeze(-1)
        return of_labels_N, -(log_probs_NV.exp() * log_probs_NV).sum(dim=-1)

    if get_device_name() == "cpu":
        import_module("verl.utils.kernel.linear_cross_entropy").linear_cross_entropy = linear_cross_entropy


CASES = {
    "fsdp packed": Case("tied", "fsdp", {}, [CHECKPOINTED]),
    "fsdp padded": Case("untied", "fsdp", {"leaf": "middle", "alignment": "token"}, [PADDED, PLAIN]),
    "fsdp padded, by rows": Case("tied", "fsdp", {"leaf": "last", "statistics": "reasoning"}, [PADDED, *BY_ROWS]),
    "fsdp packed, by rows": Case("tied", "fsdp", {}, BY_ROWS),
    "fsdp packed, parameters as they were": Case("untied", "fsdp", {}, [CHECKPOINTED, ORIGINAL]),
    "fsdp padded, middle block, not resharded": Case("tied", "fsdp", {"leaf": "middle"}, [PADDED, NOT_RESHARDED]),
    "fsdp packed, bf16": Case("tied", "fsdp", {}, [CHECKPOINTED, *BF16], tolerance=ROUGH),
    "fsdp packed, fp16 with the gradient scaler": Case("tied", "fsdp", {}, [CHECKPOINTED, *FP16], tolerance=ROUGH),
    "fsdp packed, padded to a length": Case("tied", "fsdp", {}, PADDED_LENGTH),
    "fsdp, one rank": Case("tied", "fsdp", {}, ranks=1),
    "fsdp, one rank, parameters as they were": Case("untied", "fsdp", {}, [CHECKPOINTED, ORIGINAL], ranks=1),
    "fsdp, four ranks": Case("untied", "fsdp", {"rollouts": "all"}, ranks=4),
    "fsdp, two times two ranks": Case("tied", "fsdp", {"rollouts": "all"}, [HYBRID, CHECKPOINTED], ranks=4),
    "fsdp2 packed": Case("untied", "fsdp2", {"rollouts": "all"}, [CHECKPOINTED]),
    "fsdp2 packed, block": Case("tied", "fsdp2", {"leaf": "first", "occurrence": "first"}, [CHECKPOINTED]),
    # Blocks before the leaf have no backward pass after which FSDP2 would free them.
    "fsdp2 packed, last block, not resharded": Case("untied", "fsdp2", {"leaf": "last"}, [NOT_RESHARDED]),
    "fsdp2 padded": Case("tied", "fsdp2", {"rollouts": "correct"}, [PADDED, PLAIN]),
    "fsdp2 packed, bf16": Case("tied", "fsdp2", {}, [CHECKPOINTED, *BF16], tolerance=ROUGH),
    "fsdp2 padded, bf16": Case("untied", "fsdp2", {}, [CHECKPOINTED, PADDED, *BF16], tolerance=ROUGH),
    "fsdp2 packed, fp16 with the gradient scaler": Case("tied", "fsdp2", {}, FP16, tolerance=ROUGH),
    "fsdp2, one rank": Case("untied", "fsdp2", {}, [CHECKPOINTED], ranks=1),
    "fsdp2, four ranks": Case("tied", "fsdp2", {"rollouts": "all"}, ranks=4),
    "fsdp2, two times two ranks": Case("untied", "fsdp2", {"rollouts": "all"}, [HYBRID], ranks=4),
    "LoRA, fsdp packed": Case("tied", "fsdp", {}, [*LORA, CHECKPOINTED], plain="adapter"),
    "LoRA, fsdp2 packed": Case("tied", "fsdp2", {}, [*LORA, CHECKPOINTED], plain="adapter"),
    "LoRA, fsdp2 padded": Case("tied", "fsdp2", {"leaf": "middle"}, [*LORA, PADDED, PLAIN], plain="adapter"),
    "mini-batches, epochs, shuffled": Case("tied", "fsdp2", {}, rollout=shuffled),
    "padding rows": Case("tied", "fsdp2", {}, rollout=padding_rows),
    "per-sample temperature, packed": Case("tied", "fsdp2", {}, rollout=per_sample_temperature),
    "per-sample temperature, padded": Case("tied", "fsdp", {}, [PADDED], rollout=per_sample_temperature),
    "Ulysses, fsdp2": Case(
        "untied", "fsdp2", {}, [*ULYSSES, CHECKPOINTED], sequence_parallel=2, setup=ulysses_over_sdpa
    ),
    "Ulysses, fsdp, two times two ranks": Case(
        "tied", "fsdp", {"leaf": "middle"}, [*ULYSSES, PLAIN], ranks=4, sequence_parallel=2, setup=ulysses_over_sdpa
    ),
    # The divergence is a small difference of distributions that are almost the same, even in float32.
    "OAR-G, fsdp packed": Case("tied", "fsdp", OAR_G, [CHECKPOINTED], tolerance=FINE),
    "OAR-G, fsdp padded": Case("untied", "fsdp", OAR_G, [PADDED, PLAIN], tolerance=FINE),
    "OAR-G, fsdp2 packed": Case("untied", "fsdp2", OAR_G, tolerance=FINE, rollout=padding_rows),
    "OAR-G, fsdp2 padded": Case("tied", "fsdp2", OAR_G, [PADDED, CHECKPOINTED], tolerance=FINE),
    "OAR-G, turns": Case("tied", "fsdp2", OAR_G, LONG, rollout=turns, tolerance=FINE),
    "OAR-G, llama, four ranks": Case("llama", "fsdp2", OAR_G, ranks=4, tolerance=FINE),
    "OAR-G, LoRA": Case("tied", "fsdp2", OAR_G, [*LORA, CHECKPOINTED], plain="adapter", tolerance=FINE),
    "OAR-G, Ulysses": Case(
        "untied", "fsdp2", OAR_G, [*ULYSSES, CHECKPOINTED], sequence_parallel=2, setup=ulysses_over_sdpa, tolerance=FINE
    ),
    # Scores and weights, chosen apart. What verl has computed, or a pass of the hook's.
    "surprise, proportional": Case("tied", "fsdp", {"score": "surprise", "weights": "proportional"}),
    "surprise, standardised": Case("tied", "fsdp2", {"score": "surprise", "std": 1.0, "w_min": 0.0, "w_max": 50.0}),
    "saliency, proportional, turns": Case(
        "untied", "fsdp2", {"weights": "proportional", "total": 9.0, "rollouts": "all"}, LONG, rollout=turns
    ),
    "saliency, top share over four ranks": Case("tied", "fsdp", SHARE, ranks=4),
    "entropy of verl's, top share over two ranks": Case(
        "tied", "fsdp2", {"score": "entropy", **SHARE}, rollout=known_entropy
    ),
    "entropy by a pass, fsdp packed": Case("tied", "fsdp", {"score": "entropy", **SHARE}, [CHECKPOINTED]),
    "entropy by a pass, fsdp2 padded, standardised": Case(  # entropies are alike: to standardise them enlarges noise
        "untied", "fsdp2", {"score": "entropy", "rollouts": "all"}, [PADDED, PLAIN], rollout=per_sample_temperature,
        tolerance=1e-4,
    ),
    "entropy by a pass, proportional, turns": Case(
        "tied", "fsdp2", {"score": "entropy", "weights": "proportional"}, LONG, rollout=turns
    ),
    "entropy by a pass, reshaped, Ulysses": Case(
        "untied", "fsdp2", {"score": "entropy", "weights": "reshaped"}, ULYSSES,
        sequence_parallel=2, setup=ulysses_over_sdpa,
    ),
    "entropy by a pass, padding rows": Case("tied", "fsdp", {"score": "entropy", **SHARE}, rollout=padding_rows),
    # Carried back by hops: FSDP2 walks one graph several times, FSDP1 runs a forward for each hop.
    "hops, fsdp packed": Case("tied", "fsdp", HOPS, [CHECKPOINTED]),
    "hops, fsdp padded, kept activations": Case("untied", "fsdp", HOPS, [PADDED, PLAIN]),
    "hops, fsdp packed, parameters as they were": Case("untied", "fsdp", HOPS, [CHECKPOINTED, ORIGINAL]),
    "hops, fsdp2 packed": Case("untied", "fsdp2", HOPS, [CHECKPOINTED]),
    "hops, fsdp2 padded, by rows, kept activations": Case("tied", "fsdp2", HOPS, [PADDED, PLAIN, *BY_ROWS]),
    "hops, fsdp2 packed, not resharded": Case("untied", "fsdp2", HOPS, [NOT_RESHARDED]),
    "hops, fsdp2, turns": Case("tied", "fsdp2", {"hops": 1, "rollouts": "all"}, LONG, rollout=turns),
    "hops, per-sample temperature": Case("tied", "fsdp2", HOPS, rollout=per_sample_temperature),
    "hops, bf16, fsdp packed": Case("tied", "fsdp", HOPS, [CHECKPOINTED, *BF16], tolerance=ROUGH),
    "hops, bf16, fsdp2 padded": Case("untied", "fsdp2", HOPS, [CHECKPOINTED, PADDED, *BF16], tolerance=ROUGH),
    "hops, fp16, fsdp2 packed": Case("tied", "fsdp2", HOPS, FP16, tolerance=ROUGH),
    "hops, fsdp, two times two ranks": Case("tied", "fsdp", HOPS, [HYBRID, CHECKPOINTED], ranks=4),
    "hops, fsdp2, two times two ranks": Case("untied", "fsdp2", HOPS, [HYBRID], ranks=4),
    "hops, LoRA, fsdp packed": Case("tied", "fsdp", HOPS, [*LORA, CHECKPOINTED], plain="adapter"),
    "hops, LoRA, fsdp2 packed": Case("tied", "fsdp2", HOPS, [*LORA, CHECKPOINTED], plain="adapter"),
    "hops, Ulysses, fsdp2": Case(
        "untied", "fsdp2", HOPS, [*ULYSSES, CHECKPOINTED], sequence_parallel=2, setup=ulysses_over_sdpa
    ),
    "hops, Ulysses, fsdp, two times two ranks": Case(
        "tied", "fsdp", HOPS, [*ULYSSES, PLAIN], ranks=4, sequence_parallel=2, setup=ulysses_over_sdpa
    ),
    "hops × surprise, proportional, fsdp2": Case("tied", "fsdp2", CARRIED, [CHECKPOINTED], rollout=padding_rows),
    "hops × entropy by a pass, fsdp": Case(
        "untied", "fsdp", {"score": ["saliency", "entropy"], "hops": 2, "weights": "proportional"}, [PADDED]
    ),
    "saliency × surprise": Case("tied", "fsdp", {"score": ["saliency", "surprise"], "rollouts": "all"}),
    "turns, packed": Case("tied", "fsdp2", {"rollouts": "all"}, LONG, rollout=turns),
    "turns, padded": Case("untied", "fsdp", {"statistics": "reasoning"}, [PADDED, *LONG], rollout=turns),
    **{f"{name}, fsdp2 packed": Case(name, "fsdp2", {}, [CHECKPOINTED]) for name in MODELS[::2]},
    **{f"{name}, fsdp2 padded": Case(name, "fsdp2", {"leaf": "middle"}, [PADDED, PLAIN]) for name in MODELS[1::2]},
    **{f"{name}, fsdp packed": Case(name, "fsdp", {}, [CHECKPOINTED]) for name in ("llama", "gemma2", "qwen3_moe")},
    # Models that mix the rows of a packed micro-batch.
    "qwen3_next, fsdp2 padded": Case("qwen3_next", "fsdp2", {}, [PADDED, CHECKPOINTED]),
    "qwen3_next, fsdp packed, a row at a time": Case("qwen3_next", "fsdp", {}, [PLAIN, *ONE_ROW]),
    "gpt_oss, eager, fsdp padded": Case("gpt_oss", "fsdp", {}, [PADDED, PLAIN, EAGER]),
    "torch.compile": Case("tied", "fsdp", {}, [FSDP + "use_torch_compile=True"], rollout=with_entropy),
    # Last, each with an architecture of its own: verl replaces the forward of the model's class, for good. (On FSDP2
    # with untied embeddings verl's fused kernels do not run, with or without GRAIL.)
    "fused kernels, fsdp packed": Case("untied", "fsdp", {}, [PLAIN, *FUSED]),
    "fused kernels, entropy by a pass": Case(
        "llama", "fsdp2", {"score": "entropy", "weights": "proportional"}, [PADDED, *FUSED]
    ),
    "hops, fused kernels, fsdp packed": Case("mistral", "fsdp", HOPS, [PLAIN, *FUSED]),
    "fused kernels, fsdp2 padded": Case("qwen2", "fsdp2", {}, [PADDED, *FUSED]),
    "fused kernels by Triton, fsdp packed": Case("wide_phi3", "fsdp", {}, [PLAIN, *TRITON], setup=triton_on_a_cpu),
    "fused kernels by Triton, entropy by a pass": Case(
        "wide_gemma", "fsdp", {"score": "entropy", "weights": "proportional"}, [CHECKPOINTED, *TRITON],
        setup=triton_on_a_cpu,
    ),
}

REFUSED = {
    "qwen3_next, fsdp2 packed": Case("qwen3_next", "fsdp2", {}, [CHECKPOINTED]),
    "gpt_oss, eager, fsdp packed": Case("gpt_oss", "fsdp", {}, [PLAIN, EAGER]),
}


# What every run of the tests holds; the rest is the sweep.
ALWAYS = {
    *("fsdp packed", "fsdp padded", "fsdp padded, by rows", "fsdp packed, parameters as they were"),
    *("fsdp packed, bf16", "fsdp packed, fp16 with the gradient scaler", "fsdp packed, padded to a length"),
    *("fsdp2 packed", "fsdp2 packed, block", "fsdp2 packed, last block, not resharded", "fsdp2 padded"),
    *("fsdp2 padded, bf16", "LoRA, fsdp packed", "LoRA, fsdp2 packed", "padding rows"),
    *("per-sample temperature, packed", "Ulysses, fsdp2", "turns, packed", "qwen3_moe, fsdp2 packed"),
    *("surprise, proportional", "entropy of verl's, top share over two ranks", "entropy by a pass, fsdp packed"),
    *("entropy by a pass, fsdp2 padded, standardised", "entropy by a pass, reshaped, Ulysses"),
    *("OAR-G, fsdp padded", "OAR-G, fsdp2 packed", "fused kernels, fsdp packed", "hops, fsdp packed"),
    *("hops, fsdp2 packed", "hops, bf16, fsdp2 padded", "hops, Ulysses, fsdp2", "hops × surprise, proportional, fsdp2"),
    "fused kernels by Triton, fsdp packed",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict:
    return harness.save_policies(tmp_path_factory.mktemp, (case.policy for case in (CASES | REFUSED).values()))


@pytest.fixture(scope="module")
def results(folders, request, tmp_path_factory) -> dict:
    return harness.run(harness.asked(CASES | REFUSED, request), folders, tmp_path_factory.mktemp("results"))


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in ALWAYS else pytest.mark.sweep) for n in CASES])
def test_case(results, name):
    harness.check(CASES[name], results[name])


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_mixes_packed_rows_is_refused_on_every_rank(results, name):
    for result in results[name]:
        assert "use_remove_padding=True is not allowed" in result["error"], result
