"""The rollout `vllm` on a CPU: verl's replica, server and adapter in Ray, a real vLLM behind them, no trainer.

A lane of its own, in an environment with vLLM: EXTRA=test,cpu-vllm bash tests/run.sh -m vllm
"""

import copy
import os
import time
from importlib.util import find_spec

import numpy as np
import pytest
import ray
import tiny
import torch
from served import Served
from test_cpu_sampling import reference

pytestmark = [pytest.mark.vllm, pytest.mark.skipif(find_spec("vllm") is None, reason="needs the extra cpu-vllm")]

VOCABULARY = len(tiny.tokenizer())
# Many more rows than there are tokens, and, with the least bucket there is, 1 MB: the embeddings leave room in the
# first one for the first layer's queries and keys alone. Their values, packed together with them, come with the second
# one, which the other layers fill to where the queries were.
SIZES = {"vocabulary": 8000, "head_dim": 32, "layers": 17}
PROMPT, RESPONSE = 16, 24
END = 1
SOCKETS: dict[str, list[str]] = {}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def served(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    tiny.save_policy(folder, tied=request.param, **SIZES)
    try:
        served = Served(
            "vllm", f"actor_rollout_ref.model.path={folder}",
            f"data.max_prompt_length={PROMPT}", f"data.max_response_length={RESPONSE}",
            "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=1",
        )
        served.policy = lambda seed: tiny.model(seed=seed, tied=request.param, **SIZES).eval()
        yield served
    finally:
        ray.shutdown()


@pytest.fixture(scope="module")
def policy(served):
    """The weights that the tests of sampling read."""
    policy = served.policy(seed=7)
    served.update(policy.state_dict().items())
    return policy


def logits(policy, prompt: list[int], response: list[int]) -> torch.Tensor:
    """(T, VOCABULARY) at each token of the response, by one forward pass; what is no token is left out."""
    with torch.no_grad():
        return policy(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1, :VOCABULARY]


def test_every_run_on_a_host_has_a_socket_of_its_own(served):
    """Each fixture is a Ray of its own, as each run is, and all of them call their job the same."""
    SOCKETS.setdefault(ray.get_runtime_context().get_job_id(), []).append(served.adapter.zmq_handle)
    (sockets,) = SOCKETS.values()
    assert len(set(sockets)) == len(sockets)


def test_after_each_update_log_probs_are_those_of_the_policy(served):
    prompts = [[2 + 5 * row + column for column in range(1 + row)] for row in range(12)]
    for step in range(5):
        policy = served.policy(step)
        served.update(policy.state_dict().items(), step)
        for prompt, output in zip(prompts, served.generate(prompts, temperature=1.0), strict=True):
            assert output.extra_fields["global_steps"] == step
            assert max(output.token_ids) < VOCABULARY
            expected = logits(policy, prompt, output.token_ids).log_softmax(-1)
            torch.testing.assert_close(
                torch.tensor(output.log_probs),
                expected.gather(1, torch.tensor(output.token_ids)[:, None]).squeeze(1),
                atol=1e-5, rtol=0,
            )


@pytest.mark.parametrize("temperature, top_k, top_p", [(1.0, -1, 1.0), (0.6, 50, 1.0), (1.5, -1, 0.9), (0.8, 50, 0.8)])
def test_tokens_are_drawn_as_asked(served, policy, temperature, top_k, top_p):
    prompt, draws = [5, 6, 7], 2000
    scores = logits(policy, prompt, [END])[0].numpy()
    probabilities = reference(scores, temperature, top_k if top_k > 0 else VOCABULARY, top_p)
    outputs = served.generate([prompt] * draws, temperature=temperature, top_k=top_k, top_p=top_p, max_tokens=1)
    frequencies = np.zeros(VOCABULARY)
    for output in outputs:
        (token,), (log_prob,) = output.token_ids, output.log_probs
        assert abs(log_prob - np.log(probabilities[token])) < 1e-5
        frequencies[token] += 1 / draws
    # Half the distance between n draws and their distribution is about sum sqrt(p (1 - p) / (2 pi n)).
    usual = np.sqrt(probabilities * (1 - probabilities) / (2 * np.pi * draws)).sum()
    assert np.abs(frequencies - probabilities).sum() / 2 < 1.5 * usual


def test_validation_is_greedy(served, policy):
    first, second = served.generate([[5, 6, 7]] * 2, temperature=0, top_k=50, top_p=0.7)
    scores = logits(policy, [5, 6, 7], first.token_ids)
    assert first.token_ids == second.token_ids == scores.argmax(-1).tolist()


def test_eight_responses_to_a_prompt_differ(served, policy):
    assert len({tuple(output.token_ids) for output in served.generate([[5, 6, 7]] * 8, temperature=1.0)}) == 8


def test_a_response_ends_where_it_is_told_to(served, policy):
    prompts = [[5, 6, token] for token in range(2, VOCABULARY)]
    ended = [output for output in served.generate(prompts, temperature=1.0) if len(output.token_ids) < RESPONSE]
    assert ended and all(output.token_ids.index(END) == len(output.token_ids) - 1 for output in ended)
    assert all(output.stop_reason == "completed" for output in ended)
    on = served.generate(prompts, temperature=1.0, ignore_eos=True)
    assert all(len(output.token_ids) == RESPONSE for output in on)
    stop = list(range(2, 50))
    for output in served.generate(prompts, temperature=1.0, stop_token_ids=stop, ignore_eos=True):
        assert not set(stop) & set(output.token_ids[:-1])
        assert output.token_ids[-1] in stop or len(output.token_ids) == RESPONSE


def test_a_response_is_cut_at_the_limits(served, policy):
    long = [5] * (PROMPT + 4)  # what a response takes of a conversation that has grown
    for prompt, asked, length in [([5], {}, RESPONSE), (long, {}, RESPONSE - 4), ([5], {"max_tokens": 3}, 3)]:
        (output,) = served.generate([prompt], temperature=1.0, ignore_eos=True, **asked)
        assert len(output.token_ids) == len(output.log_probs) == length and output.stop_reason == "completed"


def test_attention_heads_of_a_size_that_vllm_does_not_have_are_refused(served, tmp_path, monkeypatch):
    from grail_verl.cpu.vllm_rollout.server import Server

    tiny.save_policy(tmp_path)
    model = copy.deepcopy(served.replica.model_config)
    model.path = str(tmp_path)
    monkeypatch.setattr(os, "environ", {**os.environ})  # a server writes there, and this is none of its own processes
    with pytest.raises(ValueError, match="attention heads are of size 8; allowed: 32, 64,"):
        Server(
            config=served.replica.config, model_config=model, rollout_mode=served.replica.rollout_mode, workers=[],
            replica_rank=1, node_rank=0, gpus_per_node=1, nnodes=1, cuda_visible_devices="",
        )


def test_a_policy_that_came_in_part_is_refused(served):
    weights = served.policy(0).state_dict()
    del weights["model.layers.1.mlp.down_proj.weight"]
    with pytest.raises(Exception, match="the trainer sent no weights for .*model.layers.1.mlp.down_proj.weight"):
        served.update(weights.items())


def test_a_receiver_that_died_ends_the_update(served):
    *_, worker = served.processes()
    worker.kill()
    begun = time.monotonic()
    with pytest.raises(RuntimeError, match="vLLM's replica 0 took no weights"):
        served.update(served.policy(0).state_dict().items())
    assert time.monotonic() - begun < 60
