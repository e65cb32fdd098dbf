"""Run losses under ``torch.compile(fullgraph=True)`` beside eager code: ``python compiled_losses.py BACKEND NAME...``

``python compiled_losses.py many NUMBER MOST NAME...`` counts compilations over streams of batches.

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


def batches(number: int) -> dict[str, list[Forest]]:
    """Streams of different batches, each of one kind: chains of one length, of several lengths, and trees."""
    generator = torch.Generator().manual_seed(0)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    def trees() -> Forest:
        number = draw(10, 60)
        parent = [draw(-1, node) if draw(0, 8) else -1 for node in range(number)]
        return Forest.from_parents(torch.tensor([-1, *parent[1:]]))

    return {
        "chains of one length": [Forest.from_lengths([1 + i % 9] * draw(2, 6)) for i in range(number)],
        "chains": [Forest.from_lengths([draw(1, 40) for _ in range(draw(2, 8))]) for _ in range(number)],
        "trees": [trees() for _ in range(number)],
    }


def many(number: str, most: str, *names: str) -> None:
    """Every loss on streams of ``number`` batches; more than ``most`` compilations of one stream are an error."""
    for name in names or LOSSES:
        for kind, forests in batches(int(number)).items():
            torch._dynamo.reset()
            compilations = []

            def backend(graph, inputs, compilations=compilations):
                compilations.append(inputs)
                return graph.forward

            loss = LOSSES[name].loss
            compiled = torch.compile(loss, backend=backend, fullgraph=True)
            for forest in forests:
                _ = forest.prepare(0.9, 0.95).sibling_pairs
                inputs = some_inputs(forest)
                torch.testing.assert_close(compiled(*inputs, forest), loss(*inputs, forest))
            print(f"{name}, {kind}: {len(compilations)} compilations", flush=True)
            assert len(compilations) <= int(most), f"{name} on {kind}: {len(compilations)} compilations"


if __name__ == "__main__":
    many(*sys.argv[2:]) if sys.argv[1] == "many" else main(*sys.argv[1:])
