"""What sets each loss apart: its formula one term at a time, and the policy at which it rests."""

import brute_force
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_table import anchored, some_inputs
from torch import Tensor

from gflowdial import Forest, losses, oracle
from gflowdial.dag import Dag
from gflowdial.testing import DagFlow, balanced_dag_flows, balanced_flows, dags, forests, vectors

few = settings(max_examples=20)


@st.composite
def unbalanced(draw: st.DrawFn) -> tuple[Forest, Tensor, Tensor, Tensor, Tensor]:
    """A forest with any log F, log P_F, log P_B and log R."""
    forest = draw(forests(max_nodes=20))
    sizes = (forest.num_nodes, forest.num_edges, forest.num_edges, forest.num_leaves)
    return (forest, *(draw(vectors(size)) for size in sizes))


@few
@given(drawn=unbalanced())
def test_tb_and_db_by_their_formulas(drawn: tuple[Forest, ...]) -> None:
    forest, flow, pf, pb, reward = drawn
    z = flow[forest.roots]
    mismatch = z[forest.leaf_tree] + brute_force.leaf_sums(forest, pf - pb) - reward
    expected = brute_force.tree_mean(list(mismatch.square()), forest.leaf_tree.tolist(), forest)
    torch.testing.assert_close(losses.trajectory_balance(z, pf, pb, reward, forest), expected)
    held = anchored(flow, reward, forest)
    steps = [
        (held[parent] + pf[e] - held[child] - pb[e]).square()
        for e, (parent, child) in enumerate(zip(forest.edge_parent, forest.edge_child, strict=True))
    ]
    expected = brute_force.tree_mean(steps, forest.edge_tree.tolist(), forest)
    torch.testing.assert_close(losses.detailed_balance(flow, pf, pb, reward, forest), expected)


@few
@given(drawn=unbalanced(), data=st.data())
def test_variance_within_each_group(drawn: tuple[Forest, ...], data: st.DataObject) -> None:
    forest, _, pf, pb, reward = drawn
    ids = data.draw(st.lists(st.sampled_from([-3, 5, 10**12]), min_size=forest.num_trees, max_size=forest.num_trees))
    group = torch.tensor(ids)
    log_z = reward - brute_force.leaf_sums(forest, pf - pb)
    variances = [log_z[group[forest.leaf_tree] == i].var(correction=0) for i in sorted(set(ids))]
    found = losses.log_partition_variance(pf, pb, reward, forest, group=group)
    torch.testing.assert_close(found, torch.stack(variances).mean())


def test_variance_needs_no_common_z_but_two_of_a_kind() -> None:
    """Perfect policies for two prompts: nothing to learn within groups, a loss across them."""
    forest = Forest.from_lengths([1, 1, 1, 1])
    reward = torch.tensor([0.0, 1.0, 7.0, 9.0])
    pf = (reward.view(2, 2) - reward.view(2, 2).logsumexp(1, keepdim=True)).flatten().requires_grad_()
    pair = torch.tensor([4, 4, 1, 1])
    assert losses.log_partition_variance(pf, None, reward, forest, group=pair) < 1e-12
    assert losses.log_partition_variance(pf, None, reward, forest, group=torch.zeros(4, dtype=torch.int64)) > 1
    alone = losses.log_partition_variance(pf, None, reward, forest, group=torch.arange(4))
    alone.backward()
    assert alone == 0
    assert pf.grad is not None
    assert (pf.grad == 0).all()
    # The shape checker of the tests speaks up before the library does.
    with pytest.raises(Exception, match="group"):
        losses.log_partition_variance(pf, None, reward, forest, group=reward)


@few
@given(data=st.data())
def test_modified_losses_rest_where_every_state_is_an_end_in_proportion_to_its_reward(data: st.DataObject) -> None:
    forest = data.draw(forests(max_nodes=20))
    reward = data.draw(vectors(forest.num_nodes))
    flow = forest.subtree_logsumexp(reward)
    stop, pf = reward - flow, flow[forest.edge_child] - flow[forest.edge_parent]
    ends = forest.root_sum(pf) + stop
    torch.testing.assert_close(ends, reward - flow[forest.roots][forest.tree])
    for loss in (losses.modified_detailed_balance, losses.modified_subtrajectory_balance):
        assert loss(stop, pf, None, reward, forest) < 1e-20
        if forest.num_edges:
            assert loss(stop, pf + 0.1, None, reward, forest) > 1e-3
            assert loss(stop + 0.1 * forest.depth, pf, None, reward, forest) > 1e-3


def test_modified_detailed_balance_by_its_formula() -> None:
    forest = Forest.from_lengths([1])
    stop, pf, pb, reward = (torch.tensor(x) for x in ([-0.5, -0.2], [-0.9], [-0.7], [1.0, 3.0]))
    expected = (1.0 - 0.9 - 0.2 - (3.0 - 0.7 - 0.5)) ** 2
    assert losses.modified_detailed_balance(stop, pf, pb, reward, forest).item() == pytest.approx(expected)
    assert losses.modified_subtrajectory_balance(stop, pf, pb, reward, forest).item() == pytest.approx(expected)


@few
@given(drawn=unbalanced(), data=st.data())
def test_forward_looking_residuals(drawn: tuple[Forest, ...], data: st.DataObject) -> None:
    forest, flow, pf, pb, reward = drawn
    paid = data.draw(vectors(forest.num_edges))
    ahead = anchored(flow, reward - brute_force.leaf_sums(forest, paid), forest)
    found = losses.forward_looking_detailed_balance(flow, pf, pb, reward, forest, log_turn_reward=paid)
    steps = [
        (ahead[parent] + pf[e] - ahead[child] - pb[e] - paid[e]).square()
        for e, (parent, child) in enumerate(zip(forest.edge_parent, forest.edge_child, strict=True))
    ]
    torch.testing.assert_close(found, brute_force.tree_mean(steps, forest.edge_tree.tolist(), forest))
    found = losses.forward_looking_subtrajectory_balance(
        flow, pf, pb, reward, forest, log_turn_reward=paid, decay=0.7, pair_weight="path"
    )
    torch.testing.assert_close(found, brute_force.subtb(ahead, pf - pb - paid, forest, 0.7, "path"))


def nodes_reward(dag: Dag, log_reward: Tensor) -> Tensor:
    return log_reward.new_full((dag.num_nodes,), -torch.inf).index_copy(0, dag.terminals, log_reward)


@few
@given(drawn=balanced_dag_flows(dags()), data=st.data())
def test_flow_matching_rests_at_every_exact_flow_of_a_graph(drawn: DagFlow, data: st.DataObject) -> None:
    dag = drawn.dag
    edge_flow = (drawn.log_flow[dag.source] + drawn.log_pf).requires_grad_()
    reward = nodes_reward(dag, drawn.log_reward)
    loss = losses.flow_matching(edge_flow, edge_flow, reward, dag.target, dag.source)
    assert loss < 1e-20
    assert (torch.autograd.grad(loss, edge_flow)[0].abs() < 1e-9).all()
    if len(edge_flow):
        edge = data.draw(st.integers(0, len(edge_flow) - 1))
        moved = edge_flow.detach().index_add(0, torch.tensor([edge]), torch.tensor([1.0]).double())
        # The state that the edge enters has a change on one side alone.
        assert losses.flow_matching(moved, moved, reward, dag.target, dag.source) > 1e-12


def test_flow_matching_by_its_formula_on_some_states() -> None:
    """States: 0 is entered twice and left once, 1 is entered and ends, 2 is an initial state."""
    inward, outward = torch.tensor([0.1, 0.7, -0.4], requires_grad=True), torch.tensor([0.3, 1.1], requires_grad=True)
    reward = torch.tensor([-1.0, 2.0, -torch.inf], requires_grad=True)
    loss = losses.flow_matching(inward, outward, reward, torch.tensor([0, 1, 0]), torch.tensor([0, 2]))
    first = torch.logaddexp(torch.tensor(0.1), torch.tensor(-0.4)) - torch.logaddexp(
        torch.tensor(0.3), torch.tensor(-1.0)
    )
    torch.testing.assert_close(loss, (first**2 + (0.7 - 2.0) ** 2) / 2)
    for gradient in torch.autograd.grad(loss, (inward, outward, reward)):
        assert gradient.isfinite().all()
    nothing = torch.zeros(0)
    no_edges = torch.zeros(0, dtype=torch.int64)
    assert losses.flow_matching(nothing, nothing, torch.zeros(2), no_edges, no_edges) == 0
    with pytest.raises(ValueError, match="out_state must index the 3 entries"):
        losses.flow_matching(inward, outward, reward, torch.tensor([0, 1, 0]), torch.tensor([0, 3]))
    with losses.require_finite():
        losses.flow_matching(inward, outward, reward, torch.tensor([0, 1, 0]), torch.tensor([0, 2]))
        with pytest.raises(ValueError, match=r"log_out_flow\[1\] is nan: an edge out of state 2"):
            losses.flow_matching(
                inward, torch.tensor([0.0, torch.nan]), reward, torch.tensor([0, 1, 0]), torch.tensor([0, 2])
            )
        with pytest.raises(ValueError, match=r"log_reward\[1\] is inf: state 1"):
            losses.flow_matching(
                inward, outward, torch.tensor([0, torch.inf, 0]), torch.tensor([0, 1, 0]), torch.tensor([0, 2])
            )


@few
@given(data=st.data())
def test_relative_losses_rest_at_the_tilted_reference(data: st.DataObject) -> None:
    forest = data.draw(forests(max_nodes=20))
    reward, logits = data.draw(vectors(forest.num_leaves)), data.draw(vectors(forest.num_edges))
    temperature = data.draw(st.sampled_from([0.5, 1.0, 3.0]))
    total = torch.zeros(forest.num_nodes, dtype=torch.float64).index_add(0, forest.edge_parent, logits.exp())
    reference = logits - total[forest.edge_parent].log()
    target = brute_force.leaf_sums(forest, reference) + reward / temperature
    # The policy that samples leaves in proportion to π_ref · R^(1/T) is the exact one for that as a reward.
    flow, pf = oracle.exact_flows(forest, target)
    ahead = flow - forest.root_sum(reference)
    found = losses.relative_trajectory_balance(
        flow[forest.roots], pf, reference, reward, forest, temperature=temperature
    )
    assert found < 1e-20
    assert losses.relative_subtrajectory_balance(ahead, pf, reference, reward, forest, temperature=temperature) < 1e-20
    if forest.num_edges:
        assert losses.relative_subtrajectory_balance(ahead, pf - 0.1, reference, reward, forest) > 1e-4


def test_temperature_must_be_positive() -> None:
    forest = Forest.from_lengths([1])
    with pytest.raises(ValueError, match="temperature"):
        losses.relative_trajectory_balance(
            torch.zeros(1), torch.zeros(1), torch.zeros(1), torch.zeros(1), forest, temperature=0.0
        )


@st.composite
def chance_forests(draw: st.DrawFn) -> tuple[Forest, Tensor, Tensor, Tensor]:
    """``(forest, chance, log_chance, log_reward)``; the chances at a node sum to 1."""
    forest = draw(forests(max_nodes=20))
    chance = torch.tensor(draw(st.lists(st.booleans(), min_size=forest.num_nodes, max_size=forest.num_nodes)))
    logits = draw(vectors(forest.num_edges))
    total = torch.zeros(forest.num_nodes, dtype=torch.float64).index_add(0, forest.edge_parent, logits.exp())
    return forest, chance, logits - total[forest.edge_parent].log(), draw(vectors(forest.num_leaves))


@few
@given(drawn=chance_forests(), data=st.data())
def test_expected_balance_rests_at_the_expected_flows(drawn: tuple[Forest, ...], data: st.DataObject) -> None:
    forest, chance, log_chance, reward = drawn
    exact, log_pf = oracle.expected_flows(forest, reward, chance=chance, log_chance=log_chance)
    inputs = [exact.clone().requires_grad_(), log_pf.clone().requires_grad_(), reward.clone().requires_grad_()]
    loss = losses.expected_detailed_balance(*inputs, forest, chance=chance)
    assert loss < 1e-20
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    assert all((gradient.abs() < 1e-9).all() for gradient in gradients)
    inner = torch.nonzero(forest.num_children > 0).squeeze(1)
    if len(inner):
        node = inner[data.draw(st.integers(0, len(inner) - 1))]
        assert (
            losses.expected_detailed_balance(exact.index_fill(0, node, 20.0), log_pf, reward, forest, chance=chance) > 1
        )


@few
@given(drawn=chance_forests(), data=st.data())
def test_expected_balance_by_its_formula(drawn: tuple[Forest, ...], data: st.DataObject) -> None:
    forest, chance, log_pf, reward = drawn
    flow = anchored(data.draw(vectors(forest.num_nodes)), reward, forest)
    costs, tree = [], []
    for node in range(forest.num_nodes):
        edges = torch.nonzero(forest.edge_parent == node).squeeze(1)
        reached = log_pf[edges] + flow[forest.edge_child[edges]] if chance[node] else flow[forest.edge_child[edges]]
        if chance[node] and len(edges):
            costs.append((reached.logsumexp(0) - flow[node]).square())
        elif not chance[node]:
            costs.extend((reached - flow[node] - log_pf[edges]).square())
        tree.extend([int(forest.tree[node])] * (len(costs) - len(tree)))
    found = losses.expected_detailed_balance(flow, log_pf, reward, forest, chance=chance)
    torch.testing.assert_close(found, brute_force.tree_mean(costs, tree, forest))


def test_stochastic_balance_is_out_of_reach_where_rewards_do_not_follow_the_dice() -> None:
    """One action, two answers with even chances: rewards 1 and 1 can be balanced, 1 and 9 cannot, but averaged."""
    forest = Forest.from_parents(torch.tensor([-1, 0, 0]))
    answer, pf = torch.full((2,), 0.5).log().double(), torch.zeros(2, dtype=torch.float64)
    for ratio, expected in ((1.0, 0.0), (9.0, torch.tensor(3.0).double().log().square())):
        reward = torch.tensor([1.0, ratio], dtype=torch.float64).log()
        # The best log F(root) lies between what either answer asks for.
        flow = torch.zeros(3, dtype=torch.float64).index_fill(0, torch.tensor([0]), float((reward - answer).mean()))
        found = losses.stochastic_detailed_balance(flow, pf, None, reward, forest, log_dynamics=answer)
        assert float(found) == pytest.approx(float(expected), abs=1e-12)
        root = (reward + answer).logsumexp(0, keepdim=True)
        chance = torch.tensor([True, False, False])
        assert (
            losses.expected_detailed_balance(torch.cat([root, reward]), answer, reward, forest, chance=chance) < 1e-20
        )


def test_the_model_of_the_environment_does_not_bend() -> None:
    forest = Forest.from_lengths([2])
    flow, pf, answer, reward = some_inputs(forest)
    loss = losses.stochastic_detailed_balance(flow, pf, None, reward, forest, log_dynamics=answer)
    loss.backward()
    assert answer.grad is None
    assert pf.grad is not None
    torch.testing.assert_close(loss, losses.detailed_balance(flow, pf + answer, None, reward, forest))
    torch.testing.assert_close(losses.dynamics_likelihood(answer, forest), -answer.mean())


@few
@given(flow=balanced_flows(forests(max_nodes=20), any_backward=False))
def test_likelihood_rests_at_the_target(flow) -> None:
    forest = flow.forest
    logits = flow.log_pf.clone().requires_grad_()
    total = torch.zeros(forest.num_nodes, dtype=torch.float64).index_add(0, forest.edge_parent, logits.exp())
    loss = losses.maximum_likelihood(logits - total[forest.edge_parent].log(), flow.log_reward, forest)
    share = flow.log_reward - flow.log_z[forest.leaf_tree]
    entropy = torch.zeros(forest.num_trees).double().index_add(0, forest.leaf_tree, -share.exp() * share)
    torch.testing.assert_close(loss, entropy.mean())
    gradient = torch.autograd.grad(loss, logits, allow_unused=True, materialize_grads=True)[0]
    assert (gradient.abs() < 1e-9).all()


def test_likelihood_of_data_counts_each_path_once() -> None:
    forest = Forest.from_parents(torch.tensor([-1, 0, 0, 1, -1, 4]))
    pf = torch.tensor([-1.0, -2.0, -4.0, -8.0])
    # Paths -1-4 and -2 in the first tree, -8 in the second.
    assert losses.maximum_likelihood(pf, None, forest) == ((5.0 + 2.0) / 2 + 8.0) / 2


@few
@given(drawn=unbalanced())
def test_length_normalised_and_clipped_by_their_formulas(drawn: tuple[Forest, ...]) -> None:
    forest, flow, pf, pb, reward = drawn
    z = flow[forest.roots]
    reached = brute_force.leaf_sums(forest, pf - pb)
    mean_step = reached / forest.depth[forest.leaves].clamp(min=1)
    mismatch = (z[forest.leaf_tree] + mean_step - reward).square()
    expected = brute_force.tree_mean(list(mismatch), forest.leaf_tree.tolist(), forest)
    found = losses.length_normalised_trajectory_balance(z, pf, pb, reward, forest)
    torch.testing.assert_close(found, expected)
    weight = brute_force.leaf_sums(forest, pf - flow[forest.edge_child]).exp().clamp(0.7, 1.3)
    mismatch = weight * (z[forest.leaf_tree] + reached - reward).square()
    found = losses.clipped_trajectory_balance(
        z, pf, pb, reward, forest, log_behaviour=flow[forest.edge_child], clip=0.3
    )
    torch.testing.assert_close(found, brute_force.tree_mean(list(mismatch), forest.leaf_tree.tolist(), forest))


def test_length_normalisation_samples_powers_of_the_reward() -> None:
    """Leaves at depths 1, 2 and 2 under a root: P(x) = (R/Z)^T with the Z that makes them sum to 1."""
    forest = Forest.from_parents(torch.tensor([-1, 0, 0, 2, 2]))
    reward = torch.tensor([0.2, -0.3, 0.9], dtype=torch.float64)
    steps = forest.depth[forest.leaves].double()
    low, high = -10.0, 10.0
    while high - low > 1e-14:
        middle = (low + high) / 2
        low, high = (middle, high) if float((steps * (reward - middle)).exp().sum()) > 1 else (low, middle)
    share = steps * (reward - low)
    _, pf = oracle.exact_flows(forest, share)
    z = torch.tensor([low], dtype=torch.float64)
    assert losses.length_normalised_trajectory_balance(z, pf, None, reward, forest) < 1e-20
    torch.testing.assert_close(oracle.terminating_distribution(forest, pf), share)


def test_no_gradient_flows_through_clipped_weights() -> None:
    forest = Forest.from_lengths([2])
    flow, pf, _, reward = some_inputs(forest)
    behaviour = pf.detach() - 0.05
    loss = losses.clipped_trajectory_balance(flow[:1], pf, None, reward, forest, log_behaviour=behaviour)
    plain = losses.trajectory_balance(flow[:1], pf, None, reward, forest)
    weight = torch.tensor(0.1).double().exp()
    torch.testing.assert_close(loss, weight * plain)
    torch.testing.assert_close(torch.autograd.grad(loss, pf)[0], weight * torch.autograd.grad(plain, pf)[0])
    with pytest.raises(ValueError, match="clip"):
        losses.clipped_trajectory_balance(flow[:1], pf, None, reward, forest, log_behaviour=behaviour, clip=1.0)
