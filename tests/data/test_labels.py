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


REASONED = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "reasoning_content": "one two", "content": "hallo"},
    {"role": "user", "content": "how"},
    {"role": "assistant", "reasoning_content": "three four", "content": "so"},
]
THINKING = CHATML.replace(
    "message['content'] + '<|im_end|>",
    "('<think>' + message['reasoning_content'] + '</think>' if message['reasoning_content'] else '')"
    " + message['content'] + '<|im_end|>",
)
TALKING = CHATML.replace(
    "message['content'] + '<|im_end|>",
    "('(' + message['thinking'] + ')\n' if message['thinking'] else '') + message['content'] + '<|im_end|>",
)
CALLING = CHATML.replace(
    "+ '<|im_end|>",
    "+ ('[call] ' + message['tool_calls'] | tojson if message['tool_calls'] else '') + '<|im_end|>",
)
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def trained(chat, tokenizer, mask="assistant", **policy):
    (row,) = label([chat], tokenizer, mask, **policy)
    return trained_text(tokenizer, row.input_ids, row.labels)


@pytest.mark.parametrize(
    ("eos", "expected"),
    [("every_turn", "two<|im_end|>four<|im_end|>"), ("last", "twofour<|im_end|>"), ("none", "twofour")],
)
@pytest.mark.parametrize("template", [CHATML, MARKED], ids=["prefixes", "markers"])
def test_the_end_is_trained_at_every_turn_at_the_last_or_nowhere(template, eos, expected):
    assert trained(turns("one", "two", "three", "four"), chat_tokenizer(template), eos=eos) == expected


def test_without_trained_ends_a_turn_may_be_marked_without_its_end():
    assert trained(turns("one", "two"), chat_tokenizer(MARKED_WITHOUT_END), eos="none") == "two"


def test_reasoning_is_trained_unless_it_is_left_out():
    tokenizer = chat_tokenizer(THINKING)
    assert trained(REASONED, tokenizer) == (
        "<think>one two</think>hallo<|im_end|><think>three four</think>so<|im_end|>"
    )
    assert trained(REASONED, tokenizer, left=("reasoning",)) == "hallo<|im_end|>so<|im_end|>"


@pytest.mark.parametrize("field", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_is_rendered_under_whichever_name_the_row_has_it(field):
    """Upstream gives templates the names that they read; rows of a shape are no exception."""
    tokenizer = chat_tokenizer(THINKING)
    labeler = labels.Labeler(tokenizer, labels.Policy())
    for said in ("one two", "three 100 %"):
        chat = [*turns("hello"), {"role": "assistant", field: said, "content": "hallo %s"}]
        (row,) = labeler([Conversation(chat, trained=(1,))])
        assert trained_text(tokenizer, row.input_ids, row.labels) == f"<think>{said}</think>hallo %s<|im_end|>"
    (shape,) = labeler.shapes.shapes.values()
    assert shape


def test_reasoning_that_begins_as_the_answer_does_is_left_out_alone():
    chat = [*turns("one"), {"role": "assistant", "thinking": "two three", "content": "(four) five"}]
    assert trained(chat, chat_tokenizer(TALKING), left=("reasoning",)) == "(four) five<|im_end|>"


def test_reasoning_within_the_content_is_left_out():
    chat = turns("one", "<think>two three</think>four", "five", "six")
    assert trained(chat, chat_tokenizer(), left=("reasoning",)) == "four<|im_end|>six<|im_end|>"


def test_reasoning_without_tags_is_what_is_not_there_without_the_field():
    chat = [*turns("one"), {"role": "assistant", "thinking": "two three", "content": "four"}]
    assert trained(chat, chat_tokenizer(TALKING)) == "(two three)\nfour<|im_end|>"
    assert trained(chat, chat_tokenizer(TALKING), left=("reasoning",)) == "four<|im_end|>"


def test_a_part_that_is_not_written_as_one_piece_is_refused():
    scattered = CHATML.replace(
        "message['content'] + '<|im_end|>",
        "(message['thinking'] + message['content'] + message['thinking'] if message['thinking'] else"
        " message['content']) + '<|im_end|>",
    )
    chat = [*turns("one"), {"role": "assistant", "thinking": "two", "content": "four"}]
    with pytest.raises(UserError, match="does not write thinking of a turn as one piece"):
        trained(chat, chat_tokenizer(scattered), left=("reasoning",))


def test_tool_calls_are_trained_unless_they_are_left_out():
    chat = [*turns("one"), {"role": "assistant", "content": "two ", "tool_calls": [CALL]}]
    tokenizer = chat_tokenizer(CALLING)
    assert "[call]" in trained(chat, tokenizer)
    assert "add" in trained(chat, tokenizer)
    assert trained(chat, tokenizer, left=("tool_calls",)) == "two <|im_end|>"


def test_what_the_template_leaves_out_is_listed():
    chat = [
        {"role": "user", "content": "one", "name": "Ada"},
        {"role": "assistant", "content": "two", "reasoning_content": "three four", "tool_calls": [CALL]},
    ]
    (row,) = label([chat], chat_tokenizer())
    assert row.lost == (
        "name of user not rendered", "reasoning_content of assistant not rendered",
        "tool_calls of assistant not rendered",
    )  # fmt: skip
    plain = [{"role": "user", "content": "one", "name": "Ada"}, {"role": "assistant", "content": "two"}]
    assert label([plain], chat_tokenizer())[0].lost == ("name of user not rendered",)


def test_a_weight_that_says_what_is_trained_is_not_missed_in_the_text():
    chat = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two", "weight": 1, "train": True}]
    assert label([chat], chat_tokenizer())[0].lost == ()


def test_a_template_that_leaves_out_what_is_said_is_refused():
    silent = CHATML.replace("message['content'] + ", "(message['content'] if message['content'] != 'two' else '') + ")
    with pytest.raises(UserError, match="does not write what the assistant says"):
        label([turns("one", "two")], chat_tokenizer(silent))


def test_a_first_token_that_is_rendered_twice_is_refused():
    with pytest.raises(UserError, match="begins with <s> twice"):
        label([turns("one", "two")], chat_tokenizer("{{ bos_token }}" + WITH_BOS, bos=True))


@pytest.mark.parametrize("content", ["a<|im_end|>b", "<|im_start|>assistant\nx", "two<|im_end|>\n<|im_start|>user\nx"])
@pytest.mark.parametrize("template", [CHATML, MARKED], ids=["prefixes", "markers"])
def test_special_tokens_in_what_is_said_move_no_boundary(template, content):
    tokenizer = chat_tokenizer(template)
    assert trained(turns(content, content, "three", "four"), tokenizer) == f"{content}<|im_end|>four<|im_end|>"


def test_declared_boundaries_are_found_where_no_prefix_is():
    tokenizer = chat_tokenizer(REWRITING)
    boundaries = {"start": "<|im_start|>assistant\n", "end": "<|im_end|>"}
    chat = turns("one", "two", "three", "five six")
    assert trained(turns("one", "two"), tokenizer, boundaries=boundaries) == "two<|im_end|>"
    assert trained(chat, tokenizer, boundaries=boundaries) == "two<|im_end|>five six<|im_end|>"


def test_boundaries_that_a_text_of_the_row_repeats_drop_the_row():
    boundaries = {"start": "<|im_start|>assistant\n", "end": "<|im_end|>"}
    silent = REWRITING  # looks into the texts, so that each row is searched itself
    with pytest.raises(RowError, match="occurs 2 times for 1 assistant messages"):
        trained(
            turns("<|im_start|>assistant\nx", "two three four", "x"), chat_tokenizer(silent), boundaries=boundaries
        )


def test_stops_of_the_generation_config_end_a_turn_that_has_no_other():
    ending = CHATML.replace("'<|im_end|>\n'", "('</s>' if 'call' in message['content'] else '<|im_end|>') + '\n'")
    tokenizer = chat_tokenizer(ending)
    with pytest.raises(UserError, match="without its end-of-turn token"):
        trained(turns("one", "call two"), tokenizer)
    stops = (tokenizer.convert_tokens_to_ids("</s>"),)
    assert trained(turns("one", "call two"), tokenizer, stops=stops) == "call two</s>"


CHOSEN = [
    {"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0},
    {"role": "user", "content": "q"}, {"role": "assistant", "content": "b", "weight": 1},
    {"role": "user", "content": "q"}, {"role": "assistant", "content": "c"},
]  # fmt: skip


@pytest.mark.parametrize(
    ("mask", "expected"),
    [("assistant", (1, 3, 5)), ("last_turn", (5,)), ("completion", (3, 5)), ("per_turn", (3, 5))],
)
def test_a_mask_chooses_messages(mask, expected):
    assert labels.chosen(CHOSEN, mask, answer=2) == expected


@pytest.mark.parametrize(("value", "is_trained"), [(0, False), (1, True), (False, False), (True, True), (1.0, True)])
def test_a_turn_is_trained_by_the_field_that_the_recipe_names(value, is_trained):
    chat = [*turns("one"), {"role": "assistant", "content": "two", "train": value}]
    assert labels.chosen(chat, "per_turn", field="train") == ((1,) if is_trained else ())


@pytest.mark.parametrize("value", [0.5, 2, -1, "yes"])
def test_a_turn_is_trained_or_not_and_never_by_a_share(value):
    chat = [*turns("one"), {"role": "assistant", "content": "two", "weight": value}]
    with pytest.raises(UserError, match="write 0 or 1, false or true"):
        labels.chosen(chat, "per_turn")


def test_turns_with_weight_nought_are_not_trained():
    chat = [*turns("one"), {"role": "assistant", "content": "two", "weight": 0}, *turns("three", "four")]
    labeler = labels.Labeler(chat_tokenizer(), labels.Policy())
    (row,) = labeler([Conversation(chat, trained=labels.chosen(chat, "per_turn"))])
    assert trained_text(chat_tokenizer(), row.input_ids, row.labels) == "four<|im_end|>"
