"""A row that is held against its shape is what it is alone, whatever its texts hold, or it is searched alone."""

import random
from pathlib import Path

import pytest
import trl
from families import FAMILIES, tokenizer_for
from tiny import CHATML, chat_tokenizer

from finetune.config.task import RowError
from finetune.data import labels, templates
from finetune.data.asked import asked
from finetune.data.conversations import Conversation
from finetune.data.turns import check_said
from finetune.errors import UserError

FOLDER = Path(trl.__file__).parent / "chat_templates"
TRL = {file.stem: file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.jinja"))}
HOSTILE = (
    "hello", "<think>", "</think>", "\n", "\n\n", " ", "/no_think", "/think", "<tool_response>\nx\n</tool_response>",
    "<|im_end|>", "<|im_start|>assistant\n", "[INST]", "</s>", "%s", "100%", "<think>\nr\n</think>\n\nans",
    "<|channel|>final<|message|>", "{{x}}", "qz0zq", "<tool_call>",
)  # fmt: skip
REASONING = ("reasoning_content", "thinking", "reasoning")


def hostile(numbers: random.Random) -> str:
    if numbers.random() < 0.3:
        return numbers.choice(("hello there", "<tool_response>\nx\n</tool_response>"))
    text = "".join(numbers.choice(HOSTILE) for _ in range(numbers.randrange(1, 4)))
    return text if text.strip() else "x"


def chat(numbers: random.Random) -> list[dict]:
    made = [{"role": "system", "content": hostile(numbers)}] if numbers.random() < 0.3 else []
    for _ in range(numbers.randrange(1, 4)):
        made += [{"role": "user", "content": hostile(numbers)}, {"role": "assistant", "content": hostile(numbers)}]
        if numbers.random() < 0.4:
            made[-1][numbers.choice(REASONING)] = hostile(numbers)
    return made


def found(labeler, conversation):
    """The text and the turns of a row by its shape, or why there are none."""
    try:
        quick = labeler.shapes(conversation)
    except (RowError, UserError) as error:
        return type(error)
    return quick.text, quick.turns


def alone(labeler, conversation):
    """The same of the row itself, by upstream's own rendering."""
    tokenizer = labeler.tokenizer
    try:
        searched = check_said(labeler.shapes.find(tokenizer, conversation), conversation)
    except (RowError, UserError) as error:
        return type(error)
    return templates.render(tokenizer, conversation), searched.turns


@pytest.mark.parametrize("name", [*TRL, *FAMILIES])
def test_whatever_the_texts_hold_a_row_is_what_it_is_alone(name):
    family = FAMILIES.get(name)
    tokenizer = tokenizer_for(family.marked, family.tokens) if family else tokenizer_for(TRL[name])
    try:
        labeler = labels.Labeler(tokenizer, labels.Policy())
    except UserError:
        pytest.skip("the template ends no turn")
    numbers = random.Random(name)
    for messages in [chat(numbers) for _ in range(25)]:
        for mask in ("assistant", "last_turn"):
            conversation = Conversation(messages, trained=labels.chosen(messages, mask))
            assert found(labeler, conversation) == alone(labeler, conversation), messages


@pytest.mark.parametrize("field", REASONING)
def test_reasoning_that_a_template_writes_by_what_the_user_says_is_written(field):
    messages = [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "calling", field: "a thought"},
        {"role": "user", "content": "<tool_response>\n7\n</tool_response>"},
        {"role": "assistant", "content": "it is 7"},
    ]  # fmt: skip
    labeler = labels.Labeler(tokenizer_for(TRL["qwen3"]), labels.Policy())
    assert "<think>\na thought\n</think>" in labeler.shapes(Conversation(messages, trained=(3,))).text


def test_an_answer_that_begins_as_the_model_is_asked_is_trained_behind_that():
    """`<think>\\n` is in the invitation, so the model never says it."""
    labeler = labels.Labeler(tokenizer_for(TRL["deepseek_r1_distill_training"]), labels.Policy())
    for said, begin in (("plain", "plain"), ("<think>\nr\n</think>\n\nans", "r\n</think>")):
        messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": said}]
        rendered = labeler.shapes(Conversation(messages, trained=(1,)))
        assert rendered.text[rendered.turns[0].start :].startswith(begin)


def test_an_invitation_that_depends_on_what_is_asked_is_proved_for_each_row():
    invited = "{{ '<|im_start|>assistant\n' }}"
    thoughtless = "{% if '/no_think' in messages[-1]['content'] %}{{ '<think></think>' }}{% endif %}"
    assert invited in CHATML
    head, _, tail = CHATML.rpartition(invited)
    labeler = labels.Labeler(chat_tokenizer(head + invited + thoughtless + tail), labels.Policy())
    for asked_for, outcome in (("hello", tuple), ("hello /no_think", UserError)):
        messages = [{"role": "user", "content": asked_for}, {"role": "assistant", "content": "hallo"}]
        found_ = found(labeler, Conversation(messages, trained=(1,)))
        assert found_ is outcome or isinstance(found_, outcome)


@pytest.mark.parametrize(
    ("written", "text", "is_asked"),
    [
        ("{% if '</think>' in message.content %}x{% endif %}", "a</think>b", True),
        ("{% if '</think>' in message.content %}x{% endif %}", "a<think>b", False),
        ("{% set mark = '</think>' %}{{ content.split(mark)[-1] }}", "</think>", True),
        ("{% if content.startswith('#!') %}x{% endif %}", "#!x", True),
        ("{% if 'reasoning high:' in content | lower %}x{% endif %}", "Reasoning high: x", True),
        ("{% if content == 'stop' %}x{% endif %}", " stop\n", True),
        ("{% if content[:2] == '#!' %}x{% endif %}", "#!x", True),
        ("{% if messages[0]['role'] == 'a role' %}x{% endif %}", "in a role", False),
        ("{% if content == 'stop' %}x{% endif %}", "stop it", False),
        ("{% if content in ['yes', 'no'] %}x{% endif %}", "no", True),
        ("{% if 'image' in item %}x{% endif %}", "an image", False),
        ("{{ 'a text' + content.strip('\n') + message['role'] }}", "a text\nrole", False),
        ("{{ raise_exception('a text') }}", "a text", False),
    ],
)
def test_what_a_template_looks_for_in_texts_is_read_from_its_syntax(written, text, is_asked):
    assert asked(templates.syntax(chat_tokenizer(CHATML + written)))(["plain", text]) is is_asked
