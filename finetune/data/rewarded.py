"""What a reward is asked for, as the tokens that the model was trained on: texts, messages, or rows with an answer."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from finetune.config.task import RowError
from finetune.data import conversations
from finetune.data.conversations import Conversation
from finetune.data.labels import Labeler, Policy, label_text
from finetune.data.preferences import TEXT, single, turns_of


def scored_ids(item: Any, tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]) -> list[int]:
    """The tokens of what a reward is asked for.

    Args:
        item: a text, messages, or a row with messages, or with a prompt and a completion.
        options: `columns` and `layout`, as trained; `max_length`.
    Raises:
        RowError: it is something else, or longer than what was trained on.
    """
    if options.get("layout") == TEXT:
        (row,) = label_text([conversations.text({"text": item}, {"text": "text"})], tokenizer)
        ids = row.input_ids
    else:
        ids = Labeler(tokenizer, Policy(whole=True))([_conversation(item, options.get("columns", {}))])[0].input_ids
    if len(ids) > options.get("max_length", len(ids)):
        raise RowError(f"{len(ids)} tokens, more than the {options['max_length']} that rows were trained with")
    return list(ids)


def _conversation(item: Any, columns: dict[str, str]) -> Conversation:
    row = item if isinstance(item, dict) else {"messages": item}
    prompt, answer = columns.get("prompt", "prompt"), next((c for c in ("completion", "chosen") if c in row), "")
    if prompt in row and answer:
        return single(row, {"columns": {"prompt": prompt, "completion": answer}})
    if not isinstance(row.get("messages"), list):
        raise RowError(f"{item!r} is not a list of messages, or a row with {prompt} and completion")
    messages = turns_of(row, "messages", "")
    return Conversation(messages, conversations.tools(row, columns), ())
