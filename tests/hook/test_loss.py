"""What verl's losses make of weighted advantages, token by token, and which losses are refused."""

import copy
import logging
from functools import cache, partial

import pytest
import torch
import verl  # noqa: F401  loads the plugin
from composed import composed
from omegaconf import OmegaConf
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, agg_loss, get_policy_loss_fn
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.utils.losses import ppo_loss

from grail_verl.hook.launch import prepare
from grail_verl.hook.loss import refuse_blind
from grail_verl.hook.worker import GrailTrainingWorker

pytestmark = pytest.mark.fast

LOSS = "actor_rollout_ref.actor.policy_loss.loss_mode"
NEEDED = {
    "dro": {"policy_loss.dro_beta": 0.5},
    "bypass_mode": {"policy_loss.rollout_correction": {}},
    "clip_cov": {"policy_loss.clip_cov_lb": 1e9},  # no token is drawn to be left out
}
BLIND = {"geo_mean"}  # of verl's, those that weights are lost in
# Its penalty, on some tokens or on all, adds to the gradient where the policy has moved.
ADDITIVE = {"dro", "kl_cov"}
WEIGHTS = [0.5, 3.0, 1.0, 0.25, 2.0, 5.0]
MASK = [1, 1, 1, 1, 1, 0]  # a tool wrote the last token


@cache
def composed_once():
    return composed("algorithm.adv_estimator=grail", "actor_rollout_ref.actor.use_dynamic_bsz=True")


def put(config, settings: dict):
    config = copy.deepcopy(config)
    for name, value in settings.items():
        OmegaConf.update(config, name, value, force_add=True)
    return config


def actor(name: str, **settings):
    """verl's config of an actor with this policy loss."""
    settings = {"policy_loss.loss_mode": name, **NEEDED.get(name, {}), **settings}
    return omega_conf_to_dataclass(put(composed_once().actor_rollout_ref.actor, settings))


def token_gradients(name: str, weights: list[float], moved: list[float]) -> torch.Tensor:
    """(2, T): of a right and a wrong response, with respect to the log-probs, by a policy that has moved so far."""
    config = actor(name)
    config.global_batch_info.update(dp_size=1, batch_num_tokens=10, global_batch_size=2, loss_scale_factor=None)
    old = torch.tensor([[-0.3, -1.0, -0.1, -2.0, -0.5, -1.5]] * 2)
    log_probs = (old + torch.tensor(moved)).requires_grad_()
    mask = torch.tensor([MASK] * 2, dtype=torch.bool)
    loss, _ = get_policy_loss_fn(name)(
        old_log_prob=old,
        log_prob=log_probs,
        advantages=torch.tensor([[1.5], [-0.5]]) * torch.tensor(weights),
        response_mask=mask,
        loss_agg_mode="token-mean",
        config=config,
        rollout_is_weights=None,
    )
    return torch.autograd.grad(loss, log_probs)[0]


@pytest.mark.parametrize("name", sorted(set(POLICY_LOSS_REGISTRY) - BLIND))
def test_a_tokens_gradient_relative_to_anothers_follows_the_weights(name):
    """By a policy that has not moved every log-prob's gradient is −A: of a response whose A is one number, the tokens'
    are to one another as their weights."""
    for row in token_gradients(name, WEIGHTS, [0.0] * 6):
        assert row[5] == 0 and row[2] != 0
        assert (row / row[2])[:5].tolist() == pytest.approx(WEIGHTS[:5], rel=1e-5)


@pytest.mark.parametrize("name", sorted(set(POLICY_LOSS_REGISTRY) - BLIND - ADDITIVE))
def test_and_where_the_policy_has_moved_each_is_multiplied_by_its_weight(name):
    moved = [0.02, -0.02, 0.05, -0.05, 0.0, 0.0]
    plain, weighted = token_gradients(name, [1.0] * 6, moved), token_gradients(name, WEIGHTS, moved)
    assert plain[:, :5].all()
    torch.testing.assert_close(weighted, plain * torch.tensor(WEIGHTS))


@pytest.mark.parametrize("name", sorted(BLIND))
def test_a_loss_of_verls_that_loses_the_weights_is_refused_before_ray_starts(name):
    with pytest.raises(ValueError, match=rf"policy_loss\.loss_mode='{name}' is not allowed") as error:
        prepare(put(composed_once(), {LOSS: name}))
    assert "whatever their weights" in str(error.value)


@pytest.mark.parametrize("name", sorted(set(POLICY_LOSS_REGISTRY) - BLIND))
def test_every_other_loss_of_verls_is_allowed(name, caplog):
    refuse_blind(actor(name))
    elsewhere = {"policy_loss.clip_cov_lb": -1e9, "policy_loss.clip_cov_ratio": 0.3, "policy_loss.kl_cov_ratio": 0.5}
    large = {"use_kl_loss": True, "kl_loss_coef": 1e4, "loss_agg_mode": "seq-mean-token-sum-norm"}
    refuse_blind(actor(name, **elsewhere, **large, loss_scale_factor=10**9))
    assert not caplog.records


def test_distillation_without_the_task_has_no_policy_loss_to_weigh():
    alone, enabled = {"distillation.distillation_loss.use_task_rewards": False}, {"distillation.enabled": True}
    prepare(put(composed_once(), enabled))
    prepare(put(composed_once(), alone))  # nothing is distilled
    with pytest.raises(ValueError, match=r"distillation_loss\.use_task_rewards=False is not allowed"):
        prepare(put(composed_once(), {**enabled, **alone}))


# Losses of one's own: token-level losses out of advantages, log-probs and a mask.
OWN = {
    "ignores them": (lambda advantages, log_prob, mask: -log_prob, True),
    "takes the sign": (lambda advantages, log_prob, mask: -advantages.sign() * log_prob, True),
    "averages a response": (lambda advantages, log_prob, mask: -advantages.mean(-1, True) * log_prob, True),
    "takes the first token's": (lambda advantages, log_prob, mask: -advantages[:, :1] * log_prob, True),
    "takes the last token's, later tokens less": (
        lambda advantages, log_prob, mask: -advantages[:, -1:] * log_prob * 0.9 ** torch.arange(log_prob.shape[-1]),
        True,
    ),
    "averages all": (lambda advantages, log_prob, mask: -advantages.mean() * log_prob.exp(), True),
    "trains on right ones alone": (lambda advantages, log_prob, mask: -advantages.clamp(min=0) * log_prob, False),
    "whitens": (
        lambda advantages, log_prob, mask: -(advantages - advantages.mean()) / advantages.std() * log_prob,
        False,
    ),
    "bounds": (lambda advantages, log_prob, mask: -advantages.tanh() * log_prob, False),
    "draws tokens": (
        lambda advantages, log_prob, mask: -advantages * log_prob * (torch.rand(log_prob.shape) < 0.7),
        False,
    ),
}


@pytest.fixture
def own(monkeypatch):
    def register(token_loss):
        def loss(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights):
            losses = token_loss(advantages, log_prob, response_mask)
            return agg_loss(losses, response_mask, loss_agg_mode, **config.global_batch_info), {}

        monkeypatch.setitem(POLICY_LOSS_REGISTRY, "own", loss)

    return register


@pytest.mark.parametrize("name", OWN)
def test_a_loss_of_ones_own_is_refused_only_if_it_cannot_see_which_token_weighs_what(name, own):
    token_loss, blind = OWN[name]
    own(token_loss)
    state = torch.get_rng_state()
    if blind:
        with pytest.raises(ValueError, match="loss_mode='own' is not allowed"):
            refuse_blind(actor("own"))
    else:
        refuse_blind(actor("own"))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_cannot_be_tried_is_told_and_let_through(own, caplog):
    def on_a_gpu(advantages, log_prob, mask):
        raise NotImplementedError("this kernel needs a GPU")

    own(on_a_gpu)
    with caplog.at_level(logging.WARNING):
        refuse_blind(actor("own"))
    assert "loss_mode='own'" in caplog.text and "this kernel needs a GPU" in caplog.text


def test_a_loss_that_trains_none_of_the_tokens_tried_is_told_and_let_through(own, caplog):
    """One that leaves out what the policy was sure of, here all of it: nothing is known of how it takes weights."""
    own(lambda advantages, log_prob, mask: -advantages * log_prob * (log_prob < -0.7))
    with caplog.at_level(logging.WARNING):
        refuse_blind(actor("own"))
    assert "it trains none of the tokens that it was tried with" in caplog.text


def test_a_loss_that_only_the_worker_knows_is_refused_there(own):
    """One that `external_lib` registers: main_ppo's process does not import it."""
    prepare(put(composed_once(), {LOSS: "own"}))
    own(OWN["takes the sign"][0])
    worker = object.__new__(GrailTrainingWorker)  # the rest of it needs an engine
    with pytest.raises(ValueError, match="loss_mode='own' is not allowed"):
        worker.set_loss_fn(partial(ppo_loss, config=actor("own")))
    worker.set_loss_fn(partial(ppo_loss, config=actor("vanilla")))
    assert worker.loss_fn.func is ppo_loss
