"""The rule of precision on every public function outside of losses and estimators: half precision against float64.

The names come from ``__all__`` and from `Forest`: a new function needs an entry here.
"""

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from gflowdial import Forest, dag, envs, forest, metrics, numerics, oracle, replay, sampling, segments
from gflowdial.dag import Dag
from gflowdial.estimators import TabularFlow
from gflowdial.losses import Reading
from gflowdial.segments import Segments

HALVES = (torch.bfloat16, torch.float16)
ROOMS: tuple[ModuleType, ...] = (dag, envs, forest, metrics, numerics, oracle, replay, sampling, segments)
# A root with 300 children, of which the last heads a chain of 300; chains of several lengths; chains of one.
TREE = Forest.from_parents(torch.tensor([-1, *[0] * 300, *range(300, 600)]))
CHAINS, TABLE = Forest.from_lengths([600, 3, 0]), Forest.from_lengths([300, 300])
STAR = Forest.from_parents(torch.tensor([-1, *[0] * 8]))
DIAMOND = Dag.from_adjacency([[1, 2], [3], [3], []])
ITEMS, GROUPS = 1500, 3
WHERE = Segments.from_ids(torch.arange(ITEMS) % GROUPS, GROUPS)
Cast = Callable[[Tensor], Tensor]
Results = tuple[Tensor, ...]


def numbers(count: int, seed: int = 0) -> Tensor:
    """Between 0.5 and 1.5: a sum in bfloat16 stops growing at 256."""
    return 0.5 + torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def log_p(count: int, seed: int = 0) -> Tensor:
    return (4 * numbers(count, seed)).log_softmax(0)


def on_forests(count: str, method: Callable[..., Any], *options: Any) -> Callable[[Cast], Results]:
    return lambda cast: tuple(method(f, cast(numbers(getattr(f, count))), *options) for f in (TREE, CHAINS, TABLE))


def in_place(method: str, *counts: str) -> Callable[[Cast], Results]:
    def run(cast: Cast) -> Results:
        inputs = [cast(numbers(getattr(TREE, count), seed)) for seed, count in enumerate(counts)]
        getattr(TREE, method)(*inputs)
        return (inputs[0],)

    return run


def on_segments(function: Callable[[Tensor, Segments], Tensor]) -> Callable[[Cast], Results]:
    return lambda cast: (function(cast(numbers(ITEMS)), WHERE),)


def sampled(cast: Cast) -> Results:
    """How often each third of 2,048 actions is taken."""
    policy = cast(log_p(2048))
    tree = envs.PerfectTree(2048, torch.zeros(2048))
    start = torch.zeros(20_000, dtype=torch.int64)
    drawn = sampling.sample_forward(
        tree, lambda states: policy.expand(len(states), -1), start, generator=torch.Generator().manual_seed(0)
    )
    return (torch.bincount(drawn.actions // 683, minlength=3).double() / len(start),)


def sampled_backward(cast: Cast) -> Results:
    """How often each third of 300 elements is the last that a set took in."""
    policy = cast(log_p(300))
    full = torch.ones(1, 300, dtype=torch.int64)
    sets = envs.SetBuilding(torch.zeros(300), 300)

    def backward(states: Tensor) -> Tensor:
        return torch.where(states == 1, policy, -torch.inf)

    drawn = sampling.sample_backward(sets, backward, full.expand(400, -1), generator=torch.Generator().manual_seed(0))
    last = drawn.actions[drawn.forest.leaves - torch.arange(1, 401)]
    return (torch.bincount(last // 100, minlength=3).double() / 400,)


def read(cast: Cast) -> Results:
    tree = envs.PerfectTree(300, numbers(300))
    graph = envs.enumerate_states(tree)
    table = TabularFlow(tree, graph.index, len(graph.states), num_conditions=1).double()
    for seed, entries in enumerate(table.parameters()):
        entries.data = cast(numbers(entries.numel(), seed).view(entries.shape))
    drawn = sampling.sample_forward(
        tree, lambda states: log_p(300).expand(len(states), -1), torch.zeros(9).long(), generator=torch.Generator()
    )
    reading: Reading = sampling.read_trajectories(tree, table, drawn)
    return reading["log_pf"], reading["log_policy"], reading["log_reward"], reading["log_reference"]


def replayed(cast: Cast) -> Results:
    kept = replay.Replay(200, priority="reward")
    kept.add(sampling.Terminals(torch.arange(300)[:, None], cast(numbers(300)), torch.arange(300) % 3))
    drawn = kept.draw(50, generator=torch.Generator().manual_seed(0))
    return drawn.log_reward, drawn.states.double()


def of_certificate(cast: Cast) -> Results:
    found = metrics.certificate(cast(log_p(8)), cast(numbers(8)), STAR)
    return found.spread, found.worst_case, found.average_case, found.spending, found.outside


def of_sampled_certificate(cast: Cast) -> Results:
    found = metrics.sampled_certificate(cast(numbers(ITEMS)), WHERE, log_z=cast(numbers(GROUPS)))
    return found.bound, found.spread


def checks(function: Callable[..., None], *arguments: Any) -> Callable[[Cast], Results]:
    def run(cast: Cast) -> Results:
        function("x", cast(log_p(300)), *arguments)
        return ()

    return run


def all_outcomes(function: Callable[..., Tensor]) -> Callable[[Cast], Results]:
    return lambda cast: (function(cast(log_p(300)), cast(log_p(300, 1))),)


SAMPLES = torch.arange(600).view(300, 2)
EVERYWHERE = torch.ones(2, 300, dtype=torch.bool)
CASES: dict[str, Callable[[Cast], Results]] = {
    "Forest.ancestor_filter": on_forests("num_nodes", Forest.ancestor_filter, 0.99),
    "Forest.clear_leaves_": in_place("clear_leaves_", "num_nodes"),
    "Forest.descendant_filter": on_forests("num_nodes", Forest.descendant_filter),
    "Forest.difference": on_forests("num_nodes", Forest.difference),
    "Forest.divergence": on_forests("num_edges", Forest.divergence),
    "Forest.edge_sum": on_forests("num_leaves", Forest.edge_sum),
    "Forest.edges_to_nodes": on_forests("num_edges", Forest.edges_to_nodes),
    "Forest.leaf_sum": on_forests("num_edges", Forest.leaf_sum),
    "Forest.root_sum": on_forests("num_edges", Forest.root_sum),
    "Forest.set_leaves_": in_place("set_leaves_", "num_nodes", "num_leaves"),
    "Forest.subtree_logsumexp": on_forests("num_nodes", Forest.subtree_logsumexp),
    "Forest.subtree_sum": on_forests("num_nodes", Forest.subtree_sum),
    "Forest.to_jagged": lambda cast: (TABLE.to_jagged(cast(numbers(TABLE.num_nodes))).values(),),
    "Forest.trees_to_leaves": on_forests("num_trees", Forest.trees_to_leaves),
    "envs.GraphEnvironment": lambda cast: (
        envs.GraphEnvironment(DIAMOND, cast(numbers(1))).log_reward(torch.tensor([[3]])),
    ),
    "envs.MoveSequences": lambda cast: (
        envs.MoveSequences(1, 2, 1, lambda s: cast(numbers(len(s)))).log_reward(SAMPLES[:3]),
    ),
    "envs.PerfectTree": lambda cast: (envs.PerfectTree(3, cast(numbers(3))).log_reward(torch.tensor([[1], [3]])),),
    "envs.SetBuilding": lambda cast: (
        envs.SetBuilding(cast(numbers(600)), 9).log_reward(torch.ones(1, 600, dtype=torch.int64)),
    ),
    "envs.StopAnywhere": lambda cast: (
        envs.StopAnywhere(envs.Hypergrid(2, 3), lambda s: cast(numbers(len(s)))).log_reward(torch.zeros(4, 4).long()),
    ),
    "metrics.certificate": of_certificate,
    "metrics.elbo": lambda cast: (metrics.elbo(cast(numbers(600)), None, cast(numbers(2)), TABLE),),
    "metrics.eubo": lambda cast: (metrics.eubo(cast(numbers(600)), cast(numbers(600, 1)), cast(numbers(2)), TABLE),),
    "metrics.jensen_shannon_divergence": all_outcomes(metrics.jensen_shannon_divergence),
    "metrics.kl_divergence": all_outcomes(metrics.kl_divergence),
    "metrics.l1_distance": all_outcomes(metrics.l1_distance),
    "metrics.log_weights": lambda cast: (metrics.log_weights(cast(numbers(600)), None, cast(numbers(2)), TABLE),),
    "metrics.pearson": lambda cast: (metrics.pearson(cast(numbers(ITEMS)), cast(numbers(ITEMS, 1)), WHERE),),
    "metrics.sampled_certificate": of_sampled_certificate,
    "metrics.spearman": lambda cast: (metrics.spearman(cast(numbers(ITEMS)), cast(numbers(ITEMS, 1)), WHERE),),
    "metrics.top_k": lambda cast: (metrics.top_k(SAMPLES, cast(numbers(300)), 9).double(),),
    "metrics.top_k_diversity": lambda cast: (metrics.top_k_diversity(SAMPLES, cast(numbers(300)), 9),),
    "metrics.top_k_log_reward": lambda cast: (metrics.top_k_log_reward(SAMPLES, cast(numbers(300)), 290),),
    "metrics.total_variation": all_outcomes(metrics.total_variation),
    "numerics.check_finite": checks(numerics.check_finite),
    "numerics.check_length": checks(numerics.check_length, 300, "item"),
    "numerics.check_normalised": checks(numerics.check_normalised, "out of", torch.zeros(300).long(), 1),
    "numerics.check_vector": checks(numerics.check_vector, 300, "item"),
    "numerics.lift_vector": lambda cast: (numerics.lift_vector("x", cast(numbers(9)), 9, "item"),),
    "numerics.lifted": lambda cast: (numerics.lifted(cast(numbers(9))),),
    "numerics.masked_log_softmax": lambda cast: (
        numerics.masked_log_softmax(cast(numbers(600)).view(2, 300), EVERYWHERE),
    ),
    "numerics.uniform_log_probabilities": lambda cast: (
        numerics.uniform_log_probabilities(EVERYWHERE, cast(numbers(1)).dtype),
    ),
    "oracle.dag_flows": lambda cast: oracle.dag_flows(
        DIAMOND, cast(torch.tensor([1, 1, 0.5, 0.5]).log()), cast(numbers(1))
    ),
    "oracle.dag_terminating_distribution": lambda cast: (
        oracle.dag_terminating_distribution(DIAMOND, cast(torch.tensor([0.3, 0.7, 1, 1]).log())),
    ),
    "oracle.exact_flows": lambda cast: oracle.exact_flows(TREE, cast(numbers(TREE.num_leaves))),
    "oracle.expected_flows": lambda cast: oracle.expected_flows(
        STAR, cast(numbers(8)), chance=torch.arange(9) == 0, log_chance=cast(log_p(8))
    ),
    "oracle.terminating_distribution": on_forests("num_edges", oracle.terminating_distribution),
    "replay.Replay": replayed,
    "sampling.read_trajectories": read,
    "sampling.sample_backward": sampled_backward,
    "sampling.sample_forward": sampled,
    "segments.logsumexp": on_segments(segments.logsumexp),
    "segments.max": on_segments(segments.max),
    "segments.mean": on_segments(segments.mean),
    "segments.softmax": on_segments(segments.softmax),
    "segments.sum": on_segments(segments.sum),
}
# Values that are only moved keep their dtype.
MOVED = {"Forest.clear_leaves_", "Forest.edges_to_nodes", "Forest.set_leaves_", "Forest.to_jagged"}
MOVED |= {"Forest.trees_to_leaves", "envs.MoveSequences", "envs.StopAnywhere"}
# Rounded log-probabilities do not sum to 1 in float64: these are compared with the result of exact ones.
NORMALISED = {"metrics.certificate", "metrics.jensen_shannon_divergence", "metrics.kl_divergence"}
NORMALISED |= {"metrics.l1_distance", "metrics.total_variation", "numerics.check_normalised", "oracle.dag_flows"}
NORMALISED |= {"oracle.dag_terminating_distribution", "oracle.expected_flows"}
# What is drawn with other noise agrees as far as frequencies do: 5 standard deviations.
DRAWN = {"sampling.sample_backward": 0.18, "sampling.sample_forward": 0.025}
# No floating-point tensor comes in.
WITHOUT_FLOATS_BY_ROOM = {
    "Forest": """ancestor concatenate depth device edge_child edge_parent edge_share edge_tree from_jagged from_lengths
        from_mask from_offsets from_parents kept layout leaf_share leaf_tree leaves leaves_below memo num_children
        num_edges num_leaves num_nodes num_pairs num_trees of_chains offsets pair_bounds pin_memory prepare roots
        sibling_pairs split to tree""",
    "dag": "Dag Level longest_path",
    "envs": """AppendBits BitSequences Environment Hypergrid InsertBits StateGraph StateSpace StoppingEnvironment
        TurnRewards enumerate_states random_modes""",
    "forest": "Part",
    "metrics": """Certificate SampledCertificate StoppingRule accuracy macro_f1 measures_of_confusions modes_found
        preference_bias strategy_preferences""",
    "numerics": """check_indices distinct first_true keys lifted_dtype precise_dtype remember rounding
        usable_in_training""",
    "oracle": "uniform_backward",
    "sampling": "Terminals Trajectories",
    "segments": "Segments",
}
WITHOUT_FLOATS = {f"{room}.{name}" for room, names in WITHOUT_FLOATS_BY_ROOM.items() for name in names.split()}


def public_names() -> set[str]:
    found = {f"Forest.{name}" for name in dir(Forest) if not name.startswith("_")}
    for room in ROOMS:
        for name in room.__all__:
            value = getattr(room, name)
            if (inspect.isclass(value) or inspect.isfunction(value)) and value is not Forest:
                found.add(f"{room.__name__.removeprefix('gflowdial.')}.{name}")
    return found


def test_every_public_name_has_an_entry() -> None:
    assert not CASES.keys() & WITHOUT_FLOATS
    assert CASES.keys() | WITHOUT_FLOATS == public_names()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_lifted(name: str, dtype: torch.dtype) -> None:
    low = CASES[name](lambda x: x.to(dtype))
    exact = CASES[name]((lambda x: x.double()) if name in NORMALISED else (lambda x: x.to(dtype).double()))
    rounding = 8 * torch.finfo(dtype).eps if name in NORMALISED else DRAWN.get(name, 2e-6)
    assert len(low) == len(exact)
    for one, other in zip(low, exact, strict=True):
        assert one.dtype == dtype if name in MOVED else one.dtype.itemsize >= 4
        torch.testing.assert_close(one.double(), other.double(), rtol=rounding, atol=rounding)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_mean_of_ones_is_one(dtype: torch.dtype) -> None:
    ones = torch.ones(1000, dtype=dtype)
    one_segment = Segments.from_ids(torch.zeros(1000, dtype=torch.int64), 1)
    assert segments.mean(ones, one_segment).tolist() == [1.0]
    assert Forest.from_lengths([1000, 1]).leaf_sum(torch.ones(1001, dtype=dtype)).tolist() == [1000.0, 1.0]
    log_flow, _ = oracle.exact_flows(
        Forest.from_parents(torch.tensor([-1, *[0] * 1000])), torch.zeros(1000, dtype=dtype)
    )
    assert float(log_flow[0]) == pytest.approx(6.907755278982137, rel=1e-12)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_actions_are_drawn_as_often_as_in_float64(dtype: torch.dtype) -> None:
    policy, draws = log_p(2048).to(dtype), 20_000
    tree = envs.PerfectTree(2048, torch.zeros(2048))
    drawn = sampling.sample_forward(
        tree,
        lambda states: policy.expand(len(states), -1),
        torch.zeros(draws, dtype=torch.int64),
        generator=torch.Generator().manual_seed(0),
    )
    frequency = torch.bincount(drawn.actions, minlength=2048) / draws
    p = policy.double().softmax(0)
    distance = float((frequency - p).abs().sum() / 2)
    # The expected distance of that many draws, by the normal approximation of each count.
    assert distance < 1.1 * float((p * (1 - p) / draws).sqrt().sum() * (2 / torch.pi) ** 0.5 / 2)


def test_gradients_come_back_in_the_dtype_that_went_in() -> None:
    x = numbers(ITEMS).bfloat16().requires_grad_()
    for function in (segments.sum, segments.mean, segments.max, segments.logsumexp, segments.softmax):
        (gradient,) = torch.autograd.grad(function(x, WHERE).sum(), x)
        assert gradient.dtype == torch.bfloat16
        assert bool(gradient.isfinite().all())
