"""The script of a job: what it asks for, that nothing written in a config is run by it, and what it makes of codes."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_runs

from finetune.config.check import load_config
from finetune.config.launch import LaunchConfig
from finetune.errors import ConfigError, MachineError
from finetune.launch import arrays, sbatch
from finetune.launch.arrays import Prepared
from finetune.launch.job import of_slurm
from finetune.plan.catalogue import PlanError
from finetune.plan.run_folder import RunFolder

RICH = LaunchConfig(
    method="slurm", nodes=2, gpus_per_node="a100:4", cpus_per_node=32, mem="400G", partition="gpu", account="nlp",
    qos="long", constraint="a100|h100", time="1-12", modules=["cuda/12.4"], environment={"NCCL_SOCKET_IFNAME": "ib0"},
    sbatch={"exclusive": True, "comment": "a:b", "hint": False}, python="python3",
)  # fmt: skip
SCRIPT = """#!/bin/bash
#SBATCH --job-name=my_run
#SBATCH --output=/runs/my/1/job-%j.log
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=a100:4
#SBATCH --cpus-per-task=32
#SBATCH --mem=400G
#SBATCH --partition=gpu
#SBATCH --account=nlp
#SBATCH --qos=long
#SBATCH --constraint="a100|h100"
#SBATCH --time=1-12
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --exclusive
#SBATCH --comment=a:b

module load cuda/12.4
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
export NCCL_SOCKET_IFNAME=ib0
# Plan, rows and weights are there already; nothing is asked of the Hub.
export HF_HUB_OFFLINE=1

# A signal is for the ranks, which stop at a checkpoint; this script waits for them.
trap : TERM USR1
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=0 --wait=0 --cpus-per-task=32 python3 -m finetune.launch.job /runs/my/1 "$head"
code=$?
if [ "$code" -eq 75 ]; then  # stopped at a checkpoint: queued again, to go on from there
  # A task of an array, which is given its number here, by that: $SLURM_JOB_ID may be the whole array's.
  scontrol requeue "${1:-$SLURM_JOB_ID}" && sleep 60
fi
exit "$code"
"""


def test_a_script_says_all_that_is_asked_for_and_reads_as_it_runs():
    assert sbatch.script(RICH, "my run", Path("/runs/my/1"), []) == SCRIPT


def test_a_container_sees_the_run_the_rows_and_what_is_mounted_besides():
    launch = replace(RICH, container_image="docker://nvcr.io#x", container_mounts=["/data:/data"], python=None)
    script = sbatch.script(launch, "run", Path("/runs/1"), ["/runs/1", "/store/rows"])
    assert "'--container-image=docker://nvcr.io#x' " in script
    assert "--container-mounts=/runs/1:/runs/1,/store/rows:/store/rows,/data:/data python3 -m finetune" in script


@pytest.mark.parametrize(
    "written",
    [
        r'launch.partition="gpu\n#SBATCH --uid=0"', "launch.account='a b'", "launch.qos=$(reboot)",
        "launch.modules=['cuda; reboot']", 'launch.environment={A: "a\tb"}', "launch.time=soon", "launch.mem=much",
        "launch.sbatch={UID: 5}", "launch.sbatch={comment: 'a b'}", "launch.gpus_per_node=a100", "launch.rdzv_port=80",
        "launch.environment={HF_TOKEN: hf_abcdefghijklmnopqrst}",
    ],
)  # fmt: skip
def test_what_would_end_a_line_or_is_no_such_thing_is_refused(written):
    with pytest.raises(ConfigError, match=r"^1 problem in the config\n  launch\."):
        load_config([*tiny_runs.classify(), "launch=slurm", written])


def run_with(tmp_path: Path, code: int, launch: LaunchConfig, *given: str) -> tuple[int, str]:
    """The exit code of a script with words given, and what it started, on a machine whose srun ends by `code`."""
    programs = {"srun": f'printf "%s\\n" "$@" "$EVIL" >> {tmp_path}/said; exit {code}',
                "scontrol": f'echo scontrol "$@" >> {tmp_path}/said; exit 1'}  # fmt: skip
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    folder = tmp_path / "a run $(touch evil) ' 5%"
    script = sbatch.script(launch, "run", folder, [])
    variables = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    ended = subprocess.run(
        ["bash", "-s", *given], input=script, text=True, env=variables, cwd=tmp_path, capture_output=True
    )
    return ended.returncode, (tmp_path / "said").read_text()


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_the_job_ends_by_the_code_of_its_ranks(code, tmp_path):
    assert run_with(tmp_path, code, LaunchConfig(method="slurm"))[0] == code


def test_a_job_that_stopped_at_a_checkpoint_is_queued_again_unless_that_is_not_wanted(tmp_path):
    assert "scontrol requeue 7" in run_with(tmp_path, 75, LaunchConfig(method="slurm"))[1]
    (tmp_path / "said").unlink()
    code, said = run_with(tmp_path, 75, LaunchConfig(method="slurm", requeue=False))
    assert (code, "requeue" in said) == (75, False)


def test_no_text_of_a_config_is_run(tmp_path):
    launch = LaunchConfig(method="slurm", environment={"EVIL": "$(touch evil) `touch evil` '; touch evil"})
    _, said = run_with(tmp_path, 0, launch)
    assert any(line.endswith("/a run $(touch evil) ' 5%") for line in said.splitlines())
    assert launch.environment["EVIL"] in said
    assert not (tmp_path / "evil").exists()


def test_a_file_is_sourced_before_the_ranks_start(tmp_path):
    (tmp_path / "my setup.sh").write_text("export EVIL=from-setup\n")
    _, said = run_with(tmp_path, 0, LaunchConfig(method="slurm", setup=str(tmp_path / "my setup.sh")))
    assert "from-setup" in said


ARRAY = """#!/bin/bash
#SBATCH --job-name=mine
#SBATCH --output=/sweep/arrays/000/array-0.log
#SBATCH --array=0-1
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --mem=8G
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120
#SBATCH --requeue

# Each task is the job of one run, whose folder holds its script and what it says.
runs=(
  /sweep/trials/000
  '/sweep/trials/0 1'
)
run=${runs[$SLURM_ARRAY_TASK_ID]} job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
exec bash "$run/job.sh" "$job" >> "$run/job-$job.log" 2>&1
"""


def test_an_array_asks_what_each_of_its_runs_asks_and_names_them():
    runs = [Path("/sweep/trials/000"), Path("/sweep/trials/0 1")]
    log = Path("/sweep/arrays/000/array-0.log")
    assert sbatch.array(LaunchConfig(method="slurm", mem="8G"), "mine", log, runs) == ARRAY


def test_a_task_runs_the_script_of_its_run_and_speaks_in_its_folder(tmp_path):
    runs = [tmp_path / "0", tmp_path / "a run $(touch evil) ' 5%"]
    for run in runs:
        run.mkdir()
        (run / "job.sh").write_text("echo $1 is $SLURM_ARRAY_TASK_ID; exit 3\n")
    script = sbatch.array(LaunchConfig(method="slurm"), "mine", tmp_path / "log", runs)
    variables = os.environ | {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    ended = subprocess.run(["bash"], input=script, text=True, env=variables, cwd=tmp_path, capture_output=True)
    assert (ended.returncode, (runs[1] / "job-7_1.log").read_text()) == (3, "7_1 is 1\n")
    assert not list(tmp_path.glob("**/evil")) + list(runs[0].glob("*.log"))


def test_a_task_is_queued_again_by_its_own_number_and_not_by_that_of_whoever_submitted_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    launch = LaunchConfig(method="slurm")
    assert "scontrol requeue 7\n" in run_with(tmp_path, 75, launch)[1]
    assert "scontrol requeue 7_4\n" in run_with(tmp_path, 75, launch, "7_4")[1]


def test_runs_that_ask_for_the_same_go_together_as_many_as_an_array_may_have():
    small, large = LaunchConfig(method="slurm"), LaunchConfig(method="slurm", mem="8G")
    asked = [small, large, small, replace(small, environment={"A": "1"}), large, small]
    runs = [Prepared(RunFolder(Path(str(number))), launch) for number, launch in enumerate(asked)]
    found = [[int(run.folder.path.name) for run in group] for group in arrays.alike(runs, 3)]
    assert found == [[0, 2, 3], [5], [1, 4]]
    assert all(len(group) == 1 for group in arrays.alike(runs, 1))


class TestPlannedFor:
    """A plan is for the nodes of the job, whatever the front end is."""

    GPUS = ("launch=slurm", "launch.nodes=2", "launch.gpus_per_node=a100:4", "precision.compute=auto")

    def planned(self, *more: str):
        with tiny_runs.own_caches():
            return tiny_runs.planned(tiny_runs.config(tiny_runs.classify(*more)))

    def test_gpus_that_are_not_here(self):
        made, _ = self.planned(*self.GPUS, "plan.device=a100_80gb")
        assert made.batches.ranks == 8
        assert (made.precision.compute, made.arguments["use_cpu"]) == ("bf16", False)
        assert made.environment["device"] == "the GPUs of the job"
        assert next(check for check in made.checks if check.name == "processes").detail == (
            "2 nodes x 4 on GPUs, as a job of slurm"
        )

    def test_gpus_of_which_nothing_is_known_need_a_precision(self):
        with pytest.raises(PlanError, match=r"precision=auto.*plan\.device=a100_80gb, or precision=bf16"):
            self.planned(*self.GPUS)
        made, _ = self.planned(*self.GPUS[:-1], "precision.compute=bf16")
        assert (made.precision.compute, made.costs.available, made.costs.duration) == ("bf16", None, None)

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ("launch.nodes=2", r"Write launch\.gpus_per_node=4"),
            ("launch.gpus_per_node=2 launch.nproc_per_node=3", "Leave nproc_per_node out"),
            ("launch.nproc_per_node=1 launch.setup=/absent.sh", "there is no such file"),
        ],
    )
    def test_what_cannot_be_is_refused(self, asked, said):
        with pytest.raises(PlanError, match=said) as refusal:
            self.planned("launch=slurm", *asked.split())
        assert refusal.value.exit_code == 2

    def test_a_node_without_them_trains_nothing(self, tmp_path):
        arguments = (*self.GPUS[:-1], "launch.nodes=1", "launch.gpus_per_node=1")
        with pytest.raises(MachineError, match="the plan is for accelerators"):
            tiny_runs.worked(tiny_runs.classify(*arguments), tmp_path)


def test_a_node_is_known_by_what_srun_sets():
    step = {"NODEID": 1, "JOB_NUM_NODES": 2, "JOB_ID": 40123, "RESTART_COUNT": 2}
    variables = {f"SLURM_{name}": str(value) for name, value in step.items()} | {"SLURMD_NODENAME": "gpu8"}
    meeting = of_slurm("gpu7", variables).meeting(LaunchConfig(method="slurm"))
    assert (meeting["rdzv_endpoint"], meeting["local_addr"]) == ("gpu7:20123", "gpu8")
    assert (meeting["rdzv_configs"]["is_host"], meeting["run_id"]) == (False, "40123.2")


def test_a_share_of_a_job_is_nothing_to_type():
    with pytest.raises(MachineError, match="srun starts it"):
        of_slurm("gpu7", {})
