"""Published objectives for language models: the calls of docs/papers.md equal code by hand on a padded batch."""

import pytest
import torch
from torch import Tensor

from gflowdial import Forest, losses

B, T = 6, 12
LENGTHS = torch.tensor([1, 3, 12, 7, 12, 5])
ACTED, STATES = torch.arange(T) < LENGTHS[:, None], torch.arange(T + 1) <= LENGTHS[:, None]
FOREST = Forest.from_mask(ACTED)
GROUP = torch.tensor([0, 0, 0, 1, 1, 1])


def drawn() -> dict[str, Tensor]:
    """The random numbers of one batch, in one order."""
    generator = torch.Generator().manual_seed(0)
    number = {"log_pf": -torch.rand(B, T, generator=generator).double()}
    number["log_stop"] = -torch.rand(B, T + 1, generator=generator).double()
    number["log_reward"] = torch.randn(B, T + 1, generator=generator).double()
    number["log_reference"] = -torch.rand(B, T, generator=generator).double()
    number["log_old"] = number["log_pf"] + 0.02 * torch.randn(B, T, generator=generator).double()
    number["score"] = torch.randn(B, generator=generator).double()
    number["log_z"] = torch.randn(B, generator=generator).double()
    return number


def total(x: Tensor) -> Tensor:
    return (x * ACTED).sum(1)


def mean(x: Tensor) -> Tensor:
    return total(x) / LENGTHS


@pytest.mark.parametrize(("decay", "expected"), [(1.0, 9.586), (0.9, None)])
def test_gflownet_tuning_pools_the_pairs_of_a_batch(decay: float, expected: float | None) -> None:
    x = drawn()
    pf, stop, reward = x["log_pf"], x["log_stop"], x["log_reward"]
    delta = reward[:, :-1] + pf + stop[:, 1:] - reward[:, 1:] - stop[:, :-1]
    along = torch.cat([torch.zeros(B, 1).double(), delta.cumsum(1)], 1)
    cost, weight = torch.zeros(()).double(), torch.zeros(()).double()
    for k in range(1, T + 1):
        cost += decay ** (k - 1) * ((along[:, k:] - along[:, :-k]).square() * STATES[:, k:]).sum()
        weight += decay ** (k - 1) * STATES[:, k:].sum()
    found = losses.modified_subtrajectory_balance(
        stop[STATES], pf[ACTED], None, reward[STATES], FOREST, decay=decay, reduction="pooled"
    )
    torch.testing.assert_close(found, cost / weight)
    if expected is not None:
        assert float(found) == pytest.approx(expected, abs=5e-4)


def test_flowrl_normalises_by_length_and_weighs_by_clipped_ratios() -> None:
    x, beta = drawn(), 15.0
    weight = total(x["log_pf"] - x["log_old"]).exp().clamp(0.8, 1.2)
    residual = x["log_z"] + mean(x["log_pf"]) - beta * x["score"] - mean(x["log_reference"])
    ratio = losses.importance_weight(x["log_pf"][ACTED], x["log_old"][ACTED], FOREST, low=0.8, high=1.2)
    logs = x["log_z"], x["log_pf"][ACTED], x["log_reference"][ACTED], beta * x["score"]
    found = losses.length_normalised_trajectory_balance(*logs, FOREST, leaf_weight=ratio)
    torch.testing.assert_close(found, (weight * residual.square()).mean())
    assert float(found) == pytest.approx(256.2, abs=0.05)
    one_sided = losses.importance_weight(x["log_pf"][ACTED], x["log_old"][ACTED], FOREST, high=1.0)
    torch.testing.assert_close(one_sided, total(x["log_pf"] - x["log_old"]).exp().clamp(max=1.0))


def test_tba_takes_log_z_from_the_prompts_own_samples() -> None:
    x, beta = drawn(), 0.5
    pf = x["log_pf"].clone().requires_grad_()
    implied = x["score"] / beta + total(x["log_reference"]) - total(pf)
    log_z = implied.detach().view(2, 3).mean(1).repeat_interleave(3)
    by_hand = (log_z + total(pf) - total(x["log_reference"]) - x["score"] / beta).square().mean()
    logs = pf[ACTED], x["log_reference"][ACTED], x["score"] / beta
    own = losses.group_log_z(*logs, FOREST, group=GROUP)
    assert not own.requires_grad
    gradient = torch.autograd.grad(by_hand, pf, retain_graph=True)[0]
    for found in (
        losses.trajectory_balance(own, *logs, FOREST),
        losses.log_partition_variance(*logs, FOREST, group=GROUP),
    ):
        torch.testing.assert_close(found, by_hand)
        torch.testing.assert_close(torch.autograd.grad(found, pf, retain_graph=True)[0], gradient)


@pytest.mark.parametrize("length_normalised", [False, True])
def test_gflowrl_clips_the_gap_of_the_rollouts(length_normalised: bool) -> None:
    x, beta, low, high = drawn(), 8.0, 0.2, 0.28
    pf = x["log_pf"].clone().requires_grad_()
    along = mean if length_normalised else total
    drift = along(x["log_reference"] - x["log_old"])
    log_z = (beta * x["score"] + drift).view(2, 3).mean(1).repeat_interleave(3)
    gap = (log_z - drift - beta * x["score"]).clamp(-low, high)
    weight = along(pf - x["log_old"]).exp().detach().clamp(max=1.1)
    by_hand = (weight * (gap + along(pf - x["log_old"])).square()).mean()

    old, reference, reward = x["log_old"][ACTED], x["log_reference"][ACTED], beta * x["score"]
    options = {"length_normalised": length_normalised}
    own = losses.group_log_z(old, reference, reward, FOREST, group=GROUP, **options)
    clipped = losses.path_residual(own, old, reference, reward, FOREST, **options).clamp(-high, low)
    ratio = losses.importance_weight(pf[ACTED], old, FOREST, high=1.1, **options)
    loss = losses.length_normalised_trajectory_balance if length_normalised else losses.trajectory_balance
    # What is left of the gap is the reward of a policy that starts from the one that acted.
    found = loss(torch.zeros(()).double(), pf[ACTED], old, clipped, FOREST, leaf_weight=ratio)
    torch.testing.assert_close(found, by_hand)
    torch.testing.assert_close(torch.autograd.grad(found, pf)[0], torch.autograd.grad(by_hand, pf)[0])


def test_raptb_gives_prefixes_what_their_suffix_earned() -> None:
    x, eta, gamma, alpha, beta, rho, decay, shortest = drawn(), 0.25, 0.99, 0.5, 5.0, 0.1, 0.9, 2
    task = x["log_reward"].clamp(min=0)
    pf, stop, reward, log_z = x["log_pf"].clone().requires_grad_(), x["log_stop"], x["log_reward"], x["log_z"][0]
    by_hand = torch.zeros(()).double()
    for i, n in enumerate(LENGTHS.tolist()):
        prefix = torch.cat([torch.zeros(1).double(), pf[i, :n].cumsum(0)])
        anchor = log_z + prefix[n] + stop[i, n] - reward[i, n]
        cost = weight = torch.zeros(()).double()
        for k in range(shortest, n + 1):
            residual = prefix[k] + stop[i, k] - reward[i, k] - (stop[i, 0] - reward[i, 0])
            if task[i, k] <= 1e-6:
                later = task[i, k : n + 1]
                soft = (beta * (later - rho * torch.arange(len(later)))).logsumexp(0) / beta
                target = alpha * later.max() + (1 - alpha) * soft
                residual = residual + gamma ** (n - k) * (task[i, k] - target)
            cost = cost + decay ** (k - shortest) * residual.square()
            weight = weight + decay ** (k - shortest)
        by_hand = by_hand + (anchor.square() + eta * cost / weight.clamp(min=1e-8)) / B

    leaves, logs = FOREST.leaves, (pf[ACTED], None)
    flow = reward[STATES] - stop[STATES]
    rewards = {"discount": gamma, "greatest": alpha, "sharpness": beta, "distance": rho}
    absorbed = losses.absorbed_reward(reward[STATES], task[STATES], FOREST, **rewards)
    # The root's own flow is no target.
    ahead = (absorbed - stop[STATES]).index_copy(0, FOREST.roots, flow[FOREST.roots])
    anchor = losses.trajectory_balance(log_z, *logs, flow[leaves], FOREST)
    prefixes = losses.rooted_prefix_balance(ahead, *logs, ahead[leaves], FOREST, decay=decay, shortest=shortest)
    found = anchor + eta * prefixes
    torch.testing.assert_close(found, by_hand)
    torch.testing.assert_close(torch.autograd.grad(found, pf)[0], torch.autograd.grad(by_hand, pf)[0])


def test_absorbed_rewards_of_a_tree_are_those_of_its_subtrees() -> None:
    forest = Forest.from_parents(torch.tensor([-1, 0, 0, 1, 1]))
    task = torch.tensor([0.0, 0.0, 3.0, 1.0, 2.0], dtype=torch.float64)
    found = losses.absorbed_reward(task, task, forest, discount=0.5, greatest=1.0)
    torch.testing.assert_close(found, torch.tensor([0.75, 1.0, 3.0, 1.0, 2.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="sharpness are"):
        losses.absorbed_reward(task, task, forest, sharpness=0.0)


def test_floors_and_bad_limits() -> None:
    reward = torch.tensor([-torch.inf, -3.0, 1.0, torch.nan])
    torch.testing.assert_close(losses.floored(reward, -2.0), torch.tensor([-2.0, -2.0, 1.0, torch.nan]), equal_nan=True)
    with pytest.raises(ValueError, match="floor is -inf"):
        losses.floored(reward, -torch.inf)
    with pytest.raises(ValueError, match="low is 2"):
        losses.importance_weight(torch.zeros(1), torch.zeros(1), Forest.from_lengths([1]), low=2.0, high=1.0)


def test_variance_with_another_penalty() -> None:
    x = drawn()
    implied = x["score"] + total(x["log_reference"]) - total(x["log_pf"])
    deviation = (implied.view(2, 3) - implied.view(2, 3).mean(1, keepdim=True)).view(-1)
    logs = x["log_pf"][ACTED], x["log_reference"][ACTED], x["score"]
    found = losses.log_partition_variance(*logs, FOREST, group=GROUP, penalty=losses.huber)
    torch.testing.assert_close(found, losses.huber(deviation).mean())
