"""Trees per minute in lockstep beside one call at a time, with a language model in every role; and the search alone.

Every contestant searches the bundled scenes with the same model, seeds and settings, and its trees are compared with
those that one call at a time gives. What is timed is wall time on all threads.

Run: python -m benchmarks search
"""

import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

from benchmarks import search_instant, search_report
from benchmarks.measure import device, finish, load, side_by_side
from benchmarks.provenance import write_results
from examples.aflow_esc.scenes import bundled_scenes
from examples.aflow_esc.strategies import AFLOW
from examples.aflow_esc.task import TASK
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.dialogue.local import LocalModel, load_language_model, local_roles
from gflowdial.dialogue.roles import Roles
from gflowdial.search import SearchConfig, search, tree_seed

CONFIG = SearchConfig(simulations=2, max_depth=3, rollout_length=1)
MAX_TURNS = 3
MAX_NEW_TOKENS = 20
WITH_REUSE = (1, 4, 8, 16, 32)
WITHOUT_REUSE = (1, 8, 32)
LEAST_TREES = 4
"""A contestant with fewer scenes at a time searches as many trees, one batch after the other."""
STORE_BYTES = 2**30
ROLES = {"prior": "prior", "supporter": "agent", "seeker": "partner", "rewarder": "judge"}
"""What the tables call the roles."""


class Meter:
    """Seconds and tokens of every role, apart by passes that read prompts and passes that write a token a row."""

    def __init__(self, model: Any, rates: dict[str, float]) -> None:
        self.roles: dict[str, float] = defaultdict(float)
        self.read: dict[str, float] = defaultdict(float)
        self.write: dict[str, float] = defaultdict(float)
        embedding = model.get_input_embeddings().weight.numel()
        self.parameters, self.inner = model.num_parameters(), model.num_parameters() - embedding
        self.bytes = self.parameters * model.dtype.itemsize
        self.rates = rates
        self.hooks = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after, with_kwargs=True),
        ]

    def _before(self, *_: Any) -> None:
        finish()
        self.start = time.perf_counter()

    def _after(self, _model: Any, _args: Any, kwargs: Any, _output: Any) -> None:
        finish()
        rows, columns = kwargs["input_ids"].shape
        kind = self.read if columns > 1 else self.write
        kind["seconds"] += time.perf_counter() - self.start
        kind["passes"] += 1
        kind["tokens"] += rows * columns
        arithmetic = 2 * rows * columns * (self.inner if columns > 1 else self.parameters) / self.rates["operations/s"]
        kind["estimate"] += max(arithmetic, self.bytes / self.rates["bytes/s"])

    def timed(self, roles: Roles) -> Roles:
        """The roles, with their seconds counted."""
        found: list[Any] = [_TimedRole(name, getattr(roles, role), self) for name, role in ROLES.items()]
        return Roles(*found)

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()


class _TimedRole:
    def __init__(self, name: str, role: Any, meter: Meter) -> None:
        self.name, self.meter = name, meter
        for method in {"log_prior", "reply", "respond", "score"} & {*dir(role)}:
            setattr(self, method, self._timed(getattr(role, method)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            answer = method(*arguments)
            self.meter.roles[self.name] += time.perf_counter() - start
            return answer

        return call


def contestant(
    model: Any, tokenizer: Any, rates: dict[str, float], at_once: int, reuse: bool
) -> tuple[dict[str, Any], list[Any]]:
    """What a search with ``at_once`` scenes in lockstep takes, and its trees."""
    local = LocalModel(model, tokenizer, batch_size=min(at_once, 32), store_bytes=STORE_BYTES if reuse else 0)
    meter = Meter(model, rates)
    roles = meter.timed(local_roles(TASK, AFLOW, local, MAX_NEW_TOKENS))
    environment = DialogueEnvironment.of(TASK, roles, AFLOW, MAX_TURNS)
    scenes = bundled_scenes()[: max(at_once, LEAST_TREES)]
    trees = []
    finish()
    start = time.perf_counter()
    for first in range(0, len(scenes), at_once):
        batch = scenes[first : first + at_once]
        seeds = [tree_seed(0, scene.id) for scene in batch]
        found = search(environment, [DialogueState.begin(scene) for scene in batch], seeds, CONFIG)
        bounds = [*found.forest.roots.tolist(), found.forest.num_nodes]
        dialogues = [state.dialogue for state in found.states]
        trees += [dialogues[begin:end] for begin, end in pairwise(bounds)]
    seconds = time.perf_counter() - start
    meter.close()
    row = {
        "scenes": at_once,
        "reuse": reuse,
        "trees": len(trees),
        "seconds": seconds,
        "trees per minute": 60 * len(trees) / seconds,
        "seconds of roles": dict(meter.roles),
        "share outside of roles": 1 - sum(meter.roles.values()) / seconds,
        "read": dict(meter.read),
        "write": dict(meter.write),
        "store MiB": local.prefixes.bytes_used / 2**20,
        "load": load(),
    }
    return row, trees


def machine() -> dict[str, float]:
    """Operations per second of a float32 product of the model's widths, and bytes per second of a sum."""
    a, b = torch.randn(1024, 576, device=device()), torch.randn(576, 1536, device=device())
    x = torch.zeros(2**27, device=device())
    times = side_by_side({"product": lambda: a @ b, "sum": lambda: x.sum()}, clock="wall", rounds=5)
    return {
        "operations/s": 2 * 1024 * 576 * 1536 / times["product"]["ms"] * 1e3,
        "bytes/s": x.nbytes / times["sum"]["ms"] * 1e3,
    }


def main() -> None:
    rates = machine()
    model, tokenizer = load_language_model("smollm2")
    moved: Any = model
    model = moved.to(device())
    contestant(model, tokenizer, rates, LEAST_TREES, True)  # warms up; not counted
    expected: dict[int, Any] = {}
    rows: list[dict[str, Any]] = []
    for reuse, sizes in ((False, WITHOUT_REUSE), (True, WITH_REUSE)):
        for at_once in sizes:
            row, trees = contestant(model, tokenizer, rates, at_once, reuse)
            # The first contestant that searched a scene gives the tree that the later ones are held to.
            row["compared"] = sum(index in expected for index in range(len(trees)))
            row["same trees"] = sum(tree == expected.get(index) for index, tree in enumerate(trees))
            expected = dict(enumerate(trees)) | expected
            row["times one call at a time"] = row["trees per minute"] / (rows[0] if rows else row)["trees per minute"]
            rows.append(row)
            print(f"{at_once} scenes, reuse {reuse}: {row['trees per minute']:.2f} trees/min", flush=True)
    content = {
        "model": "SmolLM2-135M-Instruct, float32",
        "config": {"simulations": CONFIG.simulations, "max_depth": CONFIG.max_depth, "rollout": CONFIG.rollout_length},
        "max_new_tokens": MAX_NEW_TOKENS,
        "store MiB at most": STORE_BYTES / 2**20,
        "machine": rates,
        "lockstep": rows,
        "instant": search_instant.measure(),
    }
    path = write_results("search", content, ["transformers"])
    search_report.write(content)
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
