"""The gradient of a loss with respect to an activation (the leaf) of a causal language model, and logits where they are
asked for: passes that scores are made by.

On the data's way within the scores: options → responses → answers → *scores* → weights → advantages. Knows torch and
the manner of transformers' causal language models; nothing of verl, Ray or FSDP. The model handed in may be wrapped by
FSDP or PEFT: hooks go on the inner modules, the wrapper is what is called.

Shapes: B rows, S input positions (a packed micro-batch is one row), N positions at which the head runs, D hidden size,
V vocabulary.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

LOSS_PART = 256  # tokens whose logits are held in float32 at once


def leaf_module(model: nn.Module, leaf: str) -> nn.Module:
    """The module whose output is the leaf.

    Args:
        model: a causal LM; n = number of its blocks, hidden_states[0] the embedding's output.
        leaf: embeddings (hidden_states[0]), first ([1]), middle ([n // 2]) or last ([n - 1]).

    Raises:
        ValueError: the model has no list of transformer blocks as long as its config says.
    """
    if leaf == "embeddings":
        return model.get_input_embeddings()
    blocks = transformer_blocks(model)
    index = {"first": 1, "middle": len(blocks) // 2, "last": len(blocks) - 1}[leaf]
    return blocks[index - 1] if index > 0 else model.get_input_embeddings()


def transformer_blocks(model: nn.Module) -> nn.ModuleList:
    depth = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ValueError(f"{type(model).__name__} has no ModuleList of {depth} transformer blocks")


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """eval(), so that dropout is off; every module's own mode is put back, also on failure."""
    found = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in found.items():
            module.training = training


@contextlib.contextmanager
def _recomputing_blocks(model: nn.Module, leaf: str, recompute: Callable[[], bool]) -> Iterator[None]:
    """Lets each block behind the leaf ask, when its turn comes, whether to keep its activations for the
    backward pass or to recompute them there. The last block's are needed at once, so it keeps them."""
    blocks, at = list(transformer_blocks(model)), leaf_module(model, leaf)
    behind = blocks[blocks.index(at) + 1 : -1] if at in blocks else blocks[:-1]
    # What lies within FSDP1's wrappers: parameters are not gathered once more for the recomputation.
    behind = [getattr(block, "module", block) for block in behind]

    def asking(forward):
        def wrapper(*args, **kwargs):
            if not recompute():
                return forward(*args, **kwargs)
            return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

        return wrapper

    found = {block: vars(block).get("forward") for block in behind}
    try:
        for block in behind:
            block.forward = asking(block.forward)
        yield
    finally:
        for block, forward in found.items():
            if forward is None:
                del block.forward
            else:  # an instance's own, as of verl's activation offloading
                block.forward = forward


def _hidden(output) -> Tensor:
    """Of a block's output."""
    return output[0] if isinstance(output, tuple) else output


def _parameters(block: nn.Module) -> set[nn.Parameter]:
    """With FSDP1's flat ones, which use_orig_params keeps beside the modules' own."""
    flat = (getattr(module, "_flat_param", None) for module in block.modules())
    return {*block.parameters(), *(parameter for parameter in flat if parameter is not None)}


@contextlib.contextmanager
def _head_at(model: nn.Module, keep_BS: Tensor) -> Iterator[None]:
    """The head sees only the hidden states at keep_BS."""

    def select(module, args):
        return (args[0][keep_BS], *args[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def _cut_at_leaf(
    model: nn.Module, leaf: str, perturb: Callable[[Tensor], Tensor]
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Two hooks on the forward, gone afterwards, also on failure: the blocks' parameters are frozen once the
    embedding is done, and the leaf module's output goes on, perturbed, as a fresh autograd leaf. Both are handed out
    in the list.

    Frozen, linear layers keep no inputs for gradients that nobody wants; and FSDP1, which frees a block when
    its parameters' gradients are done, goes by the block's inputs instead. Not earlier: FSDP2 sets itself up
    in the first forward, and takes what is frozen by then for frozen for good. And not the parameters outside
    the blocks, which are FSDP's root's: FSDP1 has hung hooks on them by then.
    """
    blocks = transformer_blocks(model)
    trained = [parameter for block in blocks for parameter in _parameters(block) if parameter.requires_grad]
    cuts: list[tuple[Tensor, Tensor]] = []

    def freeze(module, args, output):
        for parameter in trained:
            parameter.requires_grad_(False)
        return output.detach()

    def cut(module, args, output):
        hidden = _hidden(output).detach()
        cuts.append((hidden, perturb(hidden).requires_grad_()))
        onward = cuts[-1][1].view_as(hidden)  # FSDP1 hangs a hook on it, which autograd.grad refuses on a leaf
        return (onward, *output[1:]) if isinstance(output, tuple) else onward

    def thaw():
        for parameter in trained:
            parameter.requires_grad_(True)

    with contextlib.ExitStack() as stack:
        stack.callback(thaw)
        stack.callback(model.get_input_embeddings().register_forward_hook(freeze).remove)
        stack.callback(leaf_module(model, leaf).register_forward_hook(cut).remove)
        yield cuts


@contextlib.contextmanager
def _own_parameters_afterwards(model: nn.Module) -> Iterator[None]:
    """FSDP1 that shards nothing, as on one rank, puts a module's own parameters (use_orig_params) back once it has
    their gradient, or at the end of a forward without. Those outside the blocks get none here, and a forward may fail:
    views would stay in their place, which the next forward takes for the parameters, and no optimizer knows."""
    try:
        yield
    finally:
        for module in model.modules():
            handle = module._handle if isinstance(module, FullyShardedDataParallel) else None
            if handle is not None and handle._use_orig_params and not handle.uses_sharded_strategy:
                handle.reshard(free_unsharded_flat_param=False)


class LeafGraph(NamedTuple):
    """A forward pass whose graph begins at the leaf.

    Attributes:
        output: the model's.
        activation: (B, S, D), the leaf as the model computed it.
        leaf: (B, S, D), to differentiate for.
        last_hidden: (B, S, D), of the last block. What lies behind it, norm and head, is each position's own.
    """

    output: ModelOutput
    activation: Tensor
    leaf: Tensor
    last_hidden: Tensor


@contextlib.contextmanager
def leaf_graph(
    model: nn.Module,
    inputs: Mapping[str, object],
    keep_BS: Tensor,
    leaf: str = "embeddings",
    recompute: Callable[[], bool] = lambda: False,
    perturb: Callable[[Tensor], Tensor] = lambda activation: activation,
) -> Iterator[LeafGraph]:
    """A forward pass for backward passes within the block. No parameter gets a gradient.

    Args: as of `leaf_gradient`.
    """
    last: list[Tensor] = []

    def keep(module, args, output):
        last.append(_hidden(output))

    def run() -> LeafGraph:  # nothing here holds on to the logits
        output = model(**inputs, use_cache=False)
        return LeafGraph(output, *cuts[0], last[0])

    with (
        torch.enable_grad(),
        _own_parameters_afterwards(model),
        _recomputing_blocks(model, leaf, recompute),
        _cut_at_leaf(model, leaf, perturb) as cuts,
        _head_at(model, keep_BS),
        contextlib.ExitStack() as stack,
    ):
        stack.callback(transformer_blocks(model)[-1].register_forward_hook(keep).remove)
        yield run()


def can_walk_again(model: nn.Module) -> bool:
    """A graph may be walked by several backward passes. Not under FSDP1, which gathers a block's parameters for the
    first backward pass after a forward alone; FSDP2 gathers for each. Nor through liger-kernel's modules: their
    backward pass writes gradients over what the forward saved, and autograd does not see it."""
    return not any(isinstance(module, FullyShardedDataParallel) or _by_liger(module) for module in model.modules())


def _by_liger(module: nn.Module) -> bool:
    """liger-kernel, and verl's use_liger by it, binds a forward of its own to a module as it stands."""
    return (getattr(module.forward, "__module__", None) or "").startswith("liger_kernel.")


def leaf_gradient(
    model: nn.Module,
    inputs: Mapping[str, object],
    keep_BS: Tensor,
    loss: Callable[[ModelOutput], Tensor],
    leaf: str = "embeddings",
    recompute: Callable[[], bool] = lambda: False,
    loss_scale: float = 1.0,
    perturb: Callable[[Tensor], Tensor] = lambda activation: activation,
) -> tuple[Tensor, Tensor]:
    """A leaf's activation and the gradient of a loss there, by one forward and one backward pass.

    No parameter gets a gradient. The caller chooses the mode (see `evaluating`) and autocast.

    Args:
        model: causal LM, possibly wrapped.
        inputs: the model's keyword inputs, padded (B, S) or packed (1, S).
        keep_BS: bool, N positions; the head runs on these alone, in row-major order.
        loss: the model's output, of which `logits` are (N, V) → scalar.
        leaf: embeddings | first | middle | last.
        recompute: asked before each block's forward: recompute it in the backward pass, instead of keeping
            its activations until then?
        loss_scale: multiplies the loss during the backward pass, for float16; the gradient is that without.
        perturb: what goes on through the model in the activation's place; the gradient is taken there.

    Returns:
        The activation as the model computed it, and the gradient: (B, S, D) float32 each, detached.
    """
    with leaf_graph(model, inputs, keep_BS, leaf, recompute, perturb) as graph:
        (gradient,) = torch.autograd.grad(loss(graph.output) * loss_scale, graph.leaf)
        return graph.activation.detach().float(), gradient.float() / loss_scale


def logits_at(model: nn.Module, inputs: Mapping[str, object], keep_BS: Tensor) -> Tensor:
    """(N, V): the logits at keep_BS, by `forward_at`."""
    return forward_at(model, inputs, keep_BS).logits


def forward_at(model: nn.Module, inputs: Mapping[str, object], keep_BS: Tensor) -> ModelOutput:
    """The model's output by a forward pass without gradient, the head at keep_BS alone: `logits` are (N, V). Arguments
    as of `leaf_gradient`. Under verl's fused kernels `log_probs` and `entropy` are there instead."""
    with torch.no_grad(), _own_parameters_afterwards(model), _head_at(model, keep_BS):
        return model(**inputs, use_cache=False)
