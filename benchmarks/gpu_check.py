"""Whether a GPU gives what the CPU does: the CUDA tests, training steps of policies, a loss, a search, an environment.

`make gpu-wheels` fetches what a GPU machine with torch and transformers lacks, and `make gpu-check` runs this with it,
without a network. It takes at most four minutes on one GPU.

Run: python -m benchmarks gpu_check
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, set_seed

from benchmarks.measure import device, finish, peak_extra_mib
from benchmarks.provenance import write_results, write_table
from benchmarks.tables import table
from examples.aflow_esc.scenes import bundled_scenes
from examples.aflow_esc.strategies import AFLOW
from examples.aflow_esc.task import TASK
from gflowdial import Forest, losses
from gflowdial.dialogue.environment import DialogueEnvironment, DialogueState
from gflowdial.dialogue.language_models import train_tokenizer
from gflowdial.dialogue.local import LocalModel, local_roles
from gflowdial.envs import Hypergrid
from gflowdial.estimators import MLPTrunk, NetworkFlow
from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.estimators.packing import PackedPrefixes, pack_prefixes
from gflowdial.search import SearchConfig, search
from gflowdial.training.loop import train

Found = TypeVar("Found")
MOVES = range(10, 18)
SMALL = {"vocab_size": 1000, "num_hidden_layers": 3, "pad_token_id": 0, "initializer_range": 0.05}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3},
    "qwen2": {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2},
    "mistral": {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        # Shorter than the longest prefix, so that the window counts.
        "sliding_window": 64,
    },
}
ALLOWED = {"float32": 1e-3, "bfloat16": 0.25}
"""How far log P_F may be from the CPU's in float32, by dtype, in nats."""
HEAD = ("what", "dtype", "attention", "largest difference to the CPU", "first step, s", "later step, s", "MiB", "right")


def prefixes(trees: int = 8, nodes: int = 40) -> PackedPrefixes:
    """Random trees of prefixes, packed; every prefix is read."""
    stream = np.random.default_rng(0)
    parent, tokens = [], []
    for tree in range(trees):
        for node in range(nodes):
            parent.append(tree * nodes + int(stream.integers(node)) if node else -1)
            tokens.append(stream.integers(20, 1000, size=stream.integers(4, 24)).tolist())
    return pack_prefixes(parent, tokens, [True] * len(parent), [5, 9])


def policy_of(family: str, dtype: torch.dtype, attention: Any) -> LanguageModelPolicy:
    """A policy with an adapter that does something; the same weights for every dtype and attention."""
    set_seed(0)
    config = AutoConfig.for_model(family, **SMALL, **SHAPES[family])
    model = AutoModelForCausalLM.from_config(config).to(dtype)  # type: ignore[no-untyped-call]
    policy = LanguageModelPolicy.with_lora(model, MOVES, rank=8, alpha=16, attention=attention)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return policy


def step_of(policy: LanguageModelPolicy, packed: PackedPrefixes, steps: int = 3) -> tuple[torch.Tensor, list[float]]:
    """log P_F at the first of some steps of Adam on ⟨log P_F⟩ of the first move, and seconds per step."""
    optimizer = torch.optim.Adam([each for each in policy.parameters() if each.requires_grad], 1e-4)
    seconds, first = [], None
    for _ in range(steps):
        begun = time.perf_counter()
        log_policy = policy(packed).log_policy
        first = log_policy.detach() if first is None else first
        (-log_policy[:, 0].mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        finish()
        seconds.append(time.perf_counter() - begun)
    assert first is not None
    return first, seconds


def measured(step: Callable[[], Found]) -> tuple[Found, float]:
    """What a step returns, and how far memory rises during it, in MiB."""
    found: list[Found] = []
    mib = peak_extra_mib(lambda: found.append(step()))
    return found[0], mib


def policies(where: torch.device) -> Iterator[list[str]]:
    """A row per shape, dtype and attention."""
    packed = prefixes()
    for family in SHAPES:
        with torch.no_grad():
            wanted = policy_of(family, torch.float32, "sdpa").eval()(packed).log_policy
        for dtype, attention in product(ALLOWED, ("sdpa", "flex")):
            policy = policy_of(family, getattr(torch, dtype), attention).to(where).eval()
            (found, seconds), mib = measured(partial(step_of, policy, packed.to(where)))
            off = float((found.cpu() - wanted).abs().max())
            what = f"{family}, {packed.num_tokens} tokens"
            times = f"{seconds[0]:.2f}", f"{min(seconds[1:]):.3f}"
            yield [what, dtype, attention, f"{off:.1e}", *times, f"{mib:.0f}", _yes(off <= ALLOWED[dtype])]


def loss_on(where: torch.device) -> torch.Tensor:
    """Subtrajectory balance on ten thousand random trajectories, and the size of its gradient."""
    forest = Forest.from_lengths(torch.arange(10_000) % 20 + 1)
    draw = torch.Generator().manual_seed(0)
    log_pf = torch.randn(forest.num_edges, generator=draw).to(where).requires_grad_()
    log_pb = torch.zeros(forest.num_edges, device=where)
    log_flow = torch.randn(forest.num_nodes, generator=draw).to(where)
    log_reward = torch.randn(forest.num_leaves, generator=draw).to(where)
    loss = losses.subtrajectory_balance(log_flow, log_pf, log_pb, log_reward, forest.to(where), decay=0.9)
    (gradient,) = torch.autograd.grad(loss, log_pf)
    return torch.stack((loss.detach(), gradient.abs().sum()))


def environment_on(where: torch.device) -> torch.Tensor:
    """Z as 300 steps of trajectory balance estimate it in an 8 × 8 grid; draws depend on the device."""
    environment = Hypergrid(2, 8, device=where)
    torch.manual_seed(0)
    estimator = NetworkFlow(environment, MLPTrunk(environment.num_features, width=64, depth=2)).to(where)
    optimiser = torch.optim.Adam(estimator.parameters(), 1e-2)
    generator = torch.Generator(where).manual_seed(0)
    for _ in train(
        environment, estimator, "trajectory_balance", optimiser, steps=300, batch_size=64, generator=generator
    ):
        pass
    (log_z,) = estimator.log_z.parameters()
    return log_z.detach().exp()


def search_on(where: torch.device) -> torch.Tensor:
    """The visits of four searches in which one random language model has all roles."""
    tokenizer = train_tokenizer([])  # Bytes alone.
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    )
    set_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2}
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=4, **sizes))
    model = model.to(where).eval()
    roles = local_roles(TASK, AFLOW, LocalModel(model, tokenizer), max_new_tokens=8)
    roots = [DialogueState.begin(scene) for scene in bundled_scenes()[:4]]
    config = SearchConfig(simulations=8, max_depth=2, rollout_length=1)
    trees = search(DialogueEnvironment.of(TASK, roles, AFLOW, 3), roots, list(range(4)), config)
    return trees.visits[trees.forest.roots].double()


PARTS: dict[str, tuple[Callable[[torch.device], torch.Tensor], float]] = {
    "SubTB and its gradient, 105,000 edges": (loss_on, 1e-3),
    "300 steps of TB in an 8 × 8 grid": (environment_on, 0.1),
    "search with a local model, 4 scenes": (search_on, 0.0),
}
"""What runs on both devices, and how far the GPU's figure may be from the CPU's, relatively."""


def parts(where: torch.device) -> Iterator[list[str]]:
    """A row for each of `PARTS`."""
    for what, (part, allowed) in PARTS.items():
        wanted = part(torch.device("cpu"))
        begun = time.perf_counter()
        there, mib = measured(partial(part, where))
        found, first = there.cpu(), time.perf_counter() - begun
        off = float(((found - wanted).abs() / wanted.abs().clamp(min=1e-9)).max())
        yield [what, "float32", "–", f"{off:.1e}, relative", f"{first:.2f}", "–", f"{mib:.0f}", _yes(off <= allowed)]


def cuda_tests() -> list[str]:
    """The row of the tests that need a GPU."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests"]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    print(done.stdout[-4000:], flush=True)
    last = done.stdout.strip().splitlines()[-1].strip("= ") if done.stdout.strip() else done.stderr[-200:]
    return [f"tests: {last}", *["–"] * 3, f"{time.perf_counter() - begun:.1f}", "–", "–", _yes(done.returncode == 0)]


def _yes(right: bool) -> str:
    return "yes" if right else "no"


def main() -> None:
    where = device()
    if where.type != "cuda":
        raise SystemExit("there is no CUDA device here: run this on a machine that has one")
    rows = []
    for row in (*parts(where), *policies(where), cuda_tests()):
        print(" | ".join(row), flush=True)
        rows.append(row)
    found = table(HEAD, rows)
    write_results("gpu_check", {"rows": [dict(zip(HEAD, row, strict=True)) for row in rows]}, ("transformers",))
    write_table("gpu_check", found)
    if wrong := [row[0] for row in rows if row[-1] != "yes"]:
        raise SystemExit(f"not right on this GPU: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
