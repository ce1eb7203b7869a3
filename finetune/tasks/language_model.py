"""What language models share as tasks: texts as rows, a loss over tokens, the perplexity that follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetune.config.task import IGNORED, Facts, RowError, Task
from finetune.errors import UserError

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


USUAL = {"text": ("text", "content", "sentence", "document")}


@dataclass(kw_only=True)
class LanguageModel(Task):
    """Plain text, scored by loss and perplexity, and by the share of tokens that are found."""

    roles: ClassVar[tuple[str, ...]] = ("text",)
    accuracy: ClassVar[str] = "token_accuracy"
    """What that share is called."""

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """The column of texts."""
        from finetune.data.columns import detect

        return {"columns": detect(train.column_names, columns, USUAL)}

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """Two sentences."""
        texts = ("the sun rises in the east", "rain falls in the west")
        return [{columns.get("text", "text"): text} for text in texts]

    def weight(self, batch: dict[str, torch.Tensor]) -> int:
        """Tokens with a label."""
        return int((batch["labels"] != IGNORED).sum())

    def outcomes(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """Predicted and true token where there is a label."""
        labelled = batch["labels"] != IGNORED
        return logits.argmax(-1)[labelled], batch["labels"][labelled]

    def metrics(self, facts: Facts) -> Sequence[str]:
        """Share of tokens found exactly; loss and perplexity are always reported."""
        return ("accuracy",)

    def summarize(self, scores: dict[str, float]) -> dict[str, float]:
        """Perplexity follows from the loss; accuracy is of tokens."""
        named = {self.accuracy if name == "accuracy" else name: value for name, value in scores.items()}
        return {**named, "perplexity": math.exp(min(scores["loss"], 100.0))}

    def score(self, facts: Facts) -> tuple[str, bool]:
        """Loss: lower is better."""
        return "loss", False


@dataclass(kw_only=True)
class NextToken(LanguageModel):
    """A causal model: each token is predicted from those before it, and the first of a row from nothing."""

    model_class: ClassVar[str] = "transformers.AutoModelForCausalLM"
    peft_type: ClassVar[str] = "CAUSAL_LM"

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """TRL's, which masks padding by position: the token that pads may be the one that ends a text."""
        from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

        collator: Callable[..., dict[str, Any]] = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
        return collator

    def weight(self, batch: dict[str, torch.Tensor]) -> int:
        """Tokens the model predicts."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())

    def outcomes(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[Any, Any]:
        """Predicted and true token at each trained position."""
        following = batch["labels"][:, 1:]
        trained = following != IGNORED
        return logits[:, :-1].argmax(-1)[trained], following[trained]


@dataclass(kw_only=True)
class Chat(NextToken):
    """A causal model that is asked and answers: in turns where there is a template, else by going on with a text."""

    def configure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Facts) -> None:
        """Generation stops at the token that was trained to end a turn."""
        from finetune.data.templates import terminators

        stops = model.generation_config.eos_token_id or []
        trained = [tokenizer.eos_token_id] if facts["layout"] == "text" else terminators(tokenizer)
        model.generation_config.eos_token_id = sorted({*trained, *([stops] if isinstance(stops, int) else stops)})
        model.generation_config.pad_token_id = tokenizer.pad_token_id

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


def with_tools(messages: list[Any], tools: list[Any] | None) -> Any:
    """What is asked: messages alone where no tools may be called."""
    return {"messages": messages, "tools": tools} if tools else messages


def _prompt(item: Any, number: int, columns: dict[str, str], chat: bool) -> Any:
    """What is rendered: messages where there is a template, the bare text elsewhere."""
    from finetune.data.conversations import question, text, tools

    row = item if isinstance(item, dict) else {"messages" if isinstance(item, list) else "prompt": item}
    try:
        if chat:
            return with_tools(question(row, columns), tools(row, columns))
        written = next((row[name] for name in (columns.get("text", "text"), "text", "prompt") if name in row), None)
        return text({"text": written}, {"text": "text"})
    except (RowError, UserError) as error:
        raise UserError(f"input {number}: {error}") from None
