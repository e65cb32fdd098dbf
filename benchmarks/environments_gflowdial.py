"""The worker of `benchmarks.environments` for gflowdial: `gflowdial.training.loop.train` as anyone would call it."""

import torch

from benchmarks.environments_worker import Case, Session, serve
from benchmarks.measure import Work, device, peak_extra_mib
from gflowdial.envs import Environment, Hypergrid, InsertBits
from gflowdial.envs.bits import random_modes
from gflowdial.estimators import MLPTrunk, NetworkFlow
from gflowdial.training.loop import train


def environment(case: Case) -> Environment:
    if case.kind == "hypergrid":
        return Hypergrid(case.dimensions, case.side, device=device())
    return InsertBits(random_modes(case.length, case.modes), case.word, device=device())


def session(case: Case) -> Session:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    env = environment(case)
    trunk = MLPTrunk(env.num_features, width=case.hidden, depth=case.layers)
    estimator = NetworkFlow(env, trunk, backward="learned").to(device())
    log_z = list(estimator.log_z.parameters())
    learned = [p for name, p in estimator.named_parameters() if not name.startswith(("log_z.", "flow_head."))]
    optimiser = torch.optim.Adam(
        [{"params": learned, "lr": case.lr}, {"params": log_z, "lr": case.lr_log_z}], fused=True
    )
    generator = torch.Generator(device()).manual_seed(0)
    steps = train(
        env, estimator, "trajectory_balance", optimiser, steps=10**9, batch_size=case.batch, generator=generator
    )

    def advance(iterations: int) -> float:
        edges = 0
        for _ in range(iterations):
            sampled = next(steps).sampled
            assert sampled is not None
            edges += sampled.forest.num_edges
        return edges / iterations / case.batch

    parameters = sum(p.numel() for p in [*learned, *log_z])

    def describe() -> dict[str, float]:
        peak = peak_extra_mib(lambda: next(steps))
        with Work() as work:
            sampled = next(steps).sampled
        assert sampled is not None
        distinct = len(torch.unique(sampled.states, dim=0))
        # Read once to sample and once to learn; its gradient costs as much as two more readings.
        return {
            "states": sampled.forest.num_nodes,
            "distinct": distinct,
            "launches": work.launches,
            "bytes": work.bytes,
            "operations": 2 * parameters * 4 * distinct,
            "peak MiB": peak,
        }

    return Session(advance, parameters, describe)


if __name__ == "__main__":
    serve(session, ["gflowdial", "torch"], device=device().type)
