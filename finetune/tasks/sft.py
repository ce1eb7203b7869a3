"""Supervised fine-tuning of a causal language model on chats, prompts with completions, or plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config.task import NOTES, Brought, Encoder, Facts, RowError
from finetune.config.types import Closed, Text
from finetune.errors import UserError
from finetune.tasks.language_model import Chat, with_tools

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from finetune.data.labels import Policy

PREPARED = "task.mask, task.overlong or tokenizer.max_length: rows are prepared before the trainer exists"
PACKED = "packing=best_fit, the group: rows are packed before the trainer exists"
PACKING = ("packing", "packing_strategy", "eval_packing", "padding_free")
NOT_THE_TRAINERS = (
    "max_length", "truncation_mode", "dataset_text_field", "dataset_kwargs", "dataset_num_proc", "eos_token",
    "pad_token", "chat_template_path", "assistant_only_loss", "completion_only_loss", "model_init_kwargs",
)  # fmt: skip


@dataclass(kw_only=True)
class Boundaries:
    """Texts around what the assistant says."""

    __pydantic_config__: ClassVar[Any] = Closed

    start: Text
    end: Text


@dataclass(kw_only=True)
class SFT(Chat):
    """Train on what the assistant says; loss and optimization are TRL's."""

    trainer_class: ClassVar[str] = "trl.SFTTrainer"
    arguments_class: ClassVar[str] = "trl.SFTConfig"
    roles: ClassVar[tuple[str, ...]] = (
        "messages", "conversations", "prompt", "completion", "instruction", "input", "output", "text", "tools",
    )  # fmt: skip
    owned: ClassVar[dict[str, str]] = dict.fromkeys(NOT_THE_TRAINERS, PREPARED) | dict.fromkeys(PACKING, PACKED)
    trainer_options: ClassVar[dict[str, Any]] = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None}

    name: str = "sft"
    mask: Literal["assistant", "last_turn", "completion", "per_turn", "all"] = "assistant"
    """What is trained: every assistant turn, the last one, those of the completion, those that their message marks,
    or every token. Plain text is trained whole."""
    turn_weight: Text = "weight"
    """With mask=per_turn, the field of a message that says whether it is trained: 0 or 1, false or true."""
    eos: Literal["every_turn", "last", "none"] = "every_turn"
    """Which trained turns have the token that ends them in the loss. With none the model does not learn to stop."""
    train_reasoning: bool = True
    """Whether `reasoning_content`, `thinking` and what `<think>` encloses carry the loss."""
    train_tool_calls: bool = True
    boundaries: Boundaries | None = None
    """What an assistant turn starts and ends with once rendered, for templates that neither mark it nor keep it."""
    overlong: Literal["drop", "truncate_prompt", "truncate_end", "split", "error"] = "drop"
    """What becomes of a row of more than `tokenizer.max_length` tokens. A truncated row gets no false end."""

    def describe(self, train: Dataset, columns: dict[str, str]) -> Facts:
        """Layout and columns, detected from the names of the columns."""
        from finetune.data import labels
        from finetune.data.conversations import ANSWERS, LAYOUTS, detect

        layout, found = detect(train.column_names, columns)
        if self.mask == "completion" and not set(ANSWERS) & set(LAYOUTS[layout].needs):
            raise UserError(
                f"task.mask=completion needs a column that holds the answer alone, and rows have the layout {layout}. "
                "Write task.mask=assistant or last_turn, or name dataset.columns.prompt and dataset.columns.completion"
            )
        if self.mask == "per_turn" and layout != "text":
            columns_of_turns = [found[role] for role in LAYOUTS[layout].needs]
            labels.check_field((turns for name in columns_of_turns for turns in train[name]), self.turn_weight)
        return {"layout": layout, "columns": found}

    def settle(self, facts: Facts, tokenizer: PreTrainedTokenizerBase, brought: Brought) -> Facts:
        """The tokens that end a turn, where they are trained: the template's, and those that the model stops at."""
        from finetune.data.templates import terminators

        if facts["layout"] == "text" or self.eos == "none":
            return facts
        return {**facts, "stops": sorted({*terminators(tokenizer), *brought.stops})}

    def encoder(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, facts: Facts, max_length: int) -> Encoder:
        """Token ids, and labels where the assistant speaks; whole, whatever the length."""
        from finetune.data import labels
        from finetune.data.columns import check

        check(facts["columns"], rows.column_names)
        plain = facts["layout"] == "text"
        labeler = None if plain else labels.Labeler(tokenizer, self._policy(facts))

        def read(row: dict[str, Any], index: int) -> Any:
            return self._read(row, index, facts)

        def tokenize(items: Sequence[Any], _: int | None) -> list[dict[str, Any]]:
            found = labeler(items) if labeler else labels.label_text(items, tokenizer)
            return [{"input_ids": row.input_ids, "labels": row.labels, NOTES: row.lost} for row in found]

        return Encoder(read, tokenize, labels="ids", overlong=self.overlong)

    def _policy(self, facts: Facts) -> Policy:
        from finetune.data.labels import Policy

        trained = {"reasoning": self.train_reasoning, "tool_calls": self.train_tool_calls}
        return Policy(
            whole=self.mask == "all",
            eos=self.eos,
            left=tuple(part for part, is_trained in trained.items() if not is_trained),
            boundaries=vars(self.boundaries) if self.boundaries else None,
            stops=tuple(facts.get("stops", ())),
        )

    def _read(self, row: dict[str, Any], index: int, facts: Facts) -> Any:
        """A text, or a conversation with the messages that are trained."""
        from finetune.data import conversations, labels

        layout, columns = facts["layout"], facts["columns"]
        if layout == "text":
            return conversations.text(row, columns)
        messages = conversations.read(row, layout, columns)
        answer = conversations.first_answer(row, layout, columns) if self.mask == "completion" else 0
        try:
            trained = labels.chosen(messages, self.mask, answer, self.turn_weight)
        except UserError as error:
            raise UserError(f"row {index}: {error}") from None
        return conversations.Conversation(messages, conversations.tools(row, columns), trained)

    def question(self, row: dict[str, Any], facts: Facts) -> tuple[Any, str]:
        """What the model is asked, and the answer the row gives: the last assistant turn."""
        from finetune.data.conversations import read, tools

        if facts["layout"] == "text":
            raise UserError("plain text asks nothing that could be answered: write evaluation.generation.rows=0")
        messages = read(row, facts["layout"], facts["columns"])
        last = max((at for at, message in enumerate(messages) if message["role"] == "assistant"), default=0)
        if not last:
            raise RowError("no answer of the assistant")
        return with_tools(messages[:last], tools(row, facts["columns"])), str(messages[last].get("content", ""))

    def rendered(self, row: dict[str, Any], facts: Facts, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
        """A conversation and its text; plain text is not rendered."""
        from finetune.data.templates import render

        if facts["layout"] == "text":
            return None
        chat = self._read(row, 0, facts)
        return {"messages": chat.messages, "tools": chat.tools, "text": render(tokenizer, chat)}

    def example(self, columns: dict[str, str]) -> list[dict[str, Any]]:
        """Questions with answers, in the layout that the named columns belong to."""
        from finetune.data.conversations import example

        return example(columns)
