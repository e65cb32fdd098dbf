"""Laws of a causal language model and of a policy on it: prefixes read together say what each says alone."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from gflowdial.estimators.language_model import LanguageModelPolicy
from gflowdial.estimators.packing import PackedPrefixes, pack_prefixes
from gflowdial.shapes import Float, Tensor
from gflowdial.testing.broken import BrokenLawError, kept_laws
from gflowdial.testing.precision import FLOAT32

PARENT = (-1, 0, 0, 1, 1, 3, -1, 6, 7)
LENGTHS = (9, 7, 3, 8, 2, 6, 4, 1, 5)
"""Two trees of segments: parents and how many tokens each node adds; the longest prefix has 30 tokens."""


def check_language_model(model: Any, *, leave_out: Sequence[str] = ()) -> None:
    """Check what a policy on a language model stands on: each state is read as its own prefix reads.

    A model is asked in evaluation mode, on its device and in its dtype, and set back; tolerances are those of the
    dtype. Two random trees of prefixes up to 30 tokens long are read; what a longer window leaves out is not seen. The
    laws, by name:

    - "later tokens do not matter", and "rows alone": logits of a plain model at a token depend on the tokens before it
      in its own row only;
    - "the same again": nothing is answered differently when asked again, as with dropout that is left on;
    - "finite": so are all answers;
    - "packed as alone": what a policy says of a node in two packed trees is what it says of its prefix alone;
    - "log P_F is a policy": its probabilities sum to 1;
    - "the reference is the model": the reference policy is the distribution of the model, as it was before the policy
      took it, over the names of the moves, restricted and renormalised at each branching;
    - "gradients": those of log P_F and of log V(s) are finite, and reach a parameter.

    Args:
        model: a `LanguageModelPolicy`, or a causal language model with the call of transformers
            (``input_ids``, ``attention_mask``; ``.logits``), for which the laws of plain models are checked.
        leave_out: names of laws that are not checked.

    Raises:
        AssertionError: with the law and the numbers.
        ValueError: ``leave_out`` names no law.
    """
    is_policy = isinstance(model, LanguageModelPolicy)
    laws = kept_laws(_POLICY_LAWS if is_policy else _MODEL_LAWS, leave_out)
    modes = [(part, part.training) for part in model.modules()]
    for part, _ in modes:
        part.training = False
    law = ""
    try:
        for law, check in laws.items():  # noqa: B007 (named below)
            check(model)
    except BrokenLawError as broken:
        raise BrokenLawError(f"{type(model).__name__} breaks a law of language models ('{law}'): {broken}.") from None
    finally:
        for part, mode in modes:
            part.training = mode


def _logits(model: Any, rows: Tensor) -> Float[Tensor, "batch length vocabulary"]:
    with torch.no_grad():
        answer: Tensor = model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits
    if answer.shape[:2] != rows.shape:
        raise BrokenLawError(f"logits have shape {list(answer.shape)} for {list(rows.shape)} tokens")
    return answer.double()


def _rows(model: Any) -> Tensor:
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, model.config.vocab_size, (3, 30), generator=generator).to(device)


def _causal(model: Any) -> None:
    rows = _rows(model)
    whole = _logits(model, rows)
    for cut in (1, 12, 29):
        other = rows.clone()
        other[:, cut:] = rows[:, cut:].flip(0).roll(1, 1)
        what = f"logits of the first {cut} tokens depend on what comes behind them"
        _same(model, what, whole[:, :cut], _logits(model, other)[:, :cut])
        _same(model, what, whole[:, :cut], _logits(model, rows[:, :cut]))


def _rows_alone(model: Any) -> None:
    rows = _rows(model)
    together = _logits(model, rows)
    for row in range(len(rows)):
        what = f"logits of row {row} among others are not what they are alone"
        _same(model, what, together[row], _logits(model, rows[row : row + 1])[0])


def _model_again(model: Any) -> None:
    rows = _rows(model)
    _same(model, "logits differ when asked again", _logits(model, rows), _logits(model, rows))


def _model_finite(model: Any) -> None:
    if not bool(_logits(model, _rows(model)).isfinite().all()):
        raise BrokenLawError("a logit is not finite")


def _packed(policy: LanguageModelPolicy) -> tuple[PackedPrefixes, list[PackedPrefixes], list[list[int]]]:
    """All nodes in one sequence, each alone, and the whole prefix of each with the branch."""
    generator = torch.Generator().manual_seed(1)
    vocabulary = policy.language_model.get_input_embeddings().weight.shape[0]
    device = policy.policy_head.weight.device
    segments = [torch.randint(1, vocabulary, (n,), generator=generator).tolist() for n in LENGTHS]
    branch = torch.randint(1, vocabulary, (2,), generator=generator).tolist()
    prefixes: list[list[int]] = []
    for node, above in enumerate(PARENT):
        prefixes.append([*(prefixes[above] if above >= 0 else []), *segments[node]])
    together = pack_prefixes(PARENT, segments, [True] * len(PARENT), branch, policy.continuations).to(device)
    alone = [pack_prefixes([-1], [p], [True], branch, policy.continuations).to(device) for p in prefixes]
    return together, alone, [[*prefix, *branch] for prefix in prefixes]


def _read(policy: LanguageModelPolicy, packed: PackedPrefixes) -> dict[str, Tensor]:
    condition = None
    if policy.conditions:
        condition = torch.full((len(packed.node), policy.conditions), 0.5, device=policy.policy_head.weight.device)
    return dict(vars(policy(packed, condition)))


@torch.no_grad()
def _policy_again(policy: LanguageModelPolicy) -> None:
    packed = _packed(policy)[0]
    second = _read(policy, packed)
    for name, values in _read(policy, packed).items():
        _same(policy, f"{name} differs when asked again", values, second[name])


@torch.no_grad()
def _policy_finite(policy: LanguageModelPolicy) -> None:
    for name, values in _read(policy, _packed(policy)[0]).items():
        if not bool(values.isfinite().all()):
            raise BrokenLawError(f"{name} is not finite")


@torch.no_grad()
def _packed_as_alone(policy: LanguageModelPolicy) -> None:
    together, alone, prefixes = _packed(policy)
    answers = _read(policy, together)
    for node, packed in enumerate(alone):
        for name, values in _read(policy, packed).items():
            what = (
                f"{name} after {len(prefixes[node])} tokens among {len(PARENT)} packed prefixes is not what it is alone"
            )
            _same(policy, what, answers[name][node], values[0])


@torch.no_grad()
def _policy_normalised(policy: LanguageModelPolicy) -> None:
    total = _read(policy, _packed(policy)[0])["log_policy"].double().exp().sum(1)
    if bool(((total - 1).abs() > 1e-3).any()):
        worst = float(total[(total - 1).abs().argmax()])
        raise BrokenLawError(f"the probabilities of the moves sum to {worst:.6g}")


@torch.no_grad()
def _reference_is_model(policy: LanguageModelPolicy) -> None:
    together, _, prefixes = _packed(policy)
    try:
        reference = policy.log_reference(together)
    except ValueError:
        return  # a policy without a reference has nothing to compare
    device = reference.device
    beginnings = sorted({name[:at] for name in policy.names for at in range(len(name))})
    following = {
        start: sorted({n[len(start)] for n in policy.names if n[: len(start)] == start}) for start in beginnings
    }
    for node, prefix in enumerate(prefixes):
        expected = torch.zeros(len(policy.names), dtype=torch.float64, device=device)
        for start, tokens in following.items():
            with policy.lent() as model:
                logits = model(input_ids=torch.tensor([[*prefix, *start]], device=device)).logits[0, -1].double()
            log_p = logits[tokens].log_softmax(0)
            for action, name in enumerate(policy.names):
                if name[: len(start)] == start and len(name) > len(start):
                    expected[action] += log_p[tokens.index(name[len(start)])]
        what = f"the reference after {len(prefix)} tokens is not the model's distribution over the names"
        _same(policy, what, reference[node], expected)


def _gradients(policy: LanguageModelPolicy) -> None:
    trained = [(name, values) for name, values in policy.named_parameters() if values.requires_grad]
    for output in ("log_policy", "log_state_value"):
        answers = _read(policy, _packed(policy)[0])[output]
        weight = torch.randn(answers.shape, generator=torch.Generator().manual_seed(2)).to(answers)
        total = (answers * weight).sum()
        found = (
            torch.autograd.grad(total, [values for _, values in trained], allow_unused=True)
            if total.requires_grad and trained
            else ()
        )
        for (name, _), gradient in zip(trained, found, strict=False):
            if gradient is not None and not bool(gradient.isfinite().all()):
                raise BrokenLawError(f"the gradient of {output} by {name} is not finite")
        if not any(gradient is not None and bool((gradient != 0).any()) for gradient in found):
            raise BrokenLawError(f"no gradient of {output} reaches a parameter")


def _same(model: Any, what: str, a: Tensor, b: Tensor) -> None:
    dtype = next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    epsilon = torch.finfo(dtype).eps
    tolerance = (1000 if epsilon <= FLOAT32 else 32) * epsilon
    off = (a.double() - b.double()).abs()
    if bool((off <= tolerance * (1 + b.double().abs())).all()):
        return
    raise BrokenLawError(f"{what}: up to {float(off.max()):.4g} nats off in {dtype}")


_MODEL_LAWS: dict[str, Callable[[Any], None]] = {
    "finite": _model_finite,
    "the same again": _model_again,
    "later tokens do not matter": _causal,
    "rows alone": _rows_alone,
}
_POLICY_LAWS: dict[str, Callable[[Any], None]] = {
    "finite": _policy_finite,
    "the same again": _policy_again,
    "packed as alone": _packed_as_alone,
    "log P_F is a policy": _policy_normalised,
    "the reference is the model": _reference_is_model,
    "gradients": _gradients,
}
