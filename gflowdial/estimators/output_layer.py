"""How a causal language model makes the logits of some tokens from its decoder's states. Needs the extra ``lm``."""

from dataclasses import dataclass
from typing import Any

import torch

from gflowdial.estimators.tree_attention import decoder_of, softly_capped
from gflowdial.shapes import Float, Tensor

__all__ = ["OutputLayer"]

_PROBES = (0.0, 2.0**-10, -(2.0**-10), 1.0, -1.0, 8.0, -8.0, 64.0, -64.0, 2.0**16)


@dataclass(frozen=True)
class OutputLayer:
    """Logits of some tokens, ``softly_capped(state @ weight.T + bias, softcap)``.

    Attributes:
        weight: ``[tokens, hidden]`` rows of the output layer, in float32; adapter and logit scale are included.
        bias: ``[tokens]`` in float32.
        softcap: c of the final c·tanh(logit / c); None: there is none.
    """

    weight: Float[Tensor, "tokens hidden"]
    bias: Float[Tensor, " tokens"]
    softcap: float | None

    @staticmethod
    def of(model: Any, tokens: list[int]) -> "OutputLayer":
        """What ``model``, in evaluation, does to the logits of ``tokens``.

        What comes behind the output layer is found by a pass in which chosen numbers stand in place of its outputs.

        Args:
            model: a causal language model of transformers, with its adapter if it has one.
            tokens: of a vocabulary.

        Raises:
            ValueError: if the model has no output layer, or makes its logits in another way.
        """
        name, layer = type(model).__name__, model.get_output_embeddings()
        if layer is None:
            raise ValueError(f"{name} has no output layer whose rows name the actions: choose a model for generation")
        probes = torch.tensor(_PROBES, device=layer.weight.device)
        decoded, read, hooks = [], [], []
        hooks.append(
            decoder_of(model).register_forward_hook(lambda _module, _inputs, output: decoded.append(output[0]))
        )
        hooks.append(layer.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0])))
        hooks.append(
            layer.register_forward_hook(
                lambda _module, _inputs, output: probes[:, None] * torch.ones_like(output, dtype=torch.float32)
            )
        )
        try:
            with torch.no_grad():
                ids = torch.tensor([tokens * len(_PROBES)], device=probes.device)[:, : len(_PROBES)]
                logits = model(input_ids=ids, use_cache=False).logits[0][:, tokens].float()
        finally:
            for hook in hooks:
                hook.remove()
        if not read or read[0].shape != decoded[0].shape:
            raise ValueError(f"{name} does not read its logits from its decoder's states: choose another model")
        rows, bias = _rows(layer, tokens, read[0][:, :1])
        before, after = _factor(decoded[0].float(), read[0].float(), name), float(logits[1, 0] / probes[1])
        straight = torch.isclose(logits[-1, 0], after * probes[-1], rtol=1e-3)
        found = OutputLayer(rows * (before * after), bias * after, None if straight else float(logits[-1, 0]))
        if not torch.allclose(logits, softly_capped(after * probes[:, None], found.softcap), rtol=1e-4, atol=1e-5):
            raise ValueError(f"{name} does more to its logits than to scale and cap them: choose another model")
        return found


@torch.enable_grad()
def _rows(layer: Any, tokens: list[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes and offsets of an affine layer's outputs, whatever it is wrapped in."""
    zero = torch.zeros_like(like).requires_grad_()
    outputs = layer(zero)[0, 0, tokens]
    slopes = [torch.autograd.grad(output, zero, retain_graph=True)[0][0, 0] for output in outputs]
    return torch.stack(slopes).float(), outputs.detach().float()


def _factor(states: Tensor, read: Tensor, name: str) -> float:
    if torch.equal(states, read):
        return 1.0
    factor = float((states * read).sum() / states.square().sum())
    if (read - factor * states).norm() > 1e-2 * read.norm():
        raise ValueError(f"{name}'s output layer reads other states than its decoder's: choose another model")
    return factor
