"""The tokens that are trained are what the assistant says and the token that ends it, or there is an error."""

import pytest
import torch
from tiny import (
    CHATML,
    DEFAULT_SYSTEM,
    EOS,
    MARKED,
    MARKED_WITHOUT_END,
    NEWLINE,
    REWRITING,
    STRICT,
    WITH_BOS,
    chat_tokenizer,
    trained_text,
)

from finetune.config.task import RowError
from finetune.data import labels, templates
from finetune.data.conversations import Conversation
from finetune.errors import UserError
from finetune.tasks.sft import SFT


def turns(*texts, system=None):
    """A conversation, the user first."""
    chat = [{"role": "user" if at % 2 == 0 else "assistant", "content": text} for at, text in enumerate(texts)]
    return [{"role": "system", "content": system}, *chat] if system else chat


CHATS = {
    "one turn": turns("hello", "hallo welt"),
    "three turns": turns("one", "two three", "four", "five six", "seven", "eight"),
    "a system prompt": turns("hello", "hallo", "how", "so", system="You are brief."),
    "letters of many bytes": turns("wie heißt 猫?", "Käse 😀 “猫”", "und?", "naïve – ja"),
    "lines": turns("a\n\nb", "first\n\nsecond\n", "x", "last line\n\n"),
    "the words of the template": turns("assistant", "user assistant system", "assistant\n", "user\nassistant"),
    "the same words on both sides": turns("same", "same", "same", "same"),
    "a question at the end": turns("one", "two", "three"),
}
TEMPLATES = {
    "chatml": (CHATML, "<|im_end|>"),
    "markers": (MARKED, "<|im_end|>"),
    "a default system prompt": (DEFAULT_SYSTEM, "<|im_end|>"),
    "an eos of its own": (EOS, "</s>"),
    "a first token": (WITH_BOS, "<|im_end|>"),
}


def label(chats, tokenizer, mask="assistant", **policy):
    """As the task does: the mask chooses messages, the policy what of them is trained."""
    labeler = labels.Labeler(tokenizer, labels.Policy(whole=mask == "all", **policy))
    return labeler([Conversation(chat, trained=labels.chosen(chat, mask)) for chat in chats])


def said(chat):
    return [message["content"] for message in chat if message["role"] == "assistant"]


def tokenizer_for(name):
    template, stop = TEMPLATES[name]
    return chat_tokenizer(template, eos=stop, bos=template == WITH_BOS), stop


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_exactly_the_assistants_words_and_their_end_are_trained(template, chat):
    tokenizer, stop = tokenizer_for(template)
    (row,) = label([chat], tokenizer, "assistant")
    assert trained_text(tokenizer, row.input_ids, row.labels) == "".join(text + stop for text in said(chat))
    assert tokenizer.decode(row.input_ids) == templates.render(tokenizer, Conversation(chat))


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_last_turn_trains_the_last_words_only(template, chat):
    tokenizer, stop = tokenizer_for(template)
    (row,) = label([chat], tokenizer, "last_turn")
    assert trained_text(tokenizer, row.input_ids, row.labels) == said(chat)[-1] + stop


@pytest.mark.parametrize("template", TEMPLATES)
def test_all_trains_every_token(template):
    tokenizer, _ = tokenizer_for(template)
    (row,) = label([CHATS["three turns"]], tokenizer, "all")
    assert row.labels == row.input_ids
    assert tokenizer.decode(row.labels) == templates.render(tokenizer, Conversation(CHATS["three turns"]))


@pytest.mark.parametrize("mask", ["assistant", "last_turn"])
def test_markers_and_prefixes_agree(mask):
    by_markers = label(list(CHATS.values()), chat_tokenizer(MARKED), mask)
    by_prefixes = label(list(CHATS.values()), chat_tokenizer(CHATML), mask)
    assert by_markers == by_prefixes


@pytest.mark.parametrize("marker", ["{% generation %}", "{%- generation %}", "{%generation%}", "{% generation -%}"])
def test_markers_are_found_however_they_are_written(marker):
    assert templates.has_markers(chat_tokenizer(MARKED.replace("{% generation %}", marker)))


def test_a_template_that_speaks_of_generation_has_no_markers():
    assert not templates.has_markers(chat_tokenizer(CHATML + "{# {% generation_config %} #}"))


def test_a_batch_is_labelled_as_each_row_alone():
    tokenizer = chat_tokenizer()
    alone = [label([chat], tokenizer, "assistant")[0] for chat in CHATS.values()]
    assert label(list(CHATS.values()), tokenizer, "assistant") == alone


def test_a_conversation_without_an_answer_trains_nothing():
    (row,) = label([turns("hello")], chat_tokenizer(), "assistant")
    assert set(row.labels) == {-100}


def test_a_template_that_rewrites_history_is_refused_for_every_turn():
    with pytest.raises(UserError, match=r"not a prefix of the whole.*task\.mask=last_turn"):
        label([CHATS["three turns"]], chat_tokenizer(REWRITING), "assistant")


def test_a_template_that_rewrites_history_trains_the_last_turn():
    tokenizer = chat_tokenizer(REWRITING)
    (row,) = label([CHATS["three turns"]], tokenizer, "last_turn")
    assert trained_text(tokenizer, row.input_ids, row.labels) == "eight<|im_end|>"
    assert "two three" not in tokenizer.decode(row.input_ids)


@pytest.mark.parametrize("template", [CHATML, MARKED], ids=["prefixes", "markers"])
def test_a_turn_that_shares_a_token_with_the_template_is_a_fault_of_the_row(template):
    tokenizer = chat_tokenizer(template)
    with pytest.raises(RowError, match="shares a token with the text around it"):
        label([turns("one", "\n\nfive")], tokenizer, "assistant")


@pytest.mark.parametrize(("template", "eos", "expected"), [(CHATML, "</s>", "<|im_end|>"), (EOS, "</s>", "</s>")])
def test_the_terminator_is_what_the_template_ends_a_turn_with(template, eos, expected):
    tokenizer = chat_tokenizer(template, eos=eos)
    assert tokenizer.convert_ids_to_tokens(templates.terminators(tokenizer)) == [expected]


def test_a_turn_that_ends_with_a_newline_only_is_refused():
    with pytest.raises(UserError, match=r"ends an assistant turn with '\\n', which holds no special token"):
        templates.terminators(chat_tokenizer(NEWLINE))


def test_a_terminator_that_is_not_in_the_vocabulary_is_no_terminator():
    with pytest.raises(UserError, match=r"'<\|eot\|>\\n', which holds no special token"):
        templates.terminators(chat_tokenizer(CHATML.replace("<|im_end|>", "<|eot|>")))


def test_an_unknown_token_is_no_terminator():
    tokenizer = chat_tokenizer(CHATML.replace("<|im_end|>", "<unk>"))
    with pytest.raises(UserError, match="holds no special token"):
        templates.terminators(tokenizer)


def test_markers_that_leave_the_end_of_turn_out_are_refused():
    with pytest.raises(UserError, match="rendered without its end-of-turn token"):
        label([turns("one", "two")], chat_tokenizer(MARKED_WITHOUT_END), "assistant")


def test_a_tokenizer_without_a_template_is_refused():
    with pytest.raises(UserError, match=r"no chat template; write tokenizer\.chat_template"):
        templates.terminators(chat_tokenizer(None))


def test_a_conversation_that_the_template_refuses_is_a_fault_of_the_row():
    chat = [*turns("one", "two"), {"role": "assistant", "content": "three"}]
    with pytest.raises(RowError, match="the chat template refuses the conversation: roles must alternate"):
        label([chat], chat_tokenizer(STRICT), "assistant")


def test_a_conversation_that_begins_with_the_assistant_is_a_fault_of_the_row():
    with pytest.raises(RowError, match="the first message is the assistant's"):
        label([turns("one", "two")[1:]], chat_tokenizer(), "assistant")


def test_a_rendered_first_token_is_not_doubled():
    tokenizer = chat_tokenizer(WITH_BOS, bos=True)
    for mask in ("assistant", "last_turn", "all"):
        (row,) = label([turns("one", "two")], tokenizer, mask)
        assert row.input_ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("text", ["hello how", "<s>hello how", "hello how<|im_end|>", "<s>hello how<|im_end|>"])
def test_a_plain_text_begins_once_and_ends_once(text):
    tokenizer = chat_tokenizer(bos=True)
    (row,) = labels.label_text([text], tokenizer)
    assert tokenizer.decode(row.input_ids) == "<s>hello how<|im_end|>"
    assert row.labels == row.input_ids


def test_plain_text_needs_a_token_that_ends_it():
    tokenizer = chat_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no end-of-sequence token"):
        labels.label_text(["hello"], tokenizer)


def test_padding_equal_to_the_end_is_masked_by_position_and_the_real_end_is_trained():
    tokenizer = chat_tokenizer(pad="<|im_end|>")
    rows = label([turns("one", "two"), CHATS["three turns"]], tokenizer, "assistant")
    batch = SFT().collator(tokenizer)([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])
    length, stop = len(rows[0].input_ids), tokenizer.eos_token_id
    assert torch.equal(batch["labels"][0, :length], torch.tensor(rows[0].labels))
    assert stop in batch["labels"][0, :length]
    assert set(batch["input_ids"][0, length:].tolist()) == {stop}
    assert set(batch["labels"][0, length:].tolist()) == {-100}
    assert batch["attention_mask"][0].tolist() == [1] * length + [0] * (len(rows[1].input_ids) - length)
