"""Equal states are found, whatever their hashes; what is computed of each once is what is computed of every row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gflowdial.envs import Hypergrid
from gflowdial.estimators import FlowEstimates, MLPTrunk, NetworkFlow
from gflowdial.estimators import distinct as module
from gflowdial.estimators.distinct import FEW, distinct
from gflowdial.estimators.flow_estimator import Backward


@st.composite
def states(draw: st.DrawFn) -> Tensor:
    width, rows = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    numbers = st.sampled_from([-1, 0, 1, 2**40, 2**62, -(2**63)])
    row = st.lists(numbers, min_size=width, max_size=width)
    return torch.tensor(draw(st.lists(row, min_size=rows, max_size=rows)))


@given(states())
def test_the_distinct_rows_are_those_of_the_set_of_rows(rows: Tensor) -> None:
    found, place = distinct(rows)
    assert torch.equal(found[place], rows)
    assert sorted(map(tuple, found.tolist())) == sorted(set(map(tuple, rows.tolist())))


def test_rows_whose_hashes_collide_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_multipliers", lambda width, _: torch.ones(width, dtype=torch.int64))
    rows = torch.tensor([[0, 1], [1, 0], [0, 1], [2, 2]])
    found, place = distinct(rows)
    assert torch.equal(found[place], rows)
    assert len(found) == 3


@pytest.mark.parametrize("backward", ["learned", "uniform"])
def test_a_network_says_of_many_states_what_it_says_of_few(backward: Backward) -> None:
    grid = Hypergrid(2, 4)
    torch.manual_seed(0)
    network = NetworkFlow(grid, MLPTrunk(grid.num_features, width=16), backward=backward).double()
    batch = torch.randint(4, (3 * FEW, 3))
    batch[:, -1] %= 2
    pieces = [network(piece) for piece in batch.split(FEW - 1)]
    parts = [torch.cat(part) for part in zip(*(_parts(piece) for piece in pieces), strict=True)]
    whole = _parts(network(batch))
    for ours, expected in zip(whole, parts, strict=True):
        torch.testing.assert_close(ours, expected)
    for asked, expected in ((network.forward_policy, parts[0]), (network.backward_policy, parts[1])):
        torch.testing.assert_close(asked(batch), expected)
    gradients = [torch.autograd.grad(_score(said), list(network.trunk.parameters())) for said in (whole, parts)]
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected)


def _parts(said: FlowEstimates) -> list[Tensor]:
    return [said.log_pf, said.log_pb, said.log_flow]


def _score(parts: list[Tensor]) -> Tensor:
    """A number that weighs every finite entry differently."""
    finite = torch.cat([part.flatten().where(part.flatten() > -torch.inf, 0.0) for part in parts])
    return finite @ torch.linspace(-1, 1, len(finite), dtype=finite.dtype)
