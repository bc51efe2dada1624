"""Batch normalisations of a network that only answers, folded into the convolutions before them.

With its statistics fixed, a normalisation is one factor and one offset a channel. The convolution whose output it takes can have
them in its weights and bias, and a pass over memory is saved.

Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference", section 3.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Convolution = nn.Conv2d | nn.Conv3d
Norm = nn.BatchNorm2d | nn.BatchNorm3d


@torch.no_grad()
def fold_batch_norms(module: nn.Module, run: Callable[[], object]) -> int:
    """Changes `module`, which must be in eval mode, in place.

    Args:
        run: calls the module, so that it is seen which normalisation takes the output of which convolution.

    Returns:
        How many were folded.
    """
    pairs = _convolutions_before_norms(module, run)
    for name, (convolution, norm) in pairs.items():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        weight, bias = fuse_conv_bn_weights(convolution.weight, convolution.bias, *statistics)
        convolution.weight, convolution.bias = (nn.Parameter(v.detach(), requires_grad=False) for v in (weight, bias))
        parent, _, last = name.rpartition(".")
        # timm's normalisations apply the activation, too.
        setattr(module.get_submodule(parent), last, getattr(norm, "act", None) or nn.Identity())
    return len(pairs)


class _CountUses(TorchDispatchMode):
    """Counts how many operations take each tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts.update({id(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)})
        return func(*args, **(kwargs or {}))


def _convolutions_before_norms(module: nn.Module, run: Callable[[], object]) -> dict[str, tuple[Convolution, Norm]]:
    """By name of the normalisation, where each of the two is called once and the one's output goes to the other alone."""
    produced: list[tuple[Tensor, Convolution]] = []
    taken: list[tuple[str, Norm, Tensor]] = []
    hooks, uses = [], _CountUses()

    def note_output(convolution: Convolution, _: Any, output: Tensor) -> None:
        uses.counts[id(output)] = 0  # the number may have been that of a tensor which is gone
        produced.append((output, convolution))

    def note_input(name: str, norm: Norm, inputs: tuple[Tensor, ...]) -> None:
        taken.append((name, norm, inputs[0]))

    for name, child in module.named_modules():
        if isinstance(child, Convolution):
            hooks.append(child.register_forward_hook(note_output))
        elif isinstance(child, Norm) and child.track_running_stats:
            hooks.append(child.register_forward_pre_hook(partial(note_input, name)))
    with uses:
        run()
    for hook in hooks:
        hook.remove()
    convolutions, norms = [c for _, c in produced], [n for _, n, _ in taken]
    return {
        name: (convolution, norm)
        for name, norm, seen in taken
        for output, convolution in produced
        if output is seen and uses.counts[id(output)] == 1 and convolutions.count(convolution) == 1 and norms.count(norm) == 1
    }
