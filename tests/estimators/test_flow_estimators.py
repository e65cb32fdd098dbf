"""P_F and P_B are distributions over valid actions, gradients are finite, and no answer depends on another state."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gflowdial.envs import Hypergrid, enumerate_states
from gflowdial.estimators import (
    FlowEstimator,
    MLPTrunk,
    NetworkFlow,
    NetworkLogZ,
    TabularFlow,
    TabularLogZ,
    TransformerTrunk,
    masked_log_softmax,
)

GRID = Hypergrid(2, 3)
GRAPH = enumerate_states(GRID)
TERMINAL = ~GRID.forward_mask(GRAPH.states).any(1)


def mlp() -> MLPTrunk:
    return MLPTrunk(GRID.num_features, width=16)


def transformer() -> TransformerTrunk:
    return TransformerTrunk(GRID.num_features, GRID.num_features, width=8, heads=2)


def estimators() -> dict[str, TabularFlow | NetworkFlow]:
    torch.manual_seed(0)
    found: dict[str, TabularFlow | NetworkFlow] = {
        "tabular": TabularFlow(GRID, GRAPH.index, len(GRAPH.states), backward="learned"),
        "tabular, uniform P_B": TabularFlow(GRID, GRAPH.index, len(GRAPH.states)),
        "mlp": NetworkFlow(GRID, mlp(), backward="learned"),
        "mlp, uniform P_B": NetworkFlow(GRID, mlp()),
        "mlp, a trunk each": NetworkFlow(GRID, mlp(), backward="learned", backward_trunk=mlp(), flow_trunk=mlp()),
        "transformer": NetworkFlow(GRID, transformer(), backward="learned"),
    }
    for estimator in found.values():
        # Far from even, so that a wrong row or column shows.
        for parameter in estimator.parameters():
            torch.nn.init.normal_(parameter)
    return {name: estimator.double() for name, estimator in found.items()}


ESTIMATORS = estimators()
each_estimator = pytest.mark.parametrize("name", ESTIMATORS)


@given(st.data())
def test_masked_log_softmax_is_that_of_the_valid_actions_alone(data: st.DataObject) -> None:
    rows, actions = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    size = rows * actions
    numbers = st.floats(-1e30, 1e30) | st.floats(-5, 5)
    scores = torch.tensor(data.draw(st.lists(numbers, min_size=size, max_size=size)), dtype=torch.float64)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    scores, mask = scores.view(rows, actions).requires_grad_(), mask.view(rows, actions)
    log_p = masked_log_softmax(scores, mask)
    assert (log_p[~mask] == -torch.inf).all()
    for row in range(rows):
        torch.testing.assert_close(log_p[row, mask[row]], scores[row, mask[row]].log_softmax(0))
    (gradient,) = torch.autograd.grad(log_p[mask].sum() if mask.any() else (0 * log_p[~mask].exp()).sum(), scores)
    assert gradient.isfinite().all()
    assert (gradient[~mask] == 0).all()


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("hostile", [torch.nan, torch.inf, -torch.inf])
def test_a_masked_score_is_never_read(hostile: float) -> None:
    scores = torch.tensor([[1.0, hostile, 2.0], [hostile, hostile, hostile]], requires_grad=True)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    log_p = masked_log_softmax(scores, mask)
    torch.testing.assert_close(log_p[0, [0, 2]], torch.tensor([1.0, 2.0]).log_softmax(0))
    with torch.autograd.detect_anomaly(check_nan=True):
        log_p = masked_log_softmax(scores, mask)
        (gradient,) = torch.autograd.grad(log_p[mask].square().sum(), scores)
    assert gradient.isfinite().all()


@each_estimator
def test_estimators_meet_the_protocol(name: str) -> None:
    assert isinstance(ESTIMATORS[name], FlowEstimator)


@each_estimator
def test_policies_are_distributions_over_valid_actions(name: str) -> None:
    estimates = ESTIMATORS[name](GRAPH.states)
    for log_p, mask in (
        (estimates.log_pf, GRID.forward_mask(GRAPH.states)),
        (estimates.log_pb, GRID.backward_mask(GRAPH.states)),
    ):
        torch.testing.assert_close(log_p.isfinite(), mask)
        torch.testing.assert_close(log_p.exp().sum(1), mask.any(1).double())


@pytest.mark.parametrize("name", ["tabular, uniform P_B", "mlp, uniform P_B"])
def test_uniform_backward_counts_parents(name: str) -> None:
    mask = GRID.backward_mask(GRAPH.states)
    expected = torch.where(mask, 1 / mask.sum(1, keepdim=True), 0.0).double()
    torch.testing.assert_close(ESTIMATORS[name](GRAPH.states).log_pb.exp(), expected)


@each_estimator
def test_policies_alone_say_the_same(name: str) -> None:
    estimator = ESTIMATORS[name]
    estimates = estimator(GRAPH.states)
    torch.testing.assert_close(estimator.forward_policy(GRAPH.states), estimates.log_pf)
    torch.testing.assert_close(estimator.backward_policy(GRAPH.states), estimates.log_pb)


@each_estimator
def test_a_state_is_answered_alike_in_any_company(name: str) -> None:
    whole = ESTIMATORS[name](GRAPH.states)
    order = torch.randperm(len(GRAPH.states), generator=torch.Generator().manual_seed(0))[:7]
    part = ESTIMATORS[name](GRAPH.states[order])
    for field in ("log_pf", "log_pb", "log_flow"):
        torch.testing.assert_close(getattr(part, field), getattr(whole, field)[order])
    # Different states are told apart.
    assert len(whole.log_flow.unique()) == len(GRAPH.states)


@each_estimator
def test_gradients_are_finite_and_reach_every_parameter(name: str) -> None:
    estimator = ESTIMATORS[name]
    estimates = estimator(GRAPH.states)
    weights = torch.linspace(1.0, 2.0, GRID.num_actions, dtype=torch.float64)

    def weighted(log_p: Tensor) -> Tensor:
        return torch.where(log_p.isfinite(), log_p, 0.0).mul(weights).sum()

    log_z = estimator.log_z(torch.zeros(2, dtype=torch.int64)).sum()
    total = weighted(estimates.log_pf) + weighted(estimates.log_pb) + estimates.log_flow.sum() + log_z
    named = dict(estimator.named_parameters())
    gradients = torch.autograd.grad(total, list(named.values()))
    for parameter, gradient in zip(named, gradients, strict=True):
        assert gradient.isfinite().all(), parameter
        assert (gradient != 0).any(), parameter


def test_trunks_of_their_own_share_nothing() -> None:
    shared, apart = ESTIMATORS["mlp"], ESTIMATORS["mlp, a trunk each"]
    assert isinstance(shared, NetworkFlow)
    assert isinstance(apart, NetworkFlow)
    for estimator, reached in ((shared, True), (apart, False)):
        flow = estimator(GRAPH.states).log_flow.sum()
        gradients = torch.autograd.grad(flow, list(estimator.trunk.parameters()), allow_unused=True)
        assert any(gradient is not None for gradient in gradients) == reached


def test_a_trunk_for_a_uniform_backward_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="leave backward_trunk out"):
        NetworkFlow(GRID, mlp(), backward_trunk=mlp())


def test_features_that_make_no_equal_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="num_tokens is 3 and does not divide the 7 features"):
        TransformerTrunk(7, 3)


def test_log_z_by_condition() -> None:
    table = TabularLogZ(3)
    with torch.no_grad():
        table.values.copy_(torch.tensor([1.0, 2.0, 3.0]))
    asked = torch.tensor([2, 0, 2])
    torch.testing.assert_close(table(asked), torch.tensor([3.0, 1.0, 3.0]))
    network = NetworkLogZ(MLPTrunk(3, width=8), torch.eye(3))
    torch.testing.assert_close(network(asked), network(torch.arange(3))[asked])
    assert len(network(torch.arange(3)).unique()) == 3
