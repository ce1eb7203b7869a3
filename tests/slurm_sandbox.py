"""A SLURM of two nodes on this host, private to a folder: its own munged, slurmctld and slurmds, on free ports.

Nothing outside the folder is touched, and an ordinary user can start it. The nodes' names are addresses of the
loopback as any resolver reads them, so that they resolve without a line in /etc/hosts.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from getpass import getuser
from pathlib import Path

NODES = ("0x7f000001", "0x7f000002")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
CONF = """ClusterName=sandbox
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket
CredType=cred/munge
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmdSpoolDir={root}/spool-%n
StateSaveLocation={root}/state
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
JobRequeue=1
SchedulerParameters=sched_interval=2,batch_sched_delay=0
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no SLURM here; None where there can."""
    needed = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol", "squeue")
    absent = [name for name in needed if not shutil.which(name, path=PATH)]
    return f"not installed: {', '.join(absent)} (apt-get install slurm-wlm munge)" if absent else None


@contextmanager
def started(root: Path, cpus: int = 4) -> Iterator[Path]:
    """Two idle nodes; gives the configuration that SLURM_CONF names."""
    for name in ("munge", "state", *(f"spool-{node}" for node in NODES)):
        (root / name).mkdir(parents=True)
    root.chmod(0o755)
    (root / "munge").chmod(0o711)
    conf = _configured(root, cpus)
    environment = os.environ | {"SLURM_CONF": str(conf), "PATH": PATH}
    try:
        for command in _daemons(root):
            subprocess.run(command, env=environment, check=True, capture_output=True)
        _wait_for_idle(environment, root)
        yield conf
    finally:
        _end(root)


def _configured(root: Path, cpus: int) -> Path:
    host = socket.gethostname().partition(".")[0]
    key = root / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    first, *ports = _free_ports(len(NODES) + 1)
    lines = [
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=8000 State=UNKNOWN"
        for node, port in zip(NODES, ports)
    ]
    conf = root / "slurm.conf"
    conf.write_text(CONF.format(host=host, port=first, user=getuser(), root=root) + "\n".join(lines) + "\n")
    return conf


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _daemons(root: Path) -> Iterator[list[str]]:
    munge = root / "munge"
    yield ["munged", "--force", f"--key-file={munge / 'key'}", f"--socket={munge / 'socket'}",
           f"--pid-file={root / 'munged.pid'}", f"--log-file={root / 'munged.log'}",
           f"--seed-file={munge / 'seed'}"]  # fmt: skip
    yield ["slurmctld"]
    yield from (["slurmd", "-N", node] for node in NODES)


def _wait_for_idle(environment: dict[str, str], root: Path) -> None:
    for _ in range(300):
        shown = subprocess.run(["sinfo", "-h", "-N", "-o", "%T"], env=environment, capture_output=True, text=True)
        if shown.stdout.split() == ["idle"] * len(NODES):
            return
        time.sleep(0.1)
    raise RuntimeError(f"SLURM did not come up: {(root / 'slurmctld.log').read_text()[-2000:]}")


def _end(root: Path) -> None:
    for name in (*(f"slurmd-{node}" for node in NODES), "slurmctld", "munged"):
        with suppress(OSError, ValueError):
            os.kill(int((root / f"{name}.pid").read_text()), signal.SIGTERM)
    for _ in range(100):
        if not list(root.glob("*.pid")):
            return
        time.sleep(0.1)
