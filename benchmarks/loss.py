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
from benchmarks.measure import Work, device, load, machine, peak_extra_mib, side_by_side
from benchmarks.provenance import results_path, write_results
from gflowdial import Forest, losses

LENGTHS = (16, 64, 256, 1024, 4096)
BATCH = 64
DECAYS = (1.0, 0.9)
BAR = 1e-3
"""Largest relative difference of value and of gradient between float32 contestants and ours."""
FAR = 4096 if torch.cuda.is_available() else 1024
UP_TO = {"torchgfn": FAR, "dense": FAR, "loop": 64, "search": 160, "ragged": 256, "deep": 1024}
"""Lengths that a contestant is measured to: beyond, it wants more memory than such a machine has, or minutes a call."""

SIMULATIONS = (10, 40, 160)
FORMS = ("gflowdial", "torchgfn", "dense", "matrix")
ROUNDS = 9

Result = tuple[Tensor, ...]
Step = Callable[[], Result]


@dataclass(frozen=True)
class Contestant:
    """A step that gives the loss and its gradient, and what lays these out as the other contestants do, untimed."""

    step: Step
    laid_out: Callable[[Result], Result] = tuple

    def result(self) -> Result:
        return self.laid_out(self.step())


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
        flow, pf, pb, reward, z = normal((BATCH, length), (BATCH, length), (BATCH, length), (BATCH,), ())
        # torchgfn takes P_B of the last action, its exit, to be 1.
        pb[:, -1] = 0.0
        return Chains(flow, pf, pb, reward, z)

    @property
    def forest(self) -> Forest:
        batch, length = self.log_pf.shape
        return Forest.from_lengths(torch.full((batch,), length, device=device()))


def normal(*shapes: tuple[int, ...]) -> list[Tensor]:
    """The same numbers on every device."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device()) for shape in shapes]


def with_gradient(loss: Callable[[], Tensor], wrt: list[Tensor]) -> Step:
    """The loss and its gradient with respect to ``wrt``."""

    def step() -> Result:
        value = loss()
        return value.detach(), *torch.autograd.grad(value, wrt)

    return step


def leaf(x: Tensor) -> Tensor:
    return x.detach().clone(memory_format=torch.contiguous_format).requires_grad_()


def subtb_contestants(chains: Chains, decay: float) -> Iterator[tuple[str, Contestant]]:
    """SubTB, its gradient in log F, log P_F and log P_B, laid out as ``[B, T]``.

    The last P_B is left out of the gradient: to torchgfn it is a constant.
    """

    def without_exit(laid_out: Callable[[Result], Result], result: Result) -> Result:
        value, flow, pf, pb = laid_out(result)
        return value, flow, pf, pb[:, :-1]

    for name, contestant in all_subtb_contestants(chains, decay):
        yield name, Contestant(contestant.step, partial(without_exit, contestant.laid_out))


def all_subtb_contestants(chains: Chains, decay: float) -> Iterator[tuple[str, Contestant]]:
    batch, length = chains.log_pf.shape
    weight = partial(forms.pair_weights, length, decay)
    flow, pf, pb = padded = [leaf(x) for x in (chains.log_flow, chains.log_pf, chains.log_pb)]
    given = flow, pf, pb, chains.log_reward
    yield "gflowdial", ours(chains, partial(losses.subtrajectory_balance, decay=decay))
    if length <= UP_TO["torchgfn"]:
        yield "torchgfn", torchgfn(chains, "subtrajectory_balance", torch.full((batch,), length), decay)
    if length <= UP_TO["dense"]:
        yield "dense", Contestant(with_gradient(partial(forms.dense_subtb, *given, weight()), padded))
    matrix = forms.laplacian(weight(dtype=torch.float64))
    yield "matrix", Contestant(with_gradient(partial(forms.matrix_subtb, *given, matrix), padded))
    # The loop takes the same time with any decay; the longest one takes a third of a minute a call.
    if length <= UP_TO["loop"] and (decay == 1 or length == LENGTHS[0]):
        yield "loop", Contestant(with_gradient(partial(forms.loop_subtb, *given, decay), padded))


def tb_contestants(chains: Chains) -> Iterator[tuple[str, Contestant]]:
    """TB; the gradient is in log Z, log P_F and log P_B."""
    batch, length = chains.log_pf.shape
    z, pf, pb = wrt = [leaf(chains.log_z), leaf(chains.log_pf.flatten()), leaf(chains.log_pb.flatten())]
    step = with_gradient(partial(losses.trajectory_balance, z, pf, pb, chains.log_reward, chains.forest), wrt)
    yield "gflowdial", Contestant(step, lambda found: tuple(x.view(batch, length) if x.ndim else x for x in found))
    yield "torchgfn", torchgfn(chains, "trajectory_balance", torch.full((batch,), length))
    z, pf, pb = wrt = [leaf(chains.log_z), leaf(chains.log_pf), leaf(chains.log_pb)]
    yield "padded", Contestant(with_gradient(partial(forms.padded_tb, z, pf, pb, chains.log_reward), wrt))


def db_contestants(chains: Chains) -> Iterator[tuple[str, Contestant]]:
    """DB, its gradient in log F, log P_F and log P_B."""
    yield "gflowdial", ours(chains, losses.detailed_balance)
    yield "torchgfn", torchgfn(chains, "detailed_balance")
    flow, pf, pb = wrt = [leaf(chains.log_flow), leaf(chains.log_pf), leaf(chains.log_pb)]
    yield "padded", Contestant(with_gradient(partial(forms.padded_db, flow, pf, pb, chains.log_reward), wrt))


def ours(chains: Chains, loss: Callable[..., Tensor]) -> Contestant:
    batch = len(chains.log_reward)
    flow = torch.nn.functional.pad(chains.log_flow, (0, 1))
    flat = [leaf(x.flatten()) for x in (flow, chains.log_pf, chains.log_pb)]
    step = with_gradient(partial(loss, *flat, chains.log_reward, chains.forest), flat)

    def padded(result: Result) -> Result:
        value, flow, pf, pb = result
        return value, flow.view(batch, -1)[:, :-1], pf.view(batch, -1), pb.view(batch, -1)

    return Contestant(step, padded)


def torchgfn(chains: Chains, loss: str, *options: Any) -> Contestant:
    from benchmarks import loss_torchgfn

    steps_first = [leaf(x.T) for x in (chains.log_pf, chains.log_pb)]
    is_tb = loss == "trajectory_balance"
    first: Tensor = torch.nn.Parameter(chains.log_z) if is_tb else leaf(chains.log_flow.T)
    given = [first, *steps_first]
    options = tuple(x.to(device()) if isinstance(x, Tensor) else x for x in options)
    step = with_gradient(getattr(loss_torchgfn, loss)(*given, chains.log_reward, *options), given)
    return Contestant(step, lambda found: tuple(x.T if x.ndim else x for x in found))


def tree_contestants(kind: str, size: int, decay: float) -> tuple[Forest, dict[str, Contestant]]:
    """The forest, and the contestants on it; their gradient is in log F and log P_F."""
    forest = loss_trees.FORESTS[kind](size)
    flow, pf, reward = tree_input(forest)
    found = loss_trees.contestants(kind, forest, reward, decay, size <= UP_TO[kind])
    return forest, {n: Contestant(with_gradient(partial(loss, flow, pf), [flow, pf])) for n, loss in found.items()}


def tree_input(forest: Forest) -> tuple[Tensor, Tensor, Tensor]:
    flow, pf, reward = normal((forest.num_nodes,), (forest.num_edges,), (forest.num_leaves,))
    return flow.requires_grad_(), pf.requires_grad_(), reward


def chain_contestants(objective: str, length: int, decay: float) -> dict[str, Contestant]:
    chains = Chains.random(length)
    if objective == "SubTB":
        return dict(subtb_contestants(chains, decay))
    return dict(tb_contestants(chains) if objective == "TB" else db_contestants(chains))


def differences(expected: Result, found: Result) -> dict[str, float]:
    """Relative differences of the value and of the gradient."""
    value = abs(float(found[0] - expected[0])) / max(abs(float(expected[0])), 1e-30)
    gradients = [torch.cat([g.flatten().double() for g in result[1:]]) for result in (found, expected)]
    return {"value": value, "gradient": float((gradients[0] - gradients[1]).norm() / gradients[1].norm())}


def timed(contestants: Mapping[str, Contestant], references: Mapping[str, Contestant]) -> dict[str, Any]:
    """Times of all contestants, and how far each is from its reference, which is ours where none is named."""
    ours = contestants["gflowdial"]
    apart = {name: differences(references.get(name, ours).result(), c.result()) for name, c in contestants.items()}
    if wrong := {name: found for name, found in apart.items() if max(found.values()) > BAR}:
        raise SystemExit(f"not the same value and gradient: {wrong}")
    times = side_by_side({name: contestant.step for name, contestant in contestants.items()}, rounds=ROUNDS)
    return {
        name: {**times[name], "ratio": times[name]["ms"] / times["gflowdial"]["ms"], "differences": apart[name]}
        for name in contestants
    }


def chain_row(objective: str, length: int, decay: float) -> dict[str, Any]:
    found = chain_contestants(objective, length, decay)
    return {"objective": objective, "T": length, "decay": decay, "forms": timed(found, {})} | {
        "bounds": bounds(found["gflowdial"].step, BATCH * (length + 1))
    }


def tree_row(kind: str, size: int, decay: float) -> dict[str, Any]:
    forest, found = tree_contestants(kind, size, decay)
    references = {}
    if "torchgfn" in found:
        # torchgfn weighs each path the same, not each tree: the same input as chains is what it must agree with.
        flow, pf, reward = tree_input(forest)
        loss = loss_trees.as_chains(loss_trees.Paths(forest), reward, decay)
        references["torchgfn"] = Contestant(with_gradient(partial(loss, flow, pf), [flow, pf]))
    nodes = forest.num_nodes
    return {"trees": kind, "size": size, "nodes": nodes, "decay": decay, "forms": timed(found, references)} | {
        "bounds": bounds(found["gflowdial"].step, nodes)
    }


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
            return chain_contestants("SubTB", size, decay)[form].step
        return tree_contestants(kind, size, decay)[1][form].step

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
