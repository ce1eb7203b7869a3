"""The architecture as its config states it: what a recipe may override, and what is refused with the right name."""

import pytest
from transformers import BertConfig, LlamaConfig

from finetune.errors import UserError
from finetune.models.model import override


def test_a_value_of_the_architecture_is_set():
    config = LlamaConfig()
    override(config, {"num_hidden_layers": 8})
    assert config.num_hidden_layers == 8


@pytest.mark.parametrize("config", [LlamaConfig(), BertConfig()], ids=lambda config: config.model_type)
def test_a_misspelt_value_is_refused_with_the_right_name(config):
    with pytest.raises(UserError, match=r"model.config.num_hiden_layers: .* has no such value.*num_hidden_layers"):
        override(config, {"num_hiden_layers": 8})


@pytest.mark.parametrize("value", ["many", 1.5, [8], {"of": 8}], ids=repr)
def test_a_value_of_another_type_is_refused(value):
    with pytest.raises(UserError, match="model.config.num_hidden_layers="):
        override(LlamaConfig(), {"num_hidden_layers": value})
