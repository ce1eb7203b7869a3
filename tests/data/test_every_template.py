"""Over every chat template that TRL ships, and over families written down here: what is trained is exactly what the
assistant says and the token that ends it, however it is found, or there is an error."""

import random
from pathlib import Path

import pytest
import trl
from families import FAMILIES, tokenizer_for

from finetune.config.task import RowError
from finetune.data import labels, templates
from finetune.data.conversations import Conversation
from finetune.data.cuts import Cuts, Tokenized
from finetune.errors import UserError

WORDS = [
    "hello",
    "how",
    "so",
    "naïve",
    "猫",
    "<b>",
    "a\n\nb",
    "x:",
    "{}",
    "\t",
    "1,234",
    "user",
    "\n",
    "é",
    "</",
    "[INST",
]
FOLDER = Path(trl.__file__).parent / "chat_templates"
TRL = {file.stem: file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.jinja"))}
THOUGHT, EMPTY = "<think>\n\n</think>\n\n{}", "</think>{}"
# What a template writes around an answer within its turn; the answer alone where nothing is listed.
SAID = {
    "cohere2": "{}<|END_RESPONSE|>", "cohere2_training": "{}<|END_RESPONSE|>",
    "glm4moe_training": "\n<think></think>\n{}",
    "gptoss": "<|channel|>final<|message|>{}", "gptoss_training": "<|channel|>final<|message|>{}",
    "muse_glimmer": " to=user<|message|>{}", "muse_glimmer_training": " to=user<|message|>{}",
    **{f"{name}{kind}": " {}" for name in ("idefics3", "smolvlm", "llava_next") for kind in ("", "_training")},
    **{f"nemotron_3_{name}_training": EMPTY for name in ("nano", "super", "ultra", "5_lightning")},
    **{f"qwen3{name}": THOUGHT for name in ("", "_training", "_5_think_training", "_6_training", "_8_training")},
}  # fmt: skip
# Templates whose turns cannot be proved as they are, and why; TRL ships a training variant of each.
NO_PREFIX = {
    **dict.fromkeys(["deepseek_r1_distill", "deepseekv3", "qwen3_8"], "invites the assistant|shares a token"),
    **{f"nemotron_3_{name}": "invites the assistant" for name in ("nano", "super", "ultra", "5_lightning")},
    **{f"qwen3_{name}": "invites the assistant|shares a token|not a prefix" for name in ("5_nothink", "5_think", "6")},
    "glm4moe": "ends an assistant turn with ''",
}
REWRITES = {"qwen3"}
PARTS = ("idefics3", "smolvlm", "llava_next")


def text(numbers):
    return " ".join(numbers.choice(WORDS) for _ in range(numbers.randrange(1, 9))).strip() or "hallo"


def chats(parts=False, seed=7, count=12):
    """Conversations of one to four questions and answers."""
    numbers = random.Random(seed)
    made = []
    for turns in (1 + at % 4 for at in range(count)):
        said = [text(numbers) for _ in range(2 * turns)]
        contents = [[{"type": "text", "text": each}] for each in said] if parts else said
        roles = ("user", "assistant") * turns
        made.append([{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)])
    return made


def trained(tokenizer, rows, mask="assistant", **policy):
    """The text of what is trained, a row each; every label is the token's own id."""
    labeler = labels.Labeler(tokenizer, labels.Policy(**policy))
    found = labeler([Conversation(chat, trained=labels.chosen(chat, mask)) for chat in rows])
    for row in found:
        assert all(label in (-100, token) for token, label in zip(row.input_ids, row.labels, strict=True))
    return [tokenizer.decode([label for label in row.labels if label != -100]) for row in found]


def expected(chat, said, end, mask, last=None):
    """What the assistant says in a conversation, each time with its end."""
    answers = [message["content"] for message in chat if message["role"] == "assistant"]
    plain = [answer if isinstance(answer, str) else answer[0]["text"] for answer in answers]
    ends = [end] * (len(plain) - 1) + [last or end]
    turns = [said.replace("{}", answer, 1) + each for answer, each in zip(plain, ends, strict=True)]
    return "".join(turns[-1:] if mask == "last_turn" else turns)


def ends_of(tokenizer):
    """The token that ends a turn, and the one that ends the last where it is another."""
    found = tokenizer.convert_ids_to_tokens(templates.terminators(tokenizer))
    return found[0], found[-1]


@pytest.mark.parametrize("mask", ["assistant", "last_turn"])
@pytest.mark.parametrize("name", sorted(set(TRL) - set(NO_PREFIX)))
def test_trl_templates_train_exactly_what_is_said_and_its_end(name, mask):
    tokenizer, rows = tokenizer_for(TRL[name]), chats(parts=name.removesuffix("_training") in PARTS)
    if name in REWRITES and mask == "assistant":
        rows = [row for row in rows if len(row) == 2]
    end, last = ends_of(tokenizer)
    wanted = [expected(row, SAID.get(name, "{}"), end, mask, last) for row in rows]
    assert trained(tokenizer, rows, mask) == wanted


@pytest.mark.parametrize(("name", "reason"), NO_PREFIX.items(), ids=NO_PREFIX)
def test_a_trl_template_whose_turns_cannot_be_proved_is_refused(name, reason):
    with pytest.raises((UserError, RowError), match=reason):
        trained(tokenizer_for(TRL[name]), chats())


def test_a_template_that_rewrites_earlier_turns_is_refused_for_all_of_them():
    with pytest.raises(UserError, match=r"task\.mask=last_turn"):
        trained(tokenizer_for(TRL["qwen3"]), [row for row in chats() if len(row) > 2])


def test_every_template_of_trl_is_covered():
    assert len(TRL) >= 70
    assert {*NO_PREFIX, *SAID} <= set(TRL)


@pytest.mark.parametrize(
    "name", sorted(name for name in TRL if f"{name}_training" in TRL and name not in {*NO_PREFIX, *REWRITES})
)
def test_the_markers_of_trls_training_templates_agree_with_prefixes(name):
    rows = chats(parts=name in PARTS)
    stock, marked = (tokenizer_for(TRL[each], tuple(_tokens(name))) for each in (name, f"{name}_training"))
    assert trained(stock, rows) == trained(marked, rows)


def _tokens(name):
    return tokenizer_for(TRL[name] + TRL[f"{name}_training"]).added_tokens_encoder


def boundaries_of(tokenizer, family):
    """What a recipe would declare: what invites the assistant, and what ends a turn."""
    before = Conversation([{"role": "user", "content": "hello"}])
    bare, invited = (templates.render(tokenizer, before, prompt) for prompt in (False, True))
    bare = bare.removesuffix(tokenizer.eos_token) if family.marked == FAMILIES["Phi-3"].marked else bare
    return {"start": invited[len(bare) :].lstrip() or "[/INST]", "end": family.end}


@pytest.mark.parametrize("mask", ["assistant", "last_turn"])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_three_ways_train_exactly_what_is_said_and_its_end(family, mask):
    marked, stock = (tokenizer_for(each, family.tokens) for each in (family.marked, family.stock))
    rows = chats(seed=11)
    wanted = [expected(row, family.said, family.end, mask) for row in rows]
    assert trained(marked, rows, mask) == wanted
    assert trained(stock, rows, mask) == wanted
    assert trained(stock, rows, mask, boundaries=boundaries_of(stock, family)) == wanted


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_shape_that_was_searched_once_gives_what_each_row_gives_alone(family):
    """The quick way, a comparison with the shape, against searching every row."""
    tokenizer, rows = tokenizer_for(family.stock, family.tokens), chats(seed=13)
    labeler = labels.Labeler(tokenizer, labels.Policy())
    conversations = [Conversation(chat, trained=labels.chosen(chat, "assistant")) for chat in rows]
    assert all(labeler.shapes._shape(each) for each in conversations)
    for each in conversations:
        quick, searched = labeler.shapes(each), labeler.shapes.find(tokenizer, each)
        assert (quick.text, quick.turns) == (searched.text, searched.turns)


@pytest.mark.parametrize("name", [*FAMILIES, "gemma3_training", "gptoss_training", "lfm2_2_5", "phi3_training"])
def test_a_proof_from_the_last_added_token_on_is_the_proof_of_the_whole_prefix(name):
    """At every character of a text: the short proof says what tokenizing all that is before would say."""
    family = FAMILIES.get(name)
    tokenizer = tokenizer_for(family.marked, family.tokens) if family else tokenizer_for(TRL[name])
    cuts = Cuts(tokenizer)
    for chat in chats(seed=17, count=3):
        whole = templates.render(tokenizer, Conversation(chat))
        (ids,) = cuts.encode([whole])
        prefixes = cuts.encode([whole[:end] for end in range(len(whole) + 1)])
        row = Tokenized(whole, ids)
        for end, prefix in enumerate(prefixes):
            assert cuts.at(row, end) == (len(prefix) if ids[: len(prefix)] == prefix else None), whole[:end]


CALLS = (
    "qwen2_5", "qwen3_instruct_2507", "qwen3_training", "qwen3_vl", "qwen3_5_nothink_training", "gemma4_v2", "lfm2_v2",
    "lfm2_2_5", "deepseekv3_training",
)  # fmt: skip


@pytest.mark.parametrize("content", ["", "said"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_is_not_trained_leaves_the_end_of_its_turn_trained(name, content):
    """`<tool_call>` and the end begin alike, so where a call ends is not seen from its first characters."""
    tokenizer = tokenizer_for(TRL[name])
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": content, "tool_calls": [call]}]
    (text,) = trained(tokenizer, [chat], left=("tool_calls",))
    assert text.endswith(ends_of(tokenizer)[1])
    assert content in text
    assert "add" not in text
