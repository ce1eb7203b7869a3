"""Supervised fine-tuning of a causal language model on chats, prompts with completions, or plain text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config.task import Encoded, Facts, RowError, Task
from finetune.errors import UserError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PREPARED = "task.mask, task.overlong or tokenizer.max_length: rows are prepared before the trainer exists"
NOT_THE_TRAINERS = (
    "max_length", "truncation_mode", "dataset_text_field", "dataset_kwargs", "dataset_num_proc", "eos_token",
    "pad_token", "chat_template_path", "assistant_only_loss", "completion_only_loss", "model_init_kwargs",
    "packing", "packing_strategy", "eval_packing", "padding_free",
)  # fmt: skip


@dataclass(kw_only=True)
class SFT(Task):
    """Train on what the assistant says; loss and optimization are TRL's."""

    model_class: ClassVar[str] = "transformers.AutoModelForCausalLM"
    trainer_class: ClassVar[str] = "trl.SFTTrainer"
    arguments_class: ClassVar[str] = "trl.SFTConfig"
    peft_type: ClassVar[str] = "CAUSAL_LM"
    roles: ClassVar[tuple[str, ...]] = (
        "messages", "conversations", "prompt", "completion", "instruction", "input", "output", "text",
    )  # fmt: skip
    owned: ClassVar[dict[str, str]] = dict.fromkeys(NOT_THE_TRAINERS, PREPARED)
    trainer_options: ClassVar[dict[str, Any]] = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None}

    name: str = "sft"
    mask: Literal["assistant", "last_turn", "all"] = "assistant"
    """What is trained: every assistant turn, the last one, or every token. Plain text is trained whole."""
    overlong: Literal["drop", "truncate", "error"] = "drop"
    """What becomes of a row of more than `tokenizer.max_length` tokens. A truncated row gets no false end."""

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """Layout and columns, detected from the names of the columns."""
        from finetune.data.conversations import detect

        layout, found = detect(train.column_names, columns)
        return {"layout": layout, "columns": found}

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoded:
        """Token ids, and labels where the assistant speaks."""
        from finetune.data import conversations, encoding, labels
        from finetune.data.columns import check

        plain, layout, columns = facts["layout"] == "text", facts["layout"], facts["columns"]
        check(columns, rows.column_names)
        if not plain:
            labels.terminator(tokenizer)

        def read(row: dict[str, Any], _: int) -> Any:
            return conversations.text(row, columns) if plain else conversations.read(row, layout, columns)

        def tokenize(items: Sequence[Any], cut: int | None) -> list[dict[str, Any]]:
            found = labels.label_text(items, tokenizer) if plain else labels.label(items, tokenizer, self.mask)
            return [{"input_ids": row.input_ids[:cut], "labels": row.labels[:cut]} for row in found]

        encoded = encoding.encode(rows, read, tokenize, encoding.Limit(max_length, self.overlong))
        encoded.account.note("trained tokens", labels.count_trained(encoded.rows))
        return encoded

    def configure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Facts) -> None:
        """Generation stops at the token that was trained to end a turn."""
        from finetune.data.labels import terminator

        stops = model.generation_config.eos_token_id or []
        trained = tokenizer.eos_token_id if facts["layout"] == "text" else terminator(tokenizer)
        model.generation_config.eos_token_id = sorted({trained, *([stops] if isinstance(stops, int) else stops)})
        model.generation_config.pad_token_id = tokenizer.pad_token_id

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """TRL's, which masks padding by position."""
        from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

        collator: Callable[..., dict[str, Any]] = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
        return collator

    def weight(self, batch: dict[str, torch.Tensor]) -> int:
        """Tokens the model predicts: the first of a row is predicted from nothing."""
        return int((batch["labels"][:, 1:] != -100).sum())

    def outcomes(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """Predicted and true token at each trained position."""
        trained = batch["labels"][:, 1:] != -100
        return logits[:, :-1].argmax(-1)[trained], batch["labels"][:, 1:][trained]

    def metrics(self, facts: Facts) -> Sequence[str]:
        """Share of tokens predicted exactly; loss and perplexity are always reported."""
        return ("accuracy",)

    def summarize(self, scores: dict[str, float]) -> dict[str, float]:
        """Perplexity follows from the loss; accuracy is of tokens."""
        names = {"accuracy": "token_accuracy"}
        named = {names.get(name, name): value for name, value in scores.items()}
        return {**named, "perplexity": math.exp(min(scores["loss"], 100.0))}

    def score(self, facts: Facts) -> tuple[str, bool]:
        """Loss: lower is better."""
        return "loss", False

    def question(self, row: dict[str, Any], facts: Facts) -> tuple[Any, str]:
        """What the model is asked, and the answer the row gives: the last assistant turn."""
        from finetune.data.conversations import read

        if facts["layout"] == "text":
            raise UserError("plain text asks nothing that could be answered: write evaluation.generation.rows=0")
        messages = read(row, facts["layout"], facts["columns"])
        last = max((at for at, message in enumerate(messages) if message["role"] == "assistant"), default=0)
        if not last:
            raise RowError("no answer of the assistant")
        return messages[:last], str(messages[last].get("content", ""))

    def predict(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        inputs: Sequence[Any],
        options: dict[str, Any],
    ) -> Iterator[dict[str, Any]]:
        """Answers. An input is a prompt, a list of messages, or a row with the columns of a layout."""
        from finetune.models.generate import answers

        columns = options.get("columns", {})
        chat = bool(tokenizer.chat_template) and "text" not in columns
        prompts = [_prompt(item, number, columns, chat) for number, item in enumerate(inputs)]
        given = {"max_new_tokens": options.get("max_new_tokens", 256), **options.get("generation_config", {})}
        found = answers(model, tokenizer, prompts, given)
        for item, answer in zip(inputs, found, strict=True):
            yield {"input": item, "answer": answer.text, "capped": answer.capped}

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """Questions with answers, in the layout that the named columns belong to."""
        from finetune.data.conversations import example

        return example(columns)


def _prompt(item: Any, number: int, columns: dict[str, str], chat: bool) -> Any:
    """What is rendered: messages where there is a template, the bare text elsewhere."""
    from finetune.data.conversations import question, text

    row = item if isinstance(item, dict) else {"messages" if isinstance(item, list) else "prompt": item}
    try:
        if chat:
            return question(row, columns)
        written = next((row[name] for name in (columns.get("text", "text"), "text", "prompt") if name in row), None)
        return text({"text": written}, {"text": "text"})
    except (RowError, UserError) as error:
        raise UserError(f"input {number}: {error}") from None
