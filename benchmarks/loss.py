"""The losses beside torchgfn's, dense forms and a loop: time, memory, and what bounds both.

Every contestant gets the same float32 input and must give the same value and gradient before it is timed; they take
turns in one process with one thread. Peak memory is measured in a process of its own for each case.

Run: python -m benchmarks loss
"""

import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import loss_contestants as forms
from benchmarks import loss_report, loss_trees
from benchmarks.measure import Work, load, machine, peak_extra_mib, side_by_side
from benchmarks.provenance import results_path, write_results
from gflowdial import Forest, losses

LENGTHS = (16, 64, 256, 1024, 4096)
BATCH = 64
DECAYS = (1.0, 0.9)
BAR = 1e-3
"""Largest relative difference of value and of gradient between float32 contestants and ours."""
UP_TO = {"torchgfn": 1024, "dense": 1024, "loop": 64, "search": 160, "ragged": 256, "deep": 1024}
"""Lengths that a contestant is measured to: beyond, it wants more than 10 GiB or more than a minute a call."""

SIMULATIONS = (10, 40, 160)
FORMS = ("gflowdial", "torchgfn", "dense", "matrix")
ROUNDS = 9

Result = tuple[Tensor, ...]
Step = Callable[[], Result]


@dataclass(frozen=True)
class Chains:
    """``[B, T]`` inputs and ``log_reward [B]``, log_z; every contestant lays them out in its own way."""

    log_flow: Tensor
    log_pf: Tensor
    log_pb: Tensor
    log_reward: Tensor
    log_z: Tensor

    @staticmethod
    def random(length: int) -> "Chains":
        generator = torch.Generator().manual_seed(0)
        flow, pf, pb = (torch.randn(BATCH, length, generator=generator) for _ in range(3))
        # torchgfn takes P_B of the last action, its exit, to be 1.
        pb[:, -1] = 0.0
        return Chains(flow, pf, pb, torch.randn(BATCH, generator=generator), torch.randn((), generator=generator))


def with_gradient(loss: Callable[[], Tensor], wrt: list[Tensor]) -> Step:
    """The loss and its gradient with respect to ``wrt``."""

    def step() -> Result:
        value = loss()
        return value.detach(), *torch.autograd.grad(value, wrt)

    return step


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone(memory_format=torch.contiguous_format).requires_grad_()


def subtb_contestants(chains: Chains, decay: float) -> Iterator[tuple[str, Step]]:
    """SubTB: steps that give the loss and its gradient in log F, log P_F and log P_B, all in ``[B, T]`` order.

    The last P_B is left out of the gradient: to torchgfn it is a constant.
    """

    def without_exit(step: Step) -> Result:
        value, flow, pf, pb = step()
        return value, flow, pf, pb[:, :-1]

    for name, step in all_subtb_contestants(chains, decay):
        yield name, partial(without_exit, step)


def all_subtb_contestants(chains: Chains, decay: float) -> Iterator[tuple[str, Step]]:
    batch, length = chains.log_pf.shape
    weight = partial(forms.pair_weights, length, decay)
    flow, pf, pb = padded = [leaf(x) for x in (chains.log_flow, chains.log_pf, chains.log_pb)]
    yield "gflowdial", ours(chains, partial(losses.subtrajectory_balance, decay=decay))
    if length <= UP_TO["torchgfn"]:
        yield "torchgfn", torchgfn(chains, "subtrajectory_balance", torch.full((batch,), length), decay)
    if length <= UP_TO["dense"]:
        yield "dense", with_gradient(partial(forms.dense_subtb, flow, pf, pb, chains.log_reward, weight()), padded)
    matrix = forms.laplacian(weight(dtype=torch.float64))
    yield "matrix", with_gradient(partial(forms.matrix_subtb, flow, pf, pb, chains.log_reward, matrix), padded)
    if length <= UP_TO["loop"]:
        yield "loop", with_gradient(partial(forms.loop_subtb, flow, pf, pb, chains.log_reward, decay), padded)


def tb_contestants(chains: Chains) -> Iterator[tuple[str, Step]]:
    """TB, as `subtb_contestants`; the gradient is in log Z, log P_F and log P_B."""
    batch, length = chains.log_pf.shape
    forest, z = Forest.from_lengths([length] * batch), leaf(chains.log_z)
    pf, pb = leaf(chains.log_pf.flatten()), leaf(chains.log_pb.flatten())
    step = with_gradient(partial(losses.trajectory_balance, z, pf, pb, chains.log_reward, forest), [z, pf, pb])
    yield "gflowdial", lambda: tuple(x.view(batch, length) if x.ndim else x for x in step())
    yield "torchgfn", torchgfn(chains, "trajectory_balance", torch.full((batch,), length))
    pf, pb = leaf(chains.log_pf), leaf(chains.log_pb)
    yield "padded", with_gradient(partial(forms.padded_tb, z, pf, pb, chains.log_reward), [z, pf, pb])


def db_contestants(chains: Chains) -> Iterator[tuple[str, Step]]:
    """DB, as `subtb_contestants`."""
    yield "gflowdial", ours(chains, losses.detailed_balance)
    yield "torchgfn", torchgfn(chains, "detailed_balance")
    flow, pf, pb = leaf(chains.log_flow), leaf(chains.log_pf), leaf(chains.log_pb)
    yield "padded", with_gradient(partial(forms.padded_db, flow, pf, pb, chains.log_reward), [flow, pf, pb])


def ours(chains: Chains, loss: Callable[..., Tensor]) -> Step:
    batch, length = chains.log_pf.shape
    forest = Forest.from_lengths([length] * batch)
    flow = torch.nn.functional.pad(chains.log_flow, (0, 1))
    flat = [leaf(x.flatten()) for x in (flow, chains.log_pf, chains.log_pb)]
    step = with_gradient(partial(loss, *flat, chains.log_reward, forest), flat)

    def padded() -> Result:
        value, flow, pf, pb = step()
        return value, flow.view(batch, -1)[:, :-1], pf.view(batch, -1), pb.view(batch, -1)

    return padded


def torchgfn(chains: Chains, loss: str, *options: Any) -> Step:
    from benchmarks import loss_torchgfn

    steps_first = [leaf(x.T) for x in (chains.log_pf, chains.log_pb)]
    is_tb = loss == "trajectory_balance"
    first: Tensor = torch.nn.Parameter(chains.log_z) if is_tb else leaf(chains.log_flow.T)
    given = [first, *steps_first]
    step = with_gradient(getattr(loss_torchgfn, loss)(*given, chains.log_reward, *options), given)
    return lambda: tuple(x.T if x.ndim else x for x in step())


def tree_contestants(kind: str, size: int, decay: float) -> tuple[int, dict[str, Step]]:
    """The number of nodes, and steps that give the loss and its gradient in log F and log P_F."""
    forest = loss_trees.FORESTS[kind](size)
    generator = torch.Generator().manual_seed(0)
    sizes = (forest.num_nodes, forest.num_edges, forest.num_leaves)
    flow, pf, reward = (torch.randn(n, generator=generator).requires_grad_() for n in sizes)
    found = loss_trees.contestants(kind, forest, reward.detach(), decay, size <= UP_TO[kind])
    return forest.num_nodes, {n: with_gradient(partial(loss, flow, pf), [flow, pf]) for n, loss in found.items()}


def chain_contestants(objective: str, length: int, decay: float) -> dict[str, Step]:
    chains = Chains.random(length)
    if objective == "SubTB":
        return dict(subtb_contestants(chains, decay))
    return dict(tb_contestants(chains) if objective == "TB" else db_contestants(chains))


def differences(expected: Result, found: Result) -> dict[str, float]:
    """Relative differences of the value and of the gradient."""
    value = abs(float(found[0] - expected[0])) / max(abs(float(expected[0])), 1e-30)
    gradients = [torch.cat([g.flatten().double() for g in result[1:]]) for result in (found, expected)]
    return {"value": value, "gradient": float((gradients[0] - gradients[1]).norm() / gradients[1].norm())}


def timed(steps: Mapping[str, Step], references: Mapping[str, Step]) -> dict[str, Any]:
    """Times of all contestants, and how far each is from its reference, which is ours where none is named."""
    ours = steps["gflowdial"]
    apart = {name: differences(references.get(name, ours)(), step()) for name, step in steps.items()}
    if wrong := {name: found for name, found in apart.items() if max(found.values()) > BAR}:
        raise SystemExit(f"not the same value and gradient: {wrong}")
    times = side_by_side(steps, rounds=ROUNDS)
    return {
        name: {**times[name], "ratio": times[name]["ms"] / times["gflowdial"]["ms"], "differences": apart[name]}
        for name in steps
    }


def chain_row(objective: str, length: int, decay: float) -> dict[str, Any]:
    steps = chain_contestants(objective, length, decay)
    return {"objective": objective, "T": length, "decay": decay, "forms": timed(steps, {})} | {
        "bounds": bounds(steps["gflowdial"], BATCH * (length + 1))
    }


def tree_row(kind: str, size: int, decay: float) -> dict[str, Any]:
    nodes, steps = tree_contestants(kind, size, decay)
    references = {}
    if "torchgfn" in steps:
        # torchgfn weighs each path the same, not each tree: the same input as chains is what it must agree with.
        references["torchgfn"] = tree_reference(kind, size, decay)
    return {"trees": kind, "size": size, "nodes": nodes, "decay": decay, "forms": timed(steps, references)} | {
        "bounds": bounds(steps["gflowdial"], nodes)
    }


def tree_reference(kind: str, size: int, decay: float) -> Step:
    forest = loss_trees.FORESTS[kind](size)
    generator = torch.Generator().manual_seed(0)
    sizes = (forest.num_nodes, forest.num_edges, forest.num_leaves)
    flow, pf, reward = (torch.randn(n, generator=generator).requires_grad_() for n in sizes)
    loss = loss_trees.as_chains(loss_trees.Paths(forest), reward.detach(), decay)
    return with_gradient(partial(loss, flow, pf), [flow, pf])


def bounds(step: Step, nodes: int) -> dict[str, float]:
    """What our step asks of the machine, and the time it would take if that were all.

    Kernels cannot start faster than ``launch us`` one after the other, nor move their bytes faster than a sum of two
    vectors of as many entries does; the estimate adds the two.
    """
    with Work() as work:
        step()
    speed = machine(nodes)
    launching, moving = 1e-3 * work.launches * speed["launch us"], 1e-6 * work.bytes / speed["GB/s"]
    return {"launches": work.launches, "MB": 1e-6 * work.bytes, **speed, "launch ms": launching, "bytes ms": moving}


def memory(kind: str, form: str, size: int, decay: float) -> dict[str, Any]:
    """Peak extra MiB of the first pass on a new input, with all that it caches, and of the next.

    Code is loaded beforehand, by a pass on a small input.
    """
    torch.set_num_threads(1)

    def step_on(size: int) -> Step:
        if kind == "chains":
            return chain_contestants("SubTB", size, decay)[form]
        return tree_contestants(kind, size, decay)[1][form]

    step_on(LENGTHS[0])()
    step = step_on(size)
    return {"kind": kind, "form": form, "size": size, "decay": decay} | {
        "first MiB": peak_extra_mib(step),
        "next MiB": peak_extra_mib(step),
    }


def measure() -> None:
    torch.set_num_threads(1)
    before = load()
    rows = [chain_row("SubTB", length, decay) for decay in DECAYS for length in LENGTHS]
    rows += [chain_row(objective, length, 1.0) for objective in ("TB", "DB") for length in LENGTHS]
    trees = [tree_row("search", size, DECAYS[-1]) for size in SIMULATIONS]
    trees += [tree_row(kind, size, DECAYS[-1]) for kind in ("ragged", "deep") for size in LENGTHS]
    cases = [("chains", form, n, d) for d in DECAYS for n in LENGTHS for form in FORMS if n <= UP_TO.get(form, n)]
    cases += [(kind, "gflowdial", n, DECAYS[-1]) for kind in ("ragged", "deep") for n in LENGTHS]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = pool.starmap(memory, cases, chunksize=1)
    setup = {"batch": BATCH, "input": "float32", "clock": "processor time", "load": [before, load()]}
    content = setup | {"chains": rows, "trees": trees, "memory": peaks}
    write_results("loss", content, ["torchgfn", "numpy"])


def main() -> None:
    measure()
    loss_report.write(json.loads(results_path("loss").read_text()))


if __name__ == "__main__":
    main()
