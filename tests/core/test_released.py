"""AFlow's two releases and their ablations, each against the formula of its code, path by path, turn by turn."""

import math
import random
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gflowdial import Forest, losses
from gflowdial.testing import forests, vectors

few = settings(max_examples=20)
Turn = tuple[int, int]
"""The edge of a turn, and the node where it is taken."""


def paths(forest: Forest) -> list[list[list[Turn]]]:
    """The turns of every root-to-leaf path, by tree."""
    edge_of = {int(child): edge for edge, child in enumerate(forest.edge_child)}
    found: list[list[list[Turn]]] = [[] for _ in range(forest.num_trees)]
    for leaf, tree in zip(forest.leaves.tolist(), forest.leaf_tree.tolist(), strict=True):
        turns, node = [], leaf
        while int(forest.parent[node]) >= 0:
            turns.insert(0, (edge_of[node], int(forest.parent[node])))
            node = int(forest.parent[node])
        found[tree].append(turns)
    return found


def over_paths(forest: Forest, of_path: Callable[[list[Turn]], Tensor | float]) -> Tensor:
    """The mean over the paths of each tree, then over trees; a path without turns counts 0."""
    trees = [[torch.as_tensor(of_path(turns) if turns else 0.0).double() for turns in tree] for tree in paths(forest)]
    return torch.stack([torch.stack(tree).mean() for tree in trees]).mean()


def flow_term(mean_return: Tensor, value: Tensor, log_pf: Tensor, forest: Forest, release: str) -> Tensor:
    """The flow term of the code: prefix sums of log π, pairs m < n, the sum from prefix[m] to prefix[n + 1]."""

    def searched(edge: int, node: int) -> Tensor:
        if release == "second":
            return mean_return[forest.edge_child[edge]]
        if int(forest.parent[node]) >= 0:
            return mean_return[node]
        return max(mean_return[child] for child in forest.edge_child[forest.edge_parent == node])

    def of_path(turns: list[Turn]) -> Tensor | float:
        log_flow = [(searched(*turn) * value[turn[0]]).clamp(min=1e-6).log() for turn in turns]
        prefix = [torch.zeros(()).double()]
        for edge, _ in turns:
            prefix.append(prefix[-1] + log_pf[edge])
        errors = [
            (log_flow[n] - log_flow[m] - (prefix[n + 1] - prefix[m])).square()
            for n in range(len(turns))
            for m in range(n)
        ]
        return torch.stack(errors).mean() if errors else 0.0

    return over_paths(forest, of_path)


def mean_turn(term: Callable[[int], Tensor]) -> Callable[[list[Turn]], Tensor]:
    return lambda turns: torch.stack([term(edge) for edge, _ in turns]).mean()


@st.composite
def searched(draw: st.DrawFn) -> tuple[Forest, dict[str, Tensor]]:
    forest = draw(forests(max_nodes=20))
    edges = forest.num_edges
    several = draw(vectors(3 * edges)).view(edges, 3)
    return forest, {
        "mean_return": draw(vectors(forest.num_nodes)),
        "value": torch.nn.functional.softplus(draw(vectors(edges))),
        "negative_value": torch.nn.functional.softplus(several),
        "log_pf": draw(vectors(edges)),
        "log_reference": draw(vectors(edges)),
        "negative_log_pf": several.sin(),
        "negative_log_reference": several.cos(),
    }


def first(forest: Forest, x: dict[str, Tensor]) -> Tensor:
    shift = x["log_pf"] - x["log_reference"]
    hinge = torch.relu(1.0 - (x["value"][:, None] - x["negative_value"])).mean(1)
    return (
        flow_term(x["mean_return"], x["value"], x["log_pf"], forest, "first")
        + 0.1 * over_paths(forest, lambda turns: torch.relu(mean_turn(lambda edge: shift[edge])(turns)))
        + over_paths(forest, mean_turn(lambda edge: hinge[edge]))
    )


def second(forest: Forest, x: dict[str, Tensor]) -> Tensor:
    hinge = torch.relu(1.0 - (x["value"][:, None] - x["negative_value"])).mean(1)
    flow = flow_term(x["mean_return"], x["value"], x["log_pf"], forest, "second")
    return flow + over_paths(forest, mean_turn(lambda edge: hinge[edge]))


def without_flow(forest: Forest, x: dict[str, Tensor]) -> Tensor:
    gap = (x["log_pf"] - x["log_reference"])[:, None] - (x["negative_log_pf"] - x["negative_log_reference"])
    each = -torch.sigmoid(gap).log().mean(1) + torch.relu(1.0 - (x["value"][:, None] - x["negative_value"])).mean(1)
    return over_paths(forest, mean_turn(lambda edge: each[edge]))


def without_process(forest: Forest, x: dict[str, Tensor]) -> Tensor:
    shift = x["log_pf"] - x["log_reference"]
    kl = over_paths(forest, lambda turns: torch.relu(mean_turn(lambda edge: shift[edge])(turns)))
    return flow_term(x["mean_return"], x["value"], x["log_pf"], forest, "second") + 0.1 * kl


FLOW_FIRST = partial(losses.released_flow_balance, release="first")
OBJECTIVES = {
    "first release": (
        losses.Sum(flow=FLOW_FIRST, kl="released_kl", margin="value_margin"),
        first,
    ),
    "second release": (losses.Sum(flow="released_flow_balance", margin="value_margin"), second),
    "without flow balance": (losses.Sum(preference="released_preference", margin="value_margin"), without_flow),
    "without process supervision": (losses.Sum(flow="released_flow_balance", kl="released_kl"), without_process),
}


@pytest.mark.parametrize("name", OBJECTIVES)
@few
@given(case=searched())
def test_each_is_the_formula_of_its_code_path_by_path(name: str, case: tuple[Forest, dict[str, Tensor]]) -> None:
    forest, inputs = case
    ours, formula = OBJECTIVES[name]
    leaves = [x.clone().requires_grad_() for x in inputs.values()]
    given_inputs = dict(zip(inputs, leaves, strict=True))
    found, expected = losses.loss_on(ours, losses.Reading(forest, **given_inputs)), formula(forest, given_inputs)
    torch.testing.assert_close(found, expected)
    if found.requires_grad and expected.requires_grad:
        gradients = [
            torch.autograd.grad(x, leaves, allow_unused=True, materialize_grads=True) for x in (found, expected)
        ]
        # Where Q̂ is tied at the root the two may choose different maxima; no method learns Q̂.
        for ours_by, theirs_by in list(zip(*gradients, strict=True))[1:]:
            torch.testing.assert_close(ours_by, theirs_by)


def test_a_worked_path() -> None:
    """Q̂ 0.9 for the tree, then 0.5 and 0.8 for two turns; V = 1 and 2."""
    chain = Forest.from_lengths([2])
    mean_return, value = torch.tensor([0.9, 0.5, 0.8]), torch.tensor([1.0, 2.0])
    log_pf = torch.tensor([0.25, 0.5]).log()
    found = {
        r: float(losses.released_flow_balance(mean_return, value, log_pf, chain, release=r))
        for r in ("first", "second")
    }
    # Flows are (0.5, 0.5 · 2) in the first release, whose root has the best Q̂ of its actions, and (0.5, 0.8 · 2).
    assert found["first"] == pytest.approx((math.log(1.0 / 0.5) - math.log(0.25 * 0.5)) ** 2, rel=1e-6)
    assert found["second"] == pytest.approx((math.log(1.6 / 0.5) - math.log(0.25 * 0.5)) ** 2, rel=1e-6)
    with pytest.raises(Exception, match="release"):
        losses.released_flow_balance(mean_return, value, log_pf, chain, release="third")  # type: ignore[arg-type]


def test_the_mean_over_the_negatives_is_the_expectation_of_a_random_one() -> None:
    chain = Forest.from_lengths([1])
    value, negatives = torch.tensor([1.0]), torch.tensor([[0.2, 1.5, 0.9]])
    stream = random.Random(0)
    drawn = [max(0.0, 1.0 - (1.0 - float(negatives[0, stream.choice((0, 1, 2))]))) for _ in range(20_000)]
    found = float(losses.value_margin(value, negatives, chain))
    assert found == pytest.approx(sum(drawn) / len(drawn), abs=0.02)


def test_dpo_by_its_formula() -> None:
    # Node 0 has three children, of which two are as good; node 1 has one, which has no sibling.
    forest = Forest.from_parents(torch.tensor([-1, 0, 0, 0, 1]))
    search = torch.tensor([0.9, 0.5, 0.5, 0.1])
    log_pf, reference = torch.tensor([-0.2, -1.0, -2.0, -3.0]), torch.tensor([-1.0, -1.0, -1.0, -1.0])
    terms = [-math.log(1 / (1 + math.exp(-0.5 * (0.8 - other)))) for other in (0.0, -1.0)]
    found = losses.dpo(log_pf, reference, search, forest, beta=0.5)
    assert float(found) == pytest.approx(sum(terms) / 2)


def test_dpo_rests_at_no_policy_but_orders_the_actions() -> None:
    forest = Forest.from_parents(torch.tensor([-1, 0, 0]))
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([logits], lr=1.0)
    for _ in range(200):
        optimiser.zero_grad()
        log_pf = logits.log_softmax(0)
        losses.dpo(log_pf, torch.zeros(2).double(), torch.tensor([0.5, 0.4]), forest, beta=1.0).backward()
        optimiser.step()
    # Q of 0.5 and 0.4 are nearly equal, and yet the worse action all but vanishes.
    assert float(log_pf[1].detach()) < math.log(0.01)
