"""Prepared rows: made once for the same inputs, again for any other, and never half-read."""

import json
import os
import subprocess
import sys
import threading

import pytest
from tiny import CHATML, EOS, bert_tokenizer, chat_tokenizer, llama
from transformers import AutoTokenizer

from finetune.data import store


def find_or_build(inputs, build):
    return store.find_or_build(store.PREPARED, inputs, build)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "finetune" / "prepared"


class Builder:
    """Counts how often it is asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self, folder):
        self.calls += 1
        (folder / "rows").write_text("abc")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_rows_are_built_once_and_found_after():
    build = Builder()
    first, second = (find_or_build({"seed": 1}, build) for _ in range(2))
    assert first == second
    assert build.calls == 1
    assert (first / "rows").read_text() == "abc"


def test_other_inputs_get_another_folder():
    build = Builder()
    assert find_or_build({"seed": 1}, build) != find_or_build({"seed": 2}, build)
    assert build.calls == 2


def test_the_order_of_inputs_does_not_matter():
    assert store.key({"a": 1, "b": {"c": 2, "d": 3}}) == store.key({"b": {"d": 3, "c": 2}, "a": 1})


def test_nothing_is_left_but_the_folder(cache):
    folder = find_or_build({}, Builder())
    assert names(cache) == [folder.name]


def test_a_builder_that_fails_leaves_nothing(cache):
    def build(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        find_or_build({}, build)
    assert names(cache) == []


def test_a_half_built_folder_is_never_used(cache):
    def killed(folder):
        (folder / "rows").write_text("ab")
        os._exit(9)

    child = os.fork()
    if child == 0:
        find_or_build({}, killed)
    os.waitpid(child, 0)
    (left,) = names(cache)
    build = Builder()
    folder = find_or_build({}, build)
    assert build.calls == 1
    assert folder.name != left
    assert (folder / "rows").read_text() == "abc"


@pytest.mark.parametrize("content", ['{"seed": 2}', "", "{", "\udcff"], ids=["other", "empty", "cut", "not a text"])
def test_a_folder_whose_inputs_were_changed_is_built_again(content):
    build = Builder()
    folder = find_or_build({"seed": 1}, build)
    (folder / "inputs.json").write_bytes(content.encode(errors="surrogateescape"))
    (folder / "foreign").write_text("x")
    assert find_or_build({"seed": 1}, build) == folder
    assert build.calls == 2
    assert json.loads((folder / "inputs.json").read_text()) == {"seed": 1}
    assert not (folder / "foreign").exists()


def test_a_folder_without_its_inputs_is_built_again():
    build = Builder()
    folder = find_or_build({}, build)
    (folder / "inputs.json").unlink()
    find_or_build({}, build)
    assert build.calls == 2


def test_two_builders_at_once_end_with_one_whole_folder(cache):
    meet, found = threading.Barrier(2), []

    def build(folder):
        meet.wait(timeout=20)
        return Builder()(folder)

    def work():
        found.append(find_or_build({}, build))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found[0] == found[1]
    assert names(cache) == [found[0].name]
    assert (found[0] / "rows").read_text() == "abc"


SCRIPT = """
import sys
from transformers import PreTrainedTokenizerFast
from finetune.data import store
tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])
print(store.tokenizer_hash(tokenizer), store.key({"b": 1, "a": [2]}))
"""


def test_hashes_are_the_same_in_another_process():
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(llama())], capture_output=True, text=True, check=True, env=environment
    ).stdout
    tokenizer = AutoTokenizer.from_pretrained(llama())
    assert output.split() == [store.tokenizer_hash(tokenizer), store.key({"a": [2], "b": 1})]


def with_word(tokenizer):
    tokenizer.add_tokens("<new>")
    return tokenizer


def cut_left(tokenizer):
    tokenizer.truncation_side = "left"
    return tokenizer


def without_types(tokenizer):
    tokenizer.model_input_names = ["input_ids"]
    return tokenizer


OTHER_TOKENIZERS = {
    "template": lambda: chat_tokenizer(EOS),
    "end": lambda: chat_tokenizer(CHATML, eos="</s>"),
    "pad": lambda: chat_tokenizer(CHATML, pad="<|im_end|>"),
    "first token": lambda: chat_tokenizer(CHATML, bos=True),
    "vocabulary": lambda: with_word(chat_tokenizer()),
    "the side that is cut": lambda: cut_left(chat_tokenizer()),
    "what it makes": lambda: without_types(chat_tokenizer()),
    "another": bert_tokenizer,
}


@pytest.mark.parametrize("other", OTHER_TOKENIZERS.values(), ids=OTHER_TOKENIZERS)
def test_another_tokenizer_has_another_hash(other):
    assert store.tokenizer_hash(other()) != store.tokenizer_hash(chat_tokenizer())


def test_the_hash_of_a_tokenizer_does_not_depend_on_what_it_tokenized():
    used = bert_tokenizer()
    used(["good film", "bad"], truncation=True, max_length=3, padding=True)
    assert store.tokenizer_hash(used) == store.tokenizer_hash(bert_tokenizer())
