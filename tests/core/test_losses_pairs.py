"""SubTB against every pair listed: the linear form, and the chunks that other penalties take."""

from collections.abc import Callable
from functools import partial
from weakref import WeakValueDictionary

import brute_force
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_table import some_inputs
from torch import Tensor

from gflowdial import Forest, losses
from gflowdial.losses import pairs
from gflowdial.testing import forests, vectors

PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "fourth power": lambda t: t**4,
    "huber": partial(losses.huber, threshold=0.7),
    "linex": partial(losses.linex, rate=-0.5),
}


def random_forest(kind: str, nodes: int, generator: torch.Generator) -> Forest:
    if kind == "chains":
        return Forest.from_lengths([0, nodes - 405, 1, 400])
    if kind == "equal chains":
        return Forest.from_lengths([nodes // 4 - 1] * 4)
    # Parents close by make deep trees, parents anywhere shallow ones.
    reach = 3 if kind == "deep tree" else nodes
    number = torch.arange(nodes)
    back = 1 + (torch.rand(nodes, generator=generator) * number.clamp(1, reach)).long().clamp(max=reach - 1)
    parent = torch.where(torch.rand(nodes, generator=generator) < 0.002, -1, number - torch.minimum(back, number))
    parent[0] = -1
    return Forest.from_parents(parent)


@pytest.mark.parametrize("pair_weight", ["unique", "path"])
@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("kind", ["chains", "equal chains", "deep tree", "shallow tree"])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_subtb_equals_every_pair_listed(kind: str, decay: float, pair_weight: str, offset: float) -> None:
    generator = torch.Generator().manual_seed(2)
    forest = random_forest(kind, 4000, generator)
    flow = torch.randn(forest.num_nodes, generator=generator) + offset
    pf = -torch.rand(forest.num_edges, generator=generator)
    pb = -torch.rand(forest.num_edges, generator=generator)
    reward = torch.randn(forest.num_leaves, generator=generator) + offset
    raw = [x.requires_grad_() for x in (flow, pf, pb, reward)]
    loss = losses.subtrajectory_balance(*raw, forest, decay=decay, pair_weight=pair_weight)  # type: ignore[arg-type]
    wide = [x.detach().double().requires_grad_() for x in raw]
    expected = brute_force.subtb(
        wide[0].index_copy(0, forest.leaves, wide[3]), wide[1] - wide[2], forest, decay, pair_weight
    )
    assert abs(loss.item() / expected.item() - 1) < 1e-6
    for gradient, exact in zip(torch.autograd.grad(loss, raw), torch.autograd.grad(expected, wide), strict=True):
        assert float((gradient - exact).abs().max() / exact.abs().max()) < 1e-6


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
@given(data=st.data())
def test_other_penalties_equal_every_pair_listed(penalty: Callable[[Tensor], Tensor], data: st.DataObject) -> None:
    forest = data.draw(forests())
    decay, pair_weight = data.draw(st.sampled_from([0.3, 1.0])), data.draw(st.sampled_from(["unique", "path"]))
    flow, ratio = data.draw(vectors(forest.num_nodes)), data.draw(vectors(forest.num_edges))
    found = losses.subtrajectory_balance(
        flow, ratio, None, flow[forest.leaves], forest, decay=decay, pair_weight=pair_weight, penalty=penalty
    )
    torch.testing.assert_close(found, brute_force.subtb(flow, ratio, forest, decay, pair_weight, penalty))


@pytest.mark.parametrize("at_once", [1, 3, 10])
@pytest.mark.parametrize(
    "forest", [Forest.from_lengths([4, 0, 3]), Forest.from_parents(torch.tensor([-1, 0, 1, 1, -1, 3, 4]))]
)
def test_chunks_change_nothing(at_once: int, forest: Forest, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(*inputs: Tensor) -> Tensor:
        return losses.subtrajectory_balance(*inputs, forest, penalty=losses.log_cosh)

    inputs = some_inputs(forest)
    whole = loss(*inputs)
    gradients = torch.autograd.grad(whole, inputs)
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", at_once)
    torch.testing.assert_close(loss(*inputs), whole)
    torch.testing.assert_close(torch.autograd.grad(loss(*inputs), inputs), gradients)
    assert torch.autograd.gradgradcheck(loss, inputs, fast_mode=True)


def test_no_more_than_a_chunk_of_pairs_is_ever_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", 1 << 12)
    forest = Forest.from_lengths([600])
    inputs = some_inputs(forest)
    alive: WeakValueDictionary[int, Tensor] = WeakValueDictionary()
    most = 0

    def note(x: Tensor) -> Tensor:
        nonlocal most
        alive[id(x)] = x
        most = max(most, sum(len(x) for x in alive.values() if x.ndim))
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss = losses.subtrajectory_balance(*inputs, forest, penalty=losses.huber)
        after = sum(len(x) for x in alive.values() if x.ndim)
        loss.backward()
    assert forest.num_pairs == 180_300
    assert most < 12 * (1 << 12)
    assert after < 12 * forest.num_nodes


@pytest.mark.parametrize("name", ["huber", "log_cosh", "linex"])
def test_penalties_behave_like_the_square_near_zero(name: str) -> None:
    penalty = getattr(losses, name)
    t = torch.tensor([-1e-4, 0.0, 1e-4], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(penalty(t), t.square(), rtol=1e-3, atol=0)
    curvature = torch.autograd.functional.hessian(lambda t: penalty(t).sum(), t).diagonal()
    torch.testing.assert_close(curvature, torch.full_like(curvature, 2.0), rtol=1e-3, atol=0)
    far = torch.tensor([-700.0, -3.0, 3.0, 700.0], dtype=torch.float64, requires_grad=True)
    value = penalty(far)
    assert (value > 0).all()
    assert torch.autograd.grad(value.sum(), far)[0].isfinite().all()


def test_penalties_by_their_formulas() -> None:
    t = torch.linspace(-4, 4, 33, dtype=torch.float64)
    torch.testing.assert_close(losses.log_cosh(t), 2 * t.cosh().log())
    torch.testing.assert_close(losses.linex(t, 0.5), 8 * ((t / 2).exp() - t / 2 - 1))
    torch.testing.assert_close(
        losses.huber(t, 2.0), 2 * torch.nn.functional.huber_loss(t, 0 * t, reduction="none", delta=2.0)
    )
    with pytest.raises(ValueError, match="threshold"):
        losses.huber(t, 0.0)
    with pytest.raises(ValueError, match="rate"):
        losses.linex(t, 0.0)


def test_a_positive_linex_rate_punishes_sending_too_little() -> None:
    forest = Forest.from_lengths([1])
    flow, reward = torch.zeros(2), torch.zeros(1)
    for loss in (losses.detailed_balance, losses.subtrajectory_balance):
        little, much = (loss(flow, torch.tensor([x]), None, reward, forest, penalty=losses.linex) for x in (-2.0, 2.0))
        assert little > 2 * much
    little, much = (
        losses.trajectory_balance(flow[0], torch.tensor([x]), None, reward, forest, penalty=losses.linex)
        for x in (-2.0, 2.0)
    )
    assert little > 2 * much
