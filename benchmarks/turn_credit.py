"""Bias and variance of advantage estimators, against the exact gradient on tasks that can be enumerated.

The gradient of ``KL(P_F ‖ R/Z)`` in the logits of a tabular policy is exact on an enumerated tree. Each estimator gives
one from a batch of rollouts: its expectation shows the bias, a single batch the variance.

Run: python -m benchmarks turn_credit
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.provenance import write_results
from examples.haggling import MOVES, TASK, scenes, simulated
from gflowdial import Forest, losses, oracle, segments
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.search import enumerate_tree
from gflowdial.segments import Segments

SEEDS, BATCHES, ROLLOUTS, NOISE, TEMPERATURE = 6, 100, 8, 0.5, 0.1
MANY = 800  # Batches for the expectation of an estimator that is not linear in the rollouts.


@dataclass(frozen=True)
class Problem:
    """A tree with a policy, the policy's own soft value of each node, and the exact gradient in the logits."""

    forest: Forest
    logits: Tensor
    log_reward: Tensor
    value: Tensor
    gradient: Tensor

    @staticmethod
    def of(forest: Forest, log_reward: Tensor, generator: torch.Generator) -> "Problem":
        logits = torch.randn(forest.num_edges, dtype=torch.float64, generator=generator).div(2).requires_grad_()
        log_pf = normalised(logits, forest)
        log_p = oracle.terminating_distribution(forest, log_pf)
        (gradient,) = torch.autograd.grad((log_p.exp() * (log_p - log_reward)).sum(), logits)
        with torch.no_grad():
            so_far = forest.root_sum(log_pf)
            # E[log R - Σ log P_F of the whole rollout] below each node, less what was spent before it.
            inside = torch.zeros_like(so_far).index_copy(0, forest.leaves, log_p.exp() * (log_reward - log_p))
            value = forest.subtree_sum(inside) / so_far.exp() + so_far
        return Problem(forest, logits.detach(), log_reward, value, gradient)


def normalised(logits: Tensor, forest: Forest) -> Tensor:
    """log P_F of each edge: a softmax over siblings."""
    total = segments.logsumexp(logits, Segments.from_ids(forest.edge_parent, forest.num_nodes))
    return logits - total[forest.edge_parent]


def random_tree(seed: int, width: int = 8, depth: int = 4) -> Problem:
    """A full tree whose turns earn independent normal rewards, log R being their sum."""
    generator = torch.Generator().manual_seed(seed)
    nodes = sum(width**level for level in range(depth + 1))
    forest = Forest.from_parents((torch.arange(nodes) - 1).div(width, rounding_mode="floor"))
    earned = 0.7 * torch.randn(forest.num_edges, dtype=torch.float64, generator=generator)
    return Problem.of(forest, forest.leaf_sum(earned), generator)


def haggling(seed: int, turns: int = 4) -> Problem:
    """All talks of one of the first six scenes of `examples/haggling.py`, with log R = profit / 0.1."""
    world = DialogueEnvironment.of(TASK, simulated(MOVES), MOVES, turns)
    tree = enumerate_tree(world, [DialogueState.begin(scenes()[seed % 6])])
    return Problem.of(tree.forest, tree.leaf_return / TEMPERATURE, torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Estimator:
    """A loss, the error of its log F in nats, and whether its gradient is linear in the visit counts of leaves."""

    loss: Callable[..., Tensor]
    noise: float = 0.0
    linear: bool = True


def by_group(loss: Callable[..., Tensor]) -> Estimator:
    """A loss that compares the rollouts of a scene."""
    return Estimator(lambda _, *rest, **visits: loss(*rest, group=torch.zeros(1).long(), **visits), linear=False)


def estimators() -> dict[str, Estimator]:
    """All estimators, by what the table calls them."""
    table = {"`grpo`": by_group(losses.grpo), "`rloo`": by_group(losses.rloo)}
    for noise, values in ((0.0, "exact values"), (NOISE, f"values wrong by {NOISE} nats")):
        for decay in (1.0, 0.9, 0.5, 0.0):
            name = f"`{'reinforce' if decay == 1 else 'policy_gradient'}`, λ = {decay:g}, {values}"
            table[name] = Estimator(partial(losses.policy_gradient, decay=decay, value_weight=0.0), noise)
    return table


def measure(problem: Problem, estimator: Estimator, seed: int) -> tuple[float, float, float]:
    """The cosine of the expected gradient, the mean cosine of one batch's, and its mean squared error by |truth|²."""
    forest, truth, generator = problem.forest, problem.gradient, torch.Generator().manual_seed(seed)
    logits = problem.logits.clone().requires_grad_()
    ends = oracle.terminating_distribution(forest, normalised(problem.logits, forest)).exp()
    value = problem.value + estimator.noise * torch.randn(forest.num_nodes, dtype=torch.float64, generator=generator)

    def gradient(visits: Tensor) -> Tensor:
        log_pf = normalised(logits, forest)
        total = estimator.loss(value, log_pf, None, problem.log_reward, forest, leaf_visits=visits)
        return torch.autograd.grad(total, logits)[0]

    many = BATCHES if estimator.linear else MANY
    mean, squares, cosine, error = torch.zeros_like(truth), 0.0, [], []
    for number in range(many):
        drawn = torch.multinomial(ends, ROLLOUTS, replacement=True, generator=generator)
        found = gradient(torch.bincount(drawn, minlength=forest.num_leaves).double())
        mean += found / many
        squares += float(found.square().sum()) / many
        if number < BATCHES:
            cosine.append(float(torch.cosine_similarity(found, truth, dim=0)))
            error.append(float((found - truth).square().sum() / truth.square().sum()))
    mean = gradient(ends) if estimator.linear else mean
    norm = float(mean.square().sum())
    # |mean of batches|² is above |expectation|² by the variance of the mean.
    norm = norm if estimator.linear else (many * norm - squares) / (many - 1)
    along = float(mean @ truth) / math.sqrt(norm * float(truth.square().sum()))
    return along, sum(cosine) / BATCHES, sum(error) / BATCHES


def interval(values: tuple[float, ...], digits: int) -> str:
    """The mean over seeds and the half-width of its 95 % interval (normal)."""
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.{digits}f} ± {half:.{digits}f}"


def main() -> None:
    torch.set_num_threads(1)
    setup = {"seeds": SEEDS, "batches": BATCHES, "rollouts": ROLLOUTS, "noise": NOISE, "temperature": TEMPERATURE}
    results = {}
    for task, build in (("random tree", random_tree), ("haggling", haggling)):
        problems = [build(seed) for seed in range(SEEDS)]
        print(f"\n{task}\n\n| estimator | cosine, expectation | cosine, one batch | squared error |\n|---|---|---|---|")
        for name, each in estimators().items():
            found = results[f"{task}, {name}"] = [measure(problem, each, seed) for seed, problem in enumerate(problems)]
            cells = (interval(x, digits) for x, digits in zip(zip(*found, strict=True), (3, 3, 2), strict=True))
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"\nwritten to {write_results('turn_credit', {'setup': setup, 'results': results})}")


if __name__ == "__main__":
    main()
