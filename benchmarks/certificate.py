"""How sharp certificates are: bounds beside the total variation of drawn policies, exact and from samples.

Random trees of 3 to 60 nodes with log R of 2 nats' spread; the policy is the exact one with noise of 0.01 to 3 nats on
every logit.

Run: python -m benchmarks certificate
"""

import math
from typing import Any

import torch
from torch import Tensor

from benchmarks.provenance import write_results, write_table
from benchmarks.tables import table
from gflowdial import Forest, oracle, segments
from gflowdial.metrics import certificate, sampled_certificate, total_variation
from gflowdial.segments import Segments

POLICIES, PER_FOREST = 100_000, 5_000
LEAST_NODES, MOST_NODES = 3, 60
NOISE = (0.01, 3.0)
DRAWS, CONFIDENCE, JUDGED = (100, 1_000, 10_000), 0.95, 1_000


def random_forest(generator: torch.Generator, trees: int) -> Forest:
    """Trees in which each node hangs below an evenly drawn earlier one."""
    sizes = torch.randint(LEAST_NODES, MOST_NODES + 1, (trees,), generator=generator)
    start = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    within = torch.arange(len(start)) - start
    above = (torch.rand(len(start), generator=generator) * within).long()
    return Forest.from_parents(torch.where(within == 0, -1, start + above))


def random_policies(generator: torch.Generator, trees: int) -> tuple[Tensor, Tensor, Tensor, Forest]:
    """``(log P_F, log R, noise of each tree, forest)``."""
    forest = random_forest(generator, trees)
    log_reward = 2 * torch.randn(forest.num_leaves, generator=generator, dtype=torch.float64)
    low, high = (math.log(limit) for limit in NOISE)
    noise = (low + (high - low) * torch.rand(trees, generator=generator, dtype=torch.float64)).exp()
    log_pf = oracle.exact_flows(forest, log_reward)[1]
    log_pf = log_pf + noise[forest.edge_tree] * torch.randn(log_pf.shape, generator=generator, dtype=torch.float64)
    actions = Segments.from_ids(forest.edge_parent, forest.num_nodes)
    return log_pf - segments.logsumexp(log_pf, actions)[forest.edge_parent], log_reward, noise, forest


def exact_bounds(generator: torch.Generator, trees: int) -> dict[str, Tensor]:
    """Each bound beside the total variation, ``[trees]``."""
    log_pf, log_reward, _, forest = random_policies(generator, trees)
    each = Segments.from_ids(forest.leaf_tree, trees)
    log_target = log_reward - segments.logsumexp(log_reward, each)[each.ids]
    found = certificate(log_pf, log_reward, forest)
    return {
        "total variation": total_variation(oracle.terminating_distribution(forest, log_pf), log_target, each),
        "1 − exp(−L), published": -torch.expm1(-found.spread),
        "tanh(L/4), worst case": found.worst_case,
        "average case": found.average_case,
    }


def sampled_bounds(generator: torch.Generator, draws: int) -> dict[str, Tensor]:
    """Bounds from ``draws`` trajectories of each of `JUDGED` policies beside the distance that each is about."""
    log_pf, log_reward, _, forest = random_policies(generator, JUDGED)
    leaves = torch.bincount(forest.leaf_tree)
    valid = torch.arange(int(leaves.max())) < leaves[:, None]

    def padded(values: Tensor) -> Tensor:
        empty = values.new_full(valid.shape, -torch.inf)
        return empty.masked_scatter(valid, values[torch.argsort(forest.leaf_tree, stable=True)])

    log_p, log_r = padded(oracle.terminating_distribution(forest, log_pf)), padded(log_reward)
    zeta = torch.where(valid, log_r - log_p, torch.inf)
    drawn = torch.multinomial(log_p.exp(), draws, replacement=True, generator=generator)
    weights = zeta.gather(1, drawn)
    each = Segments.from_ids(torch.arange(JUDGED).repeat_interleave(draws), JUDGED)
    log_z = torch.logsumexp(log_r, 1)
    restricted = torch.where(zeta <= weights.amax(1, keepdim=True), log_r, -torch.inf).log_softmax(1)
    distance = {
        name: (target.exp() - log_p.exp()).abs().sum(1) / 2
        for name, target in (("log Z known", log_r - log_z[:, None]), ("log Z unknown", restricted))
    }
    return {
        "log Z known": sampled_certificate(weights.flatten(), each, confidence=CONFIDENCE, log_z=log_z).bound,
        "log Z unknown": sampled_certificate(weights.flatten(), each, confidence=CONFIDENCE).bound,
        "distance, log Z known": distance["log Z known"],
        "distance, log Z unknown": distance["log Z unknown"],
    }


def summary(bound: Tensor, distance: Tensor) -> dict[str, float]:
    """How often the bound was violated, how loose it is, and its typical distance to what it bounds."""
    ratio = (bound / distance)[distance > 1e-9]
    return {
        "violations": int((bound < distance - 1e-12).sum()),
        "policies": len(bound),
        "median ratio": float(ratio.median()),
        "90 % quantile of the ratio": float(ratio.quantile(0.9)) if len(ratio) <= 10**6 else math.nan,
        "median bound": float(bound.median()),
        "median distance": float(distance.median()),
    }


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    parts = [exact_bounds(generator, PER_FOREST) for _ in range(POLICIES // PER_FOREST)]
    all_exact = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    distance = all_exact.pop("total variation")
    results: dict[str, Any] = {name: summary(bound, distance) for name, bound in all_exact.items()}
    for draws in DRAWS:
        found = sampled_bounds(generator, draws)
        for case in ("log Z known", "log Z unknown"):
            results[f"{draws:,} trajectories, {case}"] = summary(found[case], found[f"distance, {case}"])
    path = write_results("certificate", {"noise in nats": NOISE, "confidence": CONFIDENCE, "table": results})
    head = ["bound", "policies", "violated", "bound / distance: median", "90 %", "median bound", "median distance"]
    rows = [
        [name, f"{x['policies']:,}", f"{x['violations']}", *(f"{value:.2f}" for value in list(x.values())[2:4]),
         *(f"{value:.3f}" for value in list(x.values())[4:])]
        for name, x in results.items()
    ]  # fmt: skip
    markdown = table(head, rows)
    write_table("certificate", markdown)
    print(f"{markdown}\n\nwritten to {path}")


if __name__ == "__main__":
    main()
