"""What becomes of the values of single trees: their mean, themselves, or one average over all that is compared."""

import inspect
from functools import partial

import pytest
import torch
from loss_inputs import all_inputs, call_of
from loss_table import forest_of_each_kind

from gflowdial import Forest, losses

FORESTS = (*forest_of_each_kind(), Forest.from_lengths([3, 3]))
REDUCED = [name for name, loss in losses.LOSSES.items() if "reduction" in inspect.signature(loss).parameters]
SIZES = all_inputs(Forest.from_lengths([9] * 7))
# The others compare trees with each other.
LIKE_A_TREE_ALONE = [name for name in REDUCED if name not in ("log_partition_variance", "rloo", "grpo")]


def test_all_losses_that_know_trees_reduce() -> None:
    assert set(losses.LOSSES) - set(REDUCED) == {"flow_matching", "reference_kl"}


@pytest.mark.parametrize("name", REDUCED)
def test_the_mean_is_that_of_one_value_per_tree(name: str) -> None:
    for forest in FORESTS:
        call, _, values = call_of(name, all_inputs(forest))
        each = call(*values, reduction="none")
        assert each.shape == (forest.num_trees,)
        if name != "log_partition_variance":
            torch.testing.assert_close(each.mean(), call(*values))
        inputs = [x.clone().requires_grad_() for x in values]
        gradients = torch.autograd.grad(
            call(*inputs, reduction="none").sum(), inputs, allow_unused=True, materialize_grads=True
        )
        if name != "log_partition_variance":
            whole = torch.autograd.grad(call(*inputs), inputs, allow_unused=True, materialize_grads=True)
            torch.testing.assert_close([g / forest.num_trees for g in gradients], list(whole))


@pytest.mark.parametrize("name", LIKE_A_TREE_ALONE)
def test_the_value_of_a_tree_is_that_of_the_tree_alone(name: str) -> None:
    for forest in FORESTS:
        inputs = all_inputs(forest)
        call, _, values = call_of(name, inputs)
        each = call(*values, reduction="none")
        for tree, part in enumerate(forest.split()):
            # Of each input, the place of its entries: their number on a forest where all places differ in number.
            places = {70: part.nodes, 63: part.edges, 7: part.leaves}
            own: dict[str, object] = {"forest": part.forest}
            for key, x in inputs.items():
                if torch.is_tensor(x):
                    of_trees = key in ("group", "tree_weight", "log_z")
                    own[key] = x[tree : tree + 1] if of_trees else x[places[len(SIZES[key])]]  # type: ignore[arg-type]
            alone, _, mine = call_of(name, own)
            torch.testing.assert_close(alone(*mine), each[tree])


@pytest.mark.parametrize("name", REDUCED)
def test_weights_of_trees_are_factors(name: str) -> None:
    for forest in FORESTS:
        call, _, values = call_of(name, all_inputs(forest))
        weight = torch.linspace(0.5, 2, forest.num_trees, dtype=torch.float64)
        each = call(*values, reduction="none")
        torch.testing.assert_close(call(*values, reduction="none", tree_weight=weight), weight * each)
        torch.testing.assert_close(call(*values, tree_weight=weight), (weight * each).mean())
        twice = torch.full((forest.num_trees,), 2.0, dtype=torch.float64)
        torch.testing.assert_close(
            call(*values, reduction="pooled", tree_weight=twice), 2 * call(*values, reduction="pooled")
        )


@pytest.mark.parametrize("name", REDUCED)
def test_pooling_trees_alike_is_the_mean(name: str) -> None:
    chains = Forest.from_lengths([3] * 4)
    inputs = all_inputs(chains)
    # Each input is that of the first chain, so that any weights within trees are the same.
    for key, x in inputs.items():
        if torch.is_tensor(x) and key not in ("group", "in_state", "out_state"):
            rows = x.view(4, -1, *x.shape[1:])
            inputs[key] = rows[:1].expand_as(rows).reshape(x.shape).clone()
    call, _, values = call_of(name, inputs)
    torch.testing.assert_close(call(*values, reduction="pooled"), call(*values))


def test_pooled_averages_by_hand() -> None:
    forest = Forest.from_lengths([1, 3, 0])
    inputs = all_inputs(forest)
    logs = [inputs[key] for key in ("log_flow", "log_pf", "log_pb", "log_reward")]
    each = losses.detailed_balance(*logs, forest, reduction="none")  # type: ignore[arg-type]
    torch.testing.assert_close(
        losses.detailed_balance(*logs, forest, reduction="pooled"),
        (1 * each[0] + 3 * each[1]) / 4,  # type: ignore[arg-type]
    )
    for penalty in (losses.squared, losses.huber):
        subtb = partial(losses.subtrajectory_balance, *logs, forest, decay=0.5, penalty=penalty)
        each = subtb(reduction="none")
        # Pairs of the chain of three actions: 3 of one step, 2 of two, 1 of three.
        first, second = 0.5, 3 * 0.5 + 2 * 0.25 + 0.125
        torch.testing.assert_close(subtb(reduction="pooled"), (first * each[0] + second * each[1]) / (first + second))


def test_a_batch_without_anything_to_compare_counts_nothing() -> None:
    forest = Forest.from_lengths([0, 0])
    for name in ("detailed_balance", "subtrajectory_balance", "rooted_prefix_balance"):
        call, _, values = call_of(name, all_inputs(forest))
        assert float(call(*values, reduction="pooled")) == 0


def test_sums_of_terms_keep_trees_apart() -> None:
    forest = Forest.from_lengths([1, 3])
    reading = losses.Reading(**all_inputs(forest))  # type: ignore[arg-type]
    each = partial(losses.detailed_balance, reduction="none")
    both = losses.loss_on(losses.Sum(one=each, other=each), reading)
    torch.testing.assert_close(both, 2 * losses.loss_on(each, reading))


def test_unknown_reductions_are_named() -> None:
    call, _, values = call_of("detailed_balance", all_inputs(FORESTS[0]))
    with pytest.raises(Exception, match="reduction"):
        call(*values, reduction="sum")


def test_prefixes_by_hand() -> None:
    forest = Forest.from_parents(torch.tensor([-1, 0, 0, 1]))
    flow = torch.tensor([1.0, 2.0, 0.0, 0.0], dtype=torch.float64)
    pf, reward = torch.tensor([-0.5, -1.0, -0.25], dtype=torch.float64), torch.tensor([3.0, 4.0], dtype=torch.float64)
    # log F less log F of the root and the path: 2 - 1 + .5, 3 - 1 + 1, 4 - 1 + .75.
    costs = [1.5**2, 3.0**2, 3.75**2]
    expected = (costs[0] + costs[1] + 0.5 * costs[2]) / 2.5
    assert float(losses.rooted_prefix_balance(flow, pf, None, reward, forest, decay=0.5)) == pytest.approx(expected)
    assert float(losses.rooted_prefix_balance(flow, pf, None, reward, forest, shortest=2)) == pytest.approx(costs[2])
    with pytest.raises(ValueError, match="shortest 0"):
        losses.rooted_prefix_balance(flow, pf, None, reward, forest, shortest=0)
