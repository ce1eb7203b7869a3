"""Chat templates of model families, written down to render what the families render, with generation markers.

Without the markers (`stock`) they are what the models ship. Each has the answer as it is rendered in a turn, and the
token that ends the turn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from tiny import SPECIAL
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TOKENS = re.compile(r"<[|｜/]?[\w▁ :/-]+[|｜]?>|\[/?[A-Z_]+\]")
LINES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
# Llama 3's: lines are their own pieces, so that `\n\n` of a header never merges with what is said.
PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + LINES


@dataclass(frozen=True)
class Family:
    """A template with markers, how it writes an answer, and its terminator."""

    marked: str
    end: str
    said: str = "{}"
    tokens: tuple[str, ...] = ()
    """Special tokens that the template puts together."""

    @property
    def stock(self) -> str:
        """Without markers, as the models ship it."""
        return re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", self.marked)


CHATML = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}\
{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}\
{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
HELPFUL = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
QWEN = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n"
    + HELPFUL
    + "<|im_end|>\\n' }}{% endif %}"
    + CHATML
)
LLAMA3 = """{{ bos_token }}{% for message in messages %}\
{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}\
{% if message['role'] == 'assistant' %}{% generation %}\
{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}\
{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
GEMMA = """{{ bos_token }}{% for message in messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
{% if message['role'] == 'assistant' %}{{ '<start_of_turn>model\\n' }}{% generation %}\
{{ message['content'] | trim + '<end_of_turn>' }}{% endgeneration %}{{ '\\n' }}\
{% else %}{{ '<start_of_turn>' + message['role'] + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}\
{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
MISTRAL = """{{ bos_token }}{% for message in messages %}\
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + '[/INST]' }}\
{% elif message['role'] == 'assistant' %}{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}\
{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"""
PHI3 = """{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' }}\
{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}\
{% else %}{{ message['content'] + '<|end|>' }}{% endif %}{{ '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""
PHI4 = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '<|im_sep|>' }}\
{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}\
{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""
ZEPHYR = """{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' }}\
{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}\
{% else %}{{ message['content'] + eos_token }}{% endif %}{{ '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""
DEEPSEEK = """{{ bos_token }}{% for message in messages %}\
{% if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}\
{% elif message['role'] == 'assistant' %}{{ '<｜Assistant｜>' }}{% generation %}\
{{ message['content'] + '<｜end▁of▁sentence｜>' }}{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}\
{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"""
OLMO = """{{ '<|endoftext|>' }}{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' }}\
{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|endoftext|>' }}{% endgeneration %}\
{% else %}{{ message['content'] }}{% endif %}{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '\\n<|assistant|>\\n' }}{% endif %}"""
COMMAND_R = """{{ bos_token }}{% for message in messages %}{{ '<|START_OF_TURN_TOKEN|>' }}\
{% if message['role'] == 'assistant' %}{{ '<|CHATBOT_TOKEN|>' }}{% generation %}\
{{ message['content'] | trim + '<|END_OF_TURN_TOKEN|>' }}{% endgeneration %}\
{% else %}{{ '<|' + message['role'] | upper + '_TOKEN|>' + message['content'] | trim + '<|END_OF_TURN_TOKEN|>' }}\
{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"""
QWEN3_LAST = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}\
{% if message['role'] == 'assistant' %}{% generation %}{{ '<think>\\n' + (message['reasoning_content'] or '') + \
'\\n</think>\\n\\n' + message['content'] + '<|im_end|>' }}{% endgeneration %}\
{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
HUMAN = """{{ bos_token }}{% for message in messages %}\
{% if message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}\
{% else %}{{ '### Response:\\n' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}\
{{ '\\n\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"""

ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
FAMILIES = {
    "ChatML": Family(CHATML, "<|im_end|>"),
    "Qwen2.5": Family(QWEN, "<|im_end|>"),
    "Qwen3": Family(QWEN3_LAST, "<|im_end|>", "<think>\n\n</think>\n\n{}"),
    "Llama-3": Family(LLAMA3, "<|eot_id|>"),
    "Gemma-2": Family(GEMMA, "<end_of_turn>"),
    "Mistral v0.3": Family(MISTRAL, "</s>", " {}"),
    "Phi-3": Family(PHI3, "<|end|>", tokens=(*ROLES, "<|endoftext|>")),
    "Phi-4": Family(PHI4, "<|im_end|>"),
    "Zephyr": Family(ZEPHYR, "</s>"),
    "DeepSeek": Family(DEEPSEEK, "<｜end▁of▁sentence｜>"),
    "OLMo-2": Family(OLMO, "<|endoftext|>", tokens=ROLES),
    "Command-R": Family(COMMAND_R, "<|END_OF_TURN_TOKEN|>", tokens=("<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>")),
    "Alpaca": Family(HUMAN, "</s>"),
}


@cache
def _bpe() -> str:
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words.decoder = decoders.ByteLevel()
    corpus = [
        "user assistant system model hello how are you hallo welt Instruction Response",
        "one two\n\n\nthree",
    ] * 8
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=380, special_tokens=SPECIAL[:4], initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator(corpus, trainer)
    return words.to_str()


def tokenizer_for(template: str, tokens: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that knows the special tokens a template writes."""
    found = dict.fromkeys([*TOKENS.findall(template), *tokens])
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    extra = [token for token in found if token not in special.values()]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bpe()), chat_template=template, extra_special_tokens=extra, **special
    )
