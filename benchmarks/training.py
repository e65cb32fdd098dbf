"""A training step on a search tree: packed into one pass, beside every prefix for itself as AFlow's code reads them.

Every scheme reads policy and reference at every node of the same tree and must give the same readings and the same
gradient before it is timed, by wall time and with all threads. Peak memory is that of a process of its own, weights
included. SmolLM2-135M-Instruct has to be there: `make smollm2`.

Run: python -m benchmarks training
"""

import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import training_report
from benchmarks.measure import device, finish, load, peak_extra_mib, side_by_side
from benchmarks.provenance import write_results
from benchmarks.training_schemes import PADDED_TO, OneByOne, Packed, Readings, Tree, gradient, of_shape, smollm2
from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.estimators.packing import Attention

NODES = 40
BAR = 1e-4
"""Largest difference between two schemes' readings, in nats."""
ROUNDS = 3
GROWTH_NODES = (10, 20, 40, 80, 160, 320)
GROWTH_TREES = (1, 2, 4, 8)
MODELS = ("SmolLM2-135M", "SmolLM2-360M", "Qwen2.5-0.5B")
GPU_MODELS = ("Qwen2.5-0.5B", "Qwen2.5-7B")


class Scheme(Protocol):
    """What is compared."""

    tokens: int

    def step(self) -> Readings:
        """Read everything, and leave the gradient in the policy's parameters."""


def packed(
    remembers: bool = False, anew: bool = False, attention: Attention = "sdpa"
) -> tuple[LanguageModelPolicy, Scheme]:
    policy = smollm2(attention)
    if anew:
        policy.train().activation_checkpointing_enable()
    return policy, Packed(policy, [Tree.random(NODES)], remembers=remembers)


def unique(batches: int | None = None) -> tuple[LanguageModelPolicy, Scheme]:
    policy = smollm2()
    return policy, OneByOne.unique(policy, Tree.random(NODES), batches)


def released(length: int | None = None, paths: int | None = None) -> tuple[LanguageModelPolicy, Scheme]:
    policy = smollm2()
    return policy, OneByOne.released(policy, Tree.random(NODES), length, paths)


Make = Callable[[], tuple[LanguageModelPolicy, Scheme]]
SCHEMES: dict[str, Make] = {
    "tree": packed,
    "tree, reference remembered": partial(packed, remembers=True),
    "unique prefixes": unique,
    "every prefix": released,
}
IN_MEMORY: dict[str, Make] = {
    "tree": packed,
    "tree, reference remembered": partial(packed, remembers=True),
    "tree, activations anew": partial(packed, anew=True),
    # The first batch has the most tokens: no later one takes more memory.
    "unique prefixes": partial(unique, 1),
    "every prefix": partial(released, None, 1),
    f"every prefix, padded to {PADDED_TO}": partial(released, PADDED_TO, 1),
}
if torch.cuda.is_available():
    flex: Make = partial(packed, remembers=True, attention="flex")
    SCHEMES["tree, reference remembered, FlexAttention"] = flex
    IN_MEMORY["tree, reference remembered, FlexAttention"] = flex


def compare(threads: int) -> dict[str, Any]:
    """Tokens, time, and how far readings and gradient are from those of the packed tree."""
    torch.set_num_threads(threads)
    made = {name: make() for name, make in SCHEMES.items()}
    (_, ours), tree = made["tree"], Tree.random(NODES)
    expected, direction = ours.step(), gradient(made["tree"][0])
    rows: dict[str, Any] = {}
    for name, (policy, scheme) in made.items():
        readings, found = scheme.step(), gradient(policy)
        rows[name] = {
            "tokens": scheme.tokens,
            "readings apart": float((readings - expected).abs().max()),
            "gradient apart": float((found - direction).norm() / direction.norm()),
        }
    if wrong := {name: row for name, row in rows.items() if row["readings apart"] > BAR}:
        raise SystemExit(f"not the same readings: {wrong}")
    times = side_by_side({n: s.step for n, (_, s) in made.items()}, clock="wall", rounds=ROUNDS, seconds=0.0)
    for name, row in rows.items():
        row |= times[name] | {"ratio": times[name]["ms"] / times["tree"]["ms"]}
    # What the passes hold without padding, and as the released code pads.
    lengths = [len(tree.prefix(node)) for leaf in tree.leaves for node in tree.path(leaf)]
    counts = {"prefixes": len(lengths), "tokens unpadded": sum(lengths), "tokens padded": PADDED_TO * len(lengths)}
    return {"leaves": len(tree.leaves), **counts, "schemes": rows}


def memory(name: str, threads: int) -> dict[str, Any]:
    """Peak MiB of a step, weights included, in a process that has done nothing else."""
    torch.set_num_threads(threads)
    return {"scheme": name, "MiB": peak_extra_mib(lambda: IN_MEMORY[name]()[1].step())}


def growth(shape: str | None, nodes: int, trees: int, threads: int) -> dict[str, Any]:
    """A step with the reference remembered: time, memory, and the arithmetic beside what a matrix product reaches."""
    torch.set_num_threads(threads)
    found: dict[str, Any] = {"model": shape or "SmolLM2-135M-Instruct", "nodes": nodes, "trees": trees}
    attention: Attention = "flex" if torch.cuda.is_available() and shape else "sdpa"
    dtype = torch.bfloat16 if attention == "flex" else torch.float32

    def run() -> None:
        policy = of_shape(shape, attention, dtype) if shape else smollm2()
        scheme = Packed(policy, [Tree.random(nodes)] * trees, remembers=True)
        with FlopCounterMode(display=False) as counter:
            scheme.step()
        finish()
        start = time.perf_counter()
        scheme.step()
        finish()
        seconds = time.perf_counter() - start
        found.update(
            {
                "parameters": sum(p.numel() for p in policy.language_model.parameters()),
                "tokens": scheme.tokens,
                "ms": 1e3 * seconds,
                "GFLOP": counter.get_total_flops() / 1e9,
                "GFLOP/s": counter.get_total_flops() / 1e9 / seconds,
                "GFLOP/s of a product": matrix_rate(policy),
            }
        )

    found["MiB"] = peak_extra_mib(run)
    return found


def matrix_rate(policy: LanguageModelPolicy) -> float:
    """GFLOP/s of one product as wide as the model's inner layers, of 1,024 tokens."""
    config, dtype = policy.language_model.config, policy.language_model.dtype
    rows, columns = int(config.hidden_size), int(config.intermediate_size)
    a = torch.randn(1024, rows, device=device(), dtype=dtype)
    b = torch.randn(rows, columns, device=device(), dtype=dtype)
    ms = side_by_side({"product": lambda: a @ b}, clock="wall", rounds=5)["product"]["ms"]
    return 2e-6 * 1024 * rows * columns / ms


def main() -> None:
    before, threads = load(), torch.get_num_threads()
    sizes: list[tuple[str | None, int, int]] = [(None, nodes, 1) for nodes in GROWTH_NODES]
    sizes += [(None, NODES, trees) for trees in GROWTH_TREES[1:]]
    sizes += [(model, NODES, 1) for model in (GPU_MODELS if torch.cuda.is_available() else MODELS)]
    # Each in a process of its own, which gives its memory back.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        comparison = pool.apply(compare, (threads,))
        peaks = pool.starmap(memory, [(name, threads) for name in IN_MEMORY], chunksize=1)
        rows = pool.starmap(growth, [(*size, threads) for size in sizes], chunksize=1)
    setup = {"model": "SmolLM2-135M-Instruct, LoRA of rank 32", "clock": "wall", "load": [before, load()]}
    content = setup | comparison | {"memory": peaks, "growth": rows}
    write_results("training", content, ["transformers", "peft", "numpy"])
    training_report.write(content)


if __name__ == "__main__":
    main()
