"""Run losses under ``torch.compile(fullgraph=True)`` beside eager code: ``python compiled_losses.py BACKEND NAME...``

A process of its own, where no shape checker wraps the library. Ends with an error where results differ.
"""

import sys

import torch
from loss_table import LOSSES, forest_of_each_kind, some_inputs
from torch import Tensor

from gflowdial import Forest


def loss_and_gradients(loss, forest: Forest) -> list[Tensor]:
    inputs = some_inputs(forest)
    value = loss(*inputs, forest)
    return [value, *torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)]


def main(backend: str, *names: str) -> None:
    for name in names or LOSSES:
        torch._dynamo.reset()
        loss = LOSSES[name].loss
        compiled = torch.compile(loss, backend=backend, fullgraph=True)
        for forest in (*forest_of_each_kind(), Forest.from_lengths([5, 1])):
            # Compiled first: what it needs comes from `prepare` and `sibling_pairs`, not from an eager call before.
            _ = forest.prepare(0.9, 0.95).sibling_pairs
            found = loss_and_gradients(compiled, forest)
            torch.testing.assert_close(found, loss_and_gradients(loss, forest))


if __name__ == "__main__":
    main(*sys.argv[1:])
