"""Settings of the language model that policies are trained on."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gflowdial.dialogue.data_config import Section


class TinyModelConfig(Section):
    """A small causal transformer, trained from scratch on transcripts of the prior's own conversations."""

    kind: Literal["tiny"]
    hidden_size: Annotated[int, Field(ge=8)] = 64
    layers: Annotated[int, Field(ge=1)] = 2
    heads: Annotated[int, Field(ge=1)] = 4
    transcripts_per_scene: Annotated[int, Field(ge=1)] = 8
    epochs: Annotated[float, Field(gt=0)] = 4.0
    batch_size: Annotated[int, Field(ge=1)] = 16
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3

    @model_validator(mode="after")
    def _check(self) -> "TinyModelConfig":
        # Rotary positions turn pairs of a head's numbers.
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of twice the heads, here {2 * self.heads}"
            )
        return self


class PretrainedModelConfig(Section):
    """A causal language model that exists already: ``"smollm2"``, a folder, or the id of a model on a hub."""

    kind: Literal["pretrained"]
    name: str = "smollm2"


class AdapterConfig(Section):
    """LoRA; the paper's rank and alpha."""

    rank: Annotated[int, Field(ge=1)] = 32
    alpha: Annotated[int, Field(ge=1)] = 64
