"""Preference, KTO and reward: trained and verified as any task is, scored by TRL's own losses, the reference and what
becomes of it, and what is refused."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_runs import LORA, config, finetune, llama, own_caches, prefer, preferences, root, worked
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from finetune.artifacts import evaluate, verify
from finetune.artifacts.predict import answering
from finetune.config.options import resolve
from finetune.config.task import ARGUMENTS
from finetune.data.prepare import prepare
from finetune.errors import FinetuneError, UserError
from finetune.tasks import trl_loss
from finetune.tasks.kto import KTO
from finetune.tasks.preference import CPO, ORPO, Preference
from finetune.tasks.reward import Reward

RUNS = {
    "preference full": prefer("preference"),
    "preference lora": prefer("preference", *LORA, "evaluation.generation.rows=2"),
    "preference qlora": prefer("preference", "adapter=qlora", "adapter.lora_dropout=0"),
    "orpo full": prefer("orpo", "trainer.max_steps=60"),
    "simpo lora": prefer("cpo", "trainer.loss_type=simpo", *LORA, "trainer.max_steps=60"),
    "kto full": prefer("kto"),
    "kto lora": prefer("kto", *LORA),
    "reward full": prefer("reward", "trainer.max_steps=40"),
    "reward lora": prefer("reward", *LORA),
}


@cache
def trained(name):
    return worked([*RUNS[name], f"name={name.replace(' ', '_')}"], root() / "runs")


@pytest.mark.parametrize("name", RUNS)
def test_a_trained_model_is_better_than_the_untouched_one_and_is_verified(name):
    found = trained(name).read("evaluation.json")
    metric, greater = found["score"]
    assert greater
    assert found["scores"][metric] > found["baseline"][metric]
    assert found["scores"]["loss"] < found["baseline"]["loss"]
    with own_caches():
        assert all(finding.passed for finding in verify.compare(trained(name)))


@pytest.mark.parametrize("name", ["preference full", "preference lora", "preference qlora"])
def test_the_untouched_model_prefers_nothing(name):
    baseline = trained(name).read("evaluation.json")["baseline"]
    assert baseline["reward_margin"] == 0
    assert baseline["reward_accuracy"] == 0.5
    assert baseline["loss"] == pytest.approx(0.693147, abs=1e-6)


def test_a_split_that_the_reference_was_not_asked_about_is_scored_later():
    folder = trained("preference full")
    kept = folder / "reference" / "validation.npz"
    moved = kept.rename(kept.with_suffix(".away"))
    with own_caches():
        again = evaluate.evaluate(folder, "validation")
    assert kept.is_file()
    moved.unlink()
    expected = folder.read("evaluation.json")["scores"]
    assert again == pytest.approx(expected, abs=1e-6)


def test_a_reference_asked_before_gives_the_training_that_one_held_beside_gives():
    before = worked(prefer("preference", "trainer.precompute_ref_log_probs=true", "name=before"), root() / "runs")
    held = trained("preference full").read("evaluation.json")["scores"]
    assert before.read("evaluation.json")["scores"] == pytest.approx(held, abs=1e-5)


def test_the_copy_that_trl_makes_of_an_adapter_is_not_saved():
    files = {file.relative_to(trained("preference lora").model).as_posix() for file in
             trained("preference lora").model.rglob("*")}  # fmt: skip
    assert not any(name.startswith("ref") for name in files)


def test_prompts_are_answered_and_asked_as_rows_or_messages():
    row, chat = answering(trained("preference lora"), {"max_new_tokens": 2})(
        [{"prompt": "a cat"}, [{"role": "user", "content": "a cat"}]]
    )
    assert row["answer"] == chat["answer"]
    asked = (trained("preference lora") / "answers.jsonl").read_text().splitlines()
    assert len(asked) == 2


def test_a_reward_is_given_for_messages_and_for_a_prompt_with_its_completion():
    answer = answering(trained("reward lora"), {})
    said = {"role": "assistant", "content": "one animal"}
    row, chat, better, worse = answer([
        {"prompt": "a cat", "completion": "one animal"}, [{"role": "user", "content": "a cat"}, said],
        {"prompt": "a cat", "chosen": [said]}, {"prompt": "a cat", "completion": "one plant"},
    ])  # fmt: skip
    assert row["reward"] == chat["reward"] == better["reward"] > worse["reward"]


@pytest.mark.parametrize("wrong", [3, "text", {"prompt": "a"}, {"completion": "a"}, [], {"messages": [{"role": "x"}]}])
def test_what_has_no_reward_is_refused_by_number(wrong):
    with pytest.raises(UserError, match="input 1: "):
        list(answering(trained("reward lora"), {})([[{"role": "user", "content": "a cat"}], wrong]))


# The losses are TRL's own


@cache
def models():
    """The tiny model and one that differs."""
    policy, other = (AutoModelForCausalLM.from_pretrained(llama(), dtype=torch.float32).eval() for _ in range(2))
    torch.manual_seed(1)
    with torch.no_grad():
        for value in policy.parameters():
            value.add_(torch.randn_like(value) * 0.05)
    return policy, other


def trainer_of(task, arguments, model, **more):
    """TRL's trainer on TRL's own preparation of four raw rows."""
    rows = preferences(4)
    given = resolve(task.arguments_class)(
        output_dir=str(root() / "trl"), report_to="none", use_cpu=True, bf16=False, disable_tqdm=True,
        per_device_train_batch_size=4, **arguments,
    )  # fmt: skip
    kind = resolve(task.trainer_class)
    words = AutoTokenizer.from_pretrained(llama())
    return kind(model=model, args=given, train_dataset=Dataset.from_list(rows), processing_class=words, **more)


def batch_of(task):
    """The same rows as we prepare them."""
    folder = root() / "trl-rows"
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in preferences(4)))
    with own_caches():
        made = prepare(config([f"task={task.name}", f"model.path={llama()}", f"dataset.path={folder / 'rows.jsonl'}",
                               "dataset.validation_split=train", "dataset.max_dropped=0.9"]))  # fmt: skip
    rows = made.rows("train")
    return rows, task.scoring_collator(made.tokenizer), made.tokenizer


DPO = ("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
       "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm")  # fmt: skip
DPO_OPTIONS = {
    **{loss: {"loss_type": [loss], "label_smoothing": 0.1} for loss in DPO},
    "mixed": {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.7, 0.2]},
    "weighted": {"use_weighting": True},
    "length": {"ld_alpha": 0.5},
    "divergence": {"f_divergence_type": "js_divergence"},
}


@cache
def dpo():
    policy, other = (AutoModelForCausalLM.from_pretrained(llama(), dtype=torch.float32) for _ in range(2))
    policy.load_state_dict(models()[0].state_dict())
    return trainer_of(Preference(), {"use_weighting": True}, policy, ref_model=other)


def shown_to_trl(trainer, arguments):
    """The trainer as it would be with these arguments."""
    usual = {"loss_type": ["sigmoid"], "loss_weights": None, "label_smoothing": 0.0, "use_weighting": False,
             "ld_alpha": None, "f_divergence_type": "reverse_kl"}  # fmt: skip
    values = usual | arguments
    vars(trainer).update(values, loss_types=values["loss_type"],
                         loss_weights=values["loss_weights"] or [1.0] * len(values["loss_type"]))  # fmt: skip
    trainer.model.eval()
    return trainer


@pytest.mark.parametrize("options", DPO_OPTIONS.values(), ids=DPO_OPTIONS)
@torch.no_grad()
def test_every_loss_of_dpo_is_scored_as_trl_computes_it(options):
    task, (policy, other) = Preference(), models()
    rows, collate, _ = batch_of(task)
    facts = {ARGUMENTS: options}
    said = task.reference(other, collate(rows.__getitems__(range(4))), facts)
    batch = collate(rows.with_columns(reference=said.numpy()).__getitems__(range(4)))
    found = task.forward(policy, batch, facts)
    trainer = shown_to_trl(dpo(), options)
    theirs = trainer.data_collator(list(trainer.train_dataset))
    # Theirs trains the newline behind a turn as well, which the model never says: the tokens before it are the same.
    shape = batch["input_ids"].shape
    assert torch.equal(theirs["input_ids"][:, : shape[1]], batch["input_ids"])
    theirs = {**theirs, **{name: batch[name] for name in ("input_ids", "attention_mask", "completion_mask")}}
    assert float(found.loss) == pytest.approx(float(trainer.compute_loss(trainer.model, theirs)), rel=1e-4, abs=1e-5)
    if "ld_alpha" not in options:
        margins = trainer._metrics["eval"]["rewards/margins"][-1]
        chosen, rejected = task.outcomes(found.logits, batch)
        assert float((chosen - rejected).mean()) == pytest.approx(margins, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("task", "options"),
    [(ORPO(), {}), *((CPO(), {"loss_type": loss}) for loss in ("sigmoid", "hinge", "ipo", "simpo", "alphapo")),
     (CPO(), {"alpha": 0.25})],
)  # fmt: skip
@torch.no_grad()
def test_losses_without_a_reference_are_scored_as_trl_computes_them(task, options):
    policy, _ = models()
    rows, collate, words = batch_of(task)
    facts = {ARGUMENTS: options}
    found = task.forward(policy, collate(rows.__getitems__(range(4))), facts)
    trainer = trainer_of(task, options, policy)
    loss, metrics = trainer.get_batch_loss_metrics(policy, task.collator(words)(rows.__getitems__(range(4))), "eval")
    assert float(found.loss) == pytest.approx(float(loss), rel=1e-5)
    chosen, rejected = task.outcomes(found.logits, {})
    assert float((chosen - rejected).mean()) == pytest.approx(metrics["eval_rewards/margins"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
@torch.no_grad()
def test_kto_is_scored_as_trl_computes_it_without_the_estimate_of_a_divergence(loss):
    task, (policy, other) = KTO(), models()
    rows, collate, words = batch_of(task)
    options = {"loss_type": loss, "undesirable_weight": 2.0}
    facts = {ARGUMENTS: options}
    said = task.reference(other, collate(rows.__getitems__(range(4))), facts)
    batch = collate(rows.with_columns(reference=said.numpy()).__getitems__(range(4)))
    found = task.forward(policy, batch, facts)
    fresh = [AutoModelForCausalLM.from_pretrained(llama(), dtype=torch.float32).eval() for _ in range(2)]
    fresh[0].load_state_dict(policy.state_dict())
    trainer = trainer_of(task, options, fresh[0], ref_model=fresh[1])
    trainer.calculate_KL = False
    theirs = {name: value for name, value in task.collator(words)(rows.__getitems__(range(4))).items()}
    assert float(found.loss) == pytest.approx(float(trainer.compute_loss(fresh[0].eval(), theirs)), rel=1e-4)


@torch.no_grad()
def test_rewards_are_scored_as_trl_computes_them_with_margins():
    task = Reward()
    model = AutoModelForSequenceClassification.from_pretrained(llama(), num_labels=1, dtype=torch.float32).eval()
    rows, collate, _ = batch_of(task)
    batch = {**collate(rows.__getitems__(range(4))), "margin": torch.tensor([0.5, 0, 1, 0.1])}
    options = {"center_rewards_coefficient": 0.1}
    found = task.forward(model, batch, {ARGUMENTS: options})
    trainer = trainer_of(task, options, model)
    assert float(found.loss) == pytest.approx(float(trainer.compute_loss(model, dict(batch))), rel=1e-5)


def test_each_prompt_is_paired_with_an_answer_of_the_row_before_and_its_own_is_left_alone():
    rows, _, words = batch_of(KTO())
    batch = KTO().collator(words)(rows.__getitems__([0, 1]))
    own, crossed = (
        [
            words.decode(ids[mask.bool()])
            for ids, mask in zip(batch[f"{kind}input_ids"], batch[f"{kind}completion_mask"])
        ]
        for kind in ("", "KL_")
    )
    assert crossed == [*own[2:], *own[:2]]
    assert batch["label"].tolist() == [True, False, True, False]


def kto_row(prompt, *answers):
    """A row of answers to a prompt, the first of them wanted."""
    tokens = [token for answer in answers for token in (*prompt, *answer)]
    labels = [label for answer in answers for label in (*[-100] * len(prompt), *answer)]
    lengths = [len(prompt) + len(answer) for answer in answers]
    columns = {"input_ids": tokens, "labels": labels, "seq_lengths": lengths}
    return {name: np.array(values) for name, values in columns.items()} | {"wanted": [1, 0][: len(answers)]}


@pytest.mark.parametrize(
    ("rows", "crossed"),
    [
        ([([1, 2], [11, 12], [13]), ([3, 4], [33, 34], [31]), ([5], [51], [52, 53])],
         [[1, 2, 51], [1, 2, 52, 53], [3, 4, 11, 12], [3, 4, 13], [5, 33, 34], [5, 31]]),
        ([([1, 2], [11, 12]), ([3, 4], [31])], [[1, 2, 31], [3, 4, 11, 12]]),
    ],
    ids=["pairs", "single answers"],
)  # fmt: skip
def test_no_prompt_is_paired_with_an_answer_to_itself(rows, crossed):
    words = AutoTokenizer.from_pretrained(llama())
    batch = KTO().collator(words)([kto_row(*row) for row in rows])
    found = [ids[mask.bool()].tolist() for ids, mask in zip(batch["KL_input_ids"], batch["KL_attention_mask"])]
    assert found == crossed
    assert len(batch["KL_input_ids"]) == len(batch["input_ids"])


# However a step is cut


def losses(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("task", ["preference", "orpo", "reward"])
def test_a_step_is_the_same_however_it_is_cut_the_last_of_an_epoch_too(task, tmp_path):
    # 44 rows in steps of nine: the last one has eight, in parts of three, three and two.
    cut = ("dataset.limit=44", "trainer.max_steps=7", "trainer.logging_steps=1", "evaluation.baseline=false",
           "trainer.learning_rate=1e-3")  # fmt: skip
    whole = worked(prefer(task, *cut, "trainer.per_device_train_batch_size=9"), tmp_path / "whole")
    parts = worked(
        prefer(task, *cut, "trainer.per_device_train_batch_size=3", "global_batch_size=9"), tmp_path / "parts"
    )
    assert losses(parts) == pytest.approx(losses(whole), rel=2e-3)


# What is refused


def written(rows, *more, task="preference"):
    """A recipe over these rows."""
    file = root() / f"bad{abs(hash(json.dumps(rows)))}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = [part for part in prefer(task, *more) if not part.startswith("dataset.")]
    return [*kept, f"dataset.path={file}", "dataset.validation_size=2"]


SINGLE = [{"prompt": "a cat", "completion": "one animal", "label": True}] * 8
GOOD = preferences(8)
BAD = {
    "unpaired rows": (SINGLE, (), "preference", "rows have one completion with a label"),
    "no rejected": ([{"prompt": "a", "chosen": "b"}] * 8, (), "preference", "no column for the rejected"),
    "equal answers": ([{**row, "rejected": row["chosen"]} for row in GOOD], (), "preference", "are the same"),
    "empty answers": ([{**row, "chosen": []} for row in GOOD], (), "reward", "chosen is empty"),
    "packing": (GOOD, ("packing=best_fit",), "preference", "packing=best_fit: rows of this task"),
    "one kind of label": (SINGLE, (), "kto", "KTO learns from answers of both kinds"),
    "labels in words": ([{**row, "label": "nice"} if at else row for at, row in
                         enumerate([{**row, "label": "true"} for row in SINGLE])], (), "kto", "says neither"),
    "one row a batch": (GOOD, ("trainer.per_device_train_batch_size=1",), "kto", "KTO needs another row in the batch"),
    "a margin in words": ([{**row, "margin": "big"} for row in GOOD], (), "reward", "margin 'big' is no number"),
    "an option of the rows": (GOOD, ("trainer.max_length=12",), "preference", "task.overlong or tokenizer.max_length"),
    "a reference that follows": (GOOD, ("trainer.sync_ref_model=true",), "preference", "kept in no checkpoint"),
    "a loss that is none": (GOOD, ("trainer.loss_type=simpo",), "orpo", "loss_type"),
    "an adapter that changes the base": (
        GOOD, ("adapter=lora", "adapter.init_lora_weights=pissa"), "preference", "would be no reference"),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "more", "task", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_in_words(rows, more, task, message, capsys):
    assert finetune("plan", *written(rows, *more, task=task)) == 2
    shown = capsys.readouterr()
    assert message in " ".join((shown.err + shown.out).split())
    assert "Traceback" not in shown.err


def test_a_head_of_named_labels_is_no_reward_model(tmp_path, capsys):
    model = AutoModelForSequenceClassification.from_pretrained(llama(), num_labels=2)
    model.config.id2label = {0: "no", 1: "yes"}
    model.save_pretrained(tmp_path / "head")
    AutoTokenizer.from_pretrained(llama()).save_pretrained(tmp_path / "head")
    recipe = [part for part in prefer("reward") if not part.startswith("model.")]
    assert finetune("plan", *recipe, f"model.path={tmp_path / 'head'}") == 2
    assert "a reward is one number" in " ".join(capsys.readouterr().err.split())


def test_what_trl_refuses_is_told_in_its_words(tmp_path):
    with pytest.raises(FinetuneError, match=r"trl.DPOTrainer refuses: AdaLoraModel supports only 1 trainable adapter"):
        worked(prefer("preference", "adapter.method=adalora", "adapter.total_step=20"), tmp_path)


def test_the_plan_says_what_the_reference_is_and_what_it_takes(capsys):
    shown = {}
    for name, more in {"full": (), "lora": LORA, "before": ("trainer.precompute_ref_log_probs=true",)}.items():
        assert finetune("plan", *prefer("preference", *more)) == 0
        shown[name] = " ".join(capsys.readouterr().out.split())
    assert "a second copy of the model is the reference" in shown["full"]
    assert "the model without its adapter is the reference" in shown["lora"]
    assert "asked about all rows before the first step" in shown["before"]
    assert "reference 0 MiB" in shown["full"]
    assert "reference 0 MiB" not in shown["lora"] + shown["before"]


def test_the_balance_of_answers_is_said_with_the_weights_that_the_paper_wants(capsys):
    rows = [{"prompt": f"a {at}", "completion": "one", "label": at % 4 == 0} for at in range(16)]
    assert finetune("plan", *written(rows, task="kto")) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "desirable answers count" in shown
    assert "the paper wants 1 to 1.33: trainer.desirable_weight=" in shown


def test_losses_are_made_once_for_the_same_arguments():
    one, other = (trl_loss.of("Odds", ORPO.trainer_class, ORPO.arguments_class, {"beta": 0.2}) for _ in range(2))
    assert one is other
    assert one.trainer.beta == 0.2
