"""What the study compares: each method's overrides, as a user would give them to main_ppo.

Beside train.py. GRPO and verl's own losses; rules of the plugin; controls, which have a rule's weights in other places
(rules.py); two of them in smaller updates; and what knows the truth, whose weights train.py takes from truth.py.
"""

from recipes.study import truth

GRPO = ["algorithm.adv_estimator=grpo"]
GRAIL = ["algorithm.adv_estimator=grail"]


def rule(score: str, weights: str, *options: str) -> list[str]:
    return [*GRAIL, f"+algorithm.grail.score={score}", f"+algorithm.grail.weights={weights}", *options]


def control(score: str, weights: str, *options: str) -> list[str]:
    return rule(score, weights, "+algorithm.grail.modules=[pkg://recipes.study.rules]", *options)


def hops(count: int) -> str:
    return f"+algorithm.grail.hops={count}"


PRODUCT = "[saliency,surprise]"
RULES = {
    "grail": GRAIL,
    "grail_all": [*GRAIL, "+algorithm.grail.rollouts=all"],
    "oar_g": rule("oar_g", "reshaped"),
    "surprise": rule("surprise", "standardised"),
    "surprise_shares": rule("surprise", "proportional"),
    "high_entropy": rule("entropy", "top_share"),
    "grail_shares": rule("saliency", "proportional"),
    "hops1_shares": rule("saliency", "proportional", hops(1)),
    "hops3_shares": rule("saliency", "proportional", hops(3)),
    "hops5_shares": rule("saliency", "proportional", hops(5)),
    "hops3": rule("saliency", "standardised", hops(3)),
    "carried": rule(PRODUCT, "proportional", hops(3)),
    "carried_standardised": rule(PRODUCT, "standardised", hops(3)),
}
TOTALS = {
    **{f"surprise_shares_{t}": rule("surprise", "proportional", f"+algorithm.grail.total={t}") for t in (2, 8)},
    **{f"even_shares_{t}": control("surprise", "even_shares", f"+algorithm.grail.total={t}") for t in (2, 8)},
}
CONTROLS = {
    "shuffled": control("saliency", "shuffled"),
    "even_shares": control("surprise", "even_shares"),
    "shuffled_shares": control("surprise", "shuffled_shares"),
    "inverted_shares": control("surprise", "inverted_shares"),
}
LOSSES = {name: [*GRPO, f"actor_rollout_ref.actor.policy_loss.loss_mode={name}"] for name in ("kl_cov", "clip_cov")}
SMALL_UPDATES = [  # four of a step's eight groups' 64 responses, as verl cuts them
    "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16",
]
BATCHES = {"two_groups": SMALL_UPDATES, "mixed": [*SMALL_UPDATES, "actor_rollout_ref.actor.shuffle=true"]}
BATCHED = {
    f"{method}_{name}": [*overrides, *batches]
    for method, overrides in {"grpo": GRPO, "surprise_shares": RULES["surprise_shares"]}.items()
    for name, batches in BATCHES.items()
}
TRUTHS = dict.fromkeys(truth.WEIGHTS, GRPO)
METHODS = {"grpo": GRPO, **RULES, **CONTROLS, **TOTALS, **LOSSES, **BATCHED, **TRUTHS}
