"""Manifests of a run: what Kubernetes and SkyPilot are asked for, that they take it, and what it cannot be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs
import yaml

from finetune import run
from finetune.config.check import load_config
from finetune.errors import ConfigError, UserError
from finetune.launch.kubernetes import named, seconds

SMALL = ("trainer.per_device_train_batch_size=1", "global_batch_size=16", "output_dir=out", "name='My run'")
PODS = ("launch=kubernetes", "launch.nodes=2", "launch.container_image=me/finetune:1")
RENTED = ("launch=skypilot", "launch.container_image=me/finetune:1", "precision.compute=bf16")


def on_volume() -> str:
    """A volume that holds the tiny model and its rows."""
    return f"launch.volume=claim:{tiny_runs.root()}"


def written(*more: str) -> str:
    with tiny_runs.own_caches():
        return run.script_of(tiny_runs.config(tiny_runs.classify(*SMALL, *more)), [])[0]


def pods(*more: str) -> dict[str, dict]:
    """The objects of a run on Kubernetes by their kind."""
    return {each["kind"]: each for each in yaml.safe_load_all(written(*PODS, on_volume(), *more))}


@pytest.fixture(scope="module")
def rich() -> dict[str, dict]:
    return pods(
        "launch.gpus_per_node=4", "launch.cpus_per_node=32", "launch.mem=400G", "launch.time=1-12",
        "launch.secret_name=hub", "launch.node_selector={nvidia.com/gpu.product: A100}", "launch.grace_seconds=60",
        "launch.environment={NCCL_SOCKET_IFNAME: ib0}", "precision.compute=bf16",
    )  # fmt: skip


def spec(objects: dict[str, dict]) -> dict:
    return objects["Job"]["spec"]["template"]["spec"]


def test_kubernetes_takes_it(rich):
    validate = pytest.importorskip("kubernetes_validate").validate
    for version in ("1.31", "1.37"):
        for each in rich.values():
            validate(each, version, strict=True)


def test_a_pod_has_what_is_asked_for(rich):
    (container,) = spec(rich)["containers"]
    assert container["resources"] == {
        "requests": {"cpu": 32, "memory": "409600Mi"},
        "limits": {"memory": "409600Mi", "nvidia.com/gpu": 4},
    }
    assert spec(rich)["nodeSelector"] == {"nvidia.com/gpu.product": "A100"}
    assert (spec(rich)["activeDeadlineSeconds"], spec(rich)["terminationGracePeriodSeconds"]) == (36 * 3600, 60)
    assert container["envFrom"] == [{"secretRef": {"name": "hub"}}]
    assert {"name": "NCCL_SOCKET_IFNAME", "value": "ib0"} in container["env"]


def test_pods_meet_at_the_first_and_share_the_folder_of_the_run(rich):
    command = spec(rich)["containers"][0]["command"][-1]
    assert '--node-rank="$JOB_COMPLETION_INDEX" --master-addr=my-run-0.my-run ' in command
    assert "--nnodes=2 --nproc-per-node=4 --shutdown-timeout=60 " in command
    assert f"'run_folder=\"{tiny_runs.root()}/out/My run\"'" in command
    assert spec(rich)["subdomain"] == rich["Service"]["metadata"]["name"] == "my-run"


def test_what_was_stopped_goes_on_and_what_is_wrong_does_not(rich):
    rules = rich["Job"]["spec"]["podFailurePolicy"]["rules"]
    by_code = {rule["onExitCodes"]["values"][0]: rule["action"] for rule in rules if "onExitCodes" in rule}
    assert by_code == {2: "FailJob", 75: "Ignore"}
    assert rules[-1] == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    once = pods("launch.nproc_per_node=1", "launch.requeue=false")["Job"]["spec"]
    assert (once["backoffLimit"], len(once["podFailurePolicy"]["rules"])) == (0, 1)


def test_one_pod_meets_nobody():
    objects = pods("launch.nproc_per_node=2", "launch.nodes=1")
    assert "Service" not in objects
    assert "--master-addr" not in spec(objects)["containers"][0]["command"][-1]


def test_the_recipe_inside_is_the_run_without_its_launch(rich, tmp_path):
    (tmp_path / "recipe.yaml").write_text("# @package _global_\n" + rich["ConfigMap"]["data"]["recipe.yaml"])
    config, _ = load_config([f"recipe={tmp_path / 'recipe.yaml'}"])
    assert (config.launch.method, config.global_batch_size, config.name) == ("local", 16, "My run")
    assert Path(config.dataset.path).is_absolute()


def test_skypilot_is_asked_for_machines_and_given_the_files_that_the_recipe_reads(tmp_path):
    (tmp_path / "setup.sh").write_text("pip install finetune-recipes")
    more = ("launch.gpus_per_node=A100:4", "launch.cpus_per_node=32", "launch.mem=400G", "launch.nodes=2",
            "launch.volume=mine:/shared", "launch.secret_name=HF_TOKEN",
            f"launch.setup={tmp_path}/setup.sh")  # fmt: skip
    task = yaml.safe_load(written(*RENTED, *more))
    assert task["resources"] == {
        "accelerators": "A100:4", "cpus": "32+", "memory": "400+", "image_id": "docker:me/finetune:1",
        "job_recovery": {"recover_on_exit_codes": [75]},
    }  # fmt: skip
    assert (task["num_nodes"], task["volumes"], task["secrets"]) == (2, {"/shared": "mine"}, {"HF_TOKEN": None})
    assert task["file_mounts"] == {str(path): str(path) for path in (tiny_runs.root() / "data", tiny_runs.bert())}
    assert task["setup"] == "pip install finetune-recipes\n"
    assert "'run_folder=\"/shared/out/My run\"'" in task["run"]


def test_each_rented_node_writes_the_recipe_and_starts_its_ranks(tmp_path):
    """With a python that says what it was given."""
    task = yaml.safe_load(written(*RENTED, "launch.nproc_per_node=1", "launch.nodes=2", "launch.volume=v:/shared"))
    (tmp_path / "python3").write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:])\n")
    (tmp_path / "python3").chmod(0o755)
    node = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
    said = subprocess.run(["bash", "-c", task["run"]], cwd=tmp_path, env=node, capture_output=True, text=True)
    words = ast.literal_eval(said.stdout)
    assert words[:2] == ["-m", "finetune.launch.elastic"]
    assert words[-7:] == ["--node-rank=1", "--master-addr=10.0.0.1", "-m", "finetune", "train", "recipe=./recipe.yaml",
                          'run_folder="/shared/out/My run"']  # fmt: skip
    assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["name"] == "My run"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("launch=kubernetes", r"a pod runs an image[\s\S]*launch\.volume=CLAIM:/PATH"),
        ("launch=kubernetes launch.container_image=a launch.volume=a", "training:/shared"),
        ("launch=kubernetes launch.container_image=a launch.volume=a:/b$c", "training:/shared"),
    ],
)
def test_what_is_missing_or_unread_is_told_before_anything_is_planned(words, said):
    with pytest.raises(ConfigError, match=said):
        load_config([*tiny_runs.classify(), *words.split()])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            (*PODS, "launch.volume=claim:/shared", "launch.nproc_per_node=1"),
            r"file of this machine: .* is not below /s",
        ),
        ((*PODS, "launch.volume=c:/a", "run_folder=/b", "launch.nproc_per_node=1"), "run_folder.*/b is not below /a"),
        ((*RENTED, "launch.gpus_per_node=4"), "rents GPUs by their type"),
    ],
)
def test_what_no_node_would_have_is_refused(words, said):
    with pytest.raises(UserError, match=said):
        written(*words)


def test_gpus_of_a_type_are_a_label_of_kubernetes():
    with pytest.raises(UserError, match=r"launch\.gpus_per_node=4 launch\.node_selector"):
        pods("launch.gpus_per_node=a100:4", "precision.compute=bf16")


@pytest.mark.parametrize(("method", "taker"), [("kubernetes", "kubectl apply"), ("skypilot", "sky launch")])
def test_nothing_is_submitted_by_us(method, taker):
    words = (*PODS, on_volume()) if method == "kubernetes" else RENTED
    with pytest.raises(UserError, match=f"launch={method} submits nothing itself.*{taker}"):
        run.run(tiny_runs.config(tiny_runs.classify(*words)))


@pytest.mark.parametrize(
    ("time", "found"),
    [(90, 5400), ("90", 5400), ("1:30", 90), ("04:00:00", 14400), ("2-12", 216000), ("1-0:30", 88200)],
)
def test_times_are_read_as_slurm_reads_them(time, found):
    assert seconds(time) == found


@pytest.mark.parametrize(
    ("name", "found"), [("My run", "my-run"), ("7", "run-7"), ("ü", "run"), ("a" * 60 + "_b", "a" * 52)]
)
def test_names_are_those_that_kubernetes_takes(name, found):
    assert named(name) == found


CODES = """
import sys
from finetune.launch import elastic
for code in ("exit 75", "exit 2", "kill -9 $$$$", "exit 0"):
    sys.argv = ["torchrun", "--standalone", "--nproc-per-node=1", "--no-python", "sh", "-c", code]
    try:
        print(elastic.main())
    except SystemExit as end:
        print(end.code)
"""


def test_the_code_of_a_rank_is_that_of_its_node():
    said = subprocess.run([sys.executable, "-c", CODES], capture_output=True, text=True)
    assert said.stdout.split() == ["75", "2", "3", "None"], said.stderr
