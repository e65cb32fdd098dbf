"""Adapters of one model: which one is used, and copies of them. Needs the extra ``lm``."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

try:
    from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
except ImportError as error:
    raise ImportError("adapters need the extra `lm`: pip install 'gflowdial[lm]'") from error

__all__ = ["active_adapter", "add_frozen_copy", "using_adapter"]


def active_adapter(model: PeftModel) -> str:
    """Name of the adapter in use.

    Raises:
        ValueError: if it is not one adapter of weights.
    """
    names = model.active_adapters
    if len(names) != 1:
        raise ValueError(f"the model uses the adapters {', '.join(names)}: activate the one that is the policy")
    if model.peft_config[names[0]].is_prompt_learning:
        raise ValueError(f"the adapter {names[0]} is a prompt, which packed prefixes do not have: train a LoRA adapter")
    return str(names[0])


@contextmanager
def using_adapter(model: PeftModel, name: str | None) -> Iterator[None]:
    """The model with another adapter, None: without any, for as long as the context lasts."""
    active = active_adapter(model)
    if name == active:
        yield
        return
    # Switching adapters thaws and freezes them.
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        if name is None:
            with model.disable_adapter():
                yield
        else:
            model.set_adapter(name, inference_mode=True)
            yield
    finally:
        if name is not None:
            model.set_adapter(active)
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)


def add_frozen_copy(model: PeftModel, name: str) -> None:
    """Add a copy of the adapter in use to the model, under another name, never to be trained."""
    active = active_adapter(model)
    before = {id(parameter) for parameter in model.parameters()}
    with torch.random.fork_rng(devices=list({each.device for each in model.parameters() if each.is_cuda})):
        model.add_adapter(name, model.peft_config[active])
    weights = get_peft_model_state_dict(model, adapter_name=active)
    set_peft_model_state_dict(model, weights, adapter_name=name)
    for parameter in model.parameters():
        if id(parameter) not in before:
            parameter.requires_grad_(False)
