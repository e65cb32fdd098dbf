"""The worker of `benchmarks.environments` for gflowdial: `gflowdial.training.loop.train` as anyone would call it."""

import resource

import torch

from benchmarks.environments_worker import Case, Session, serve
from benchmarks.measure import Work
from gflowdial.envs import Environment, Hypergrid, InsertBits
from gflowdial.envs.bits import random_modes
from gflowdial.estimators import MLPTrunk, NetworkFlow
from gflowdial.training.environment_objectives import trajectory_balance
from gflowdial.training.loop import train


def environment(case: Case) -> Environment:
    if case.kind == "hypergrid":
        return Hypergrid(case.dimensions, case.side)
    return InsertBits(random_modes(case.length, case.modes), case.word)


def session(case: Case) -> Session:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    env = environment(case)
    estimator = NetworkFlow(env, MLPTrunk(env.num_features, width=case.hidden, depth=case.layers), backward="learned")
    log_z = list(estimator.log_z.parameters())
    learned = [p for name, p in estimator.named_parameters() if not name.startswith(("log_z.", "flow_head."))]
    optimiser = torch.optim.Adam(
        [{"params": learned, "lr": case.lr}, {"params": log_z, "lr": case.lr_log_z}], fused=True
    )
    generator = torch.Generator().manual_seed(0)
    steps = train(
        env, estimator, trajectory_balance, optimiser, steps=10**9, batch_size=case.batch, generator=generator
    )

    def advance(iterations: int) -> float:
        nodes = 0
        for _ in range(iterations):
            sampled = next(steps).sampled
            assert sampled is not None
            nodes += sampled.forest.num_edges
        return nodes / iterations / case.batch

    parameters = sum(p.numel() for p in [*learned, *log_z])

    def describe() -> dict[str, float]:
        with Work() as work:
            sampled = next(steps).sampled
        assert sampled is not None
        distinct = len(torch.unique(sampled.states, dim=0))
        # Read once to sample and once to learn; its gradient costs as much as two more readings.
        return {
            "states": sampled.forest.num_nodes,
            "distinct": distinct,
            "launches": work.launches,
            "operations": 2 * parameters * 4 * distinct,
            "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }

    return Session(advance, parameters, describe)


if __name__ == "__main__":
    serve(session, ["gflowdial", "torch"])
