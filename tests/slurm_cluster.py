"""A real Slurm of four nodes on this machine, for tests: daemons that listen on loopback, GPUs that are none, a folder of its own.

Partition `main` is the default one; what is asked of `high` preempts it. Run as a program, it waits for the end of its input,
and then ends all that belongs to a cluster: so nothing is left, however the tests end.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

NODES = ("n1", "n2", "n3", "n4")
CPUS, MEMORY, GPUS = 4, 4096, ("/dev/null", "/dev/zero")
LONGEST = 12  # tasks that an array may have
DAEMONS = ("munged", "slurmctld", "slurmd")
SBIN = "/usr/sbin:/sbin"  # where Debian has the daemons, which isn't on every user's path
MARK = "SLURMD_NODENAME"  # in the environment of what runs on a node, where Slurm itself puts it for jobs

CONF = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU={share}
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=60
KillWait=2
MaxArraySize={longest}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_min_interval=50000,sched_interval=2,bf_interval=2
GresTypes=gpu
{loopback}
{nodes}
PartitionName=main Nodes=ALL Default=YES PriorityTier=1
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


class Cluster:
    """The daemons, and what tests do to them. The environment of whoever starts it points to it from then on."""

    def __init__(self) -> None:
        os.environ["PATH"] += f":{SBIN}"
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path, since a socket's may not be long
        self.conf = self.folder / "slurm.conf"
        ports = _free_ports(1 + len(NODES))
        self._write(ports)
        os.environ["SLURM_CONF"] = str(self.conf)
        self._keeper = subprocess.Popen([sys.executable, __file__, str(self.folder)], stdin=subprocess.PIPE, start_new_session=True)
        self._daemon("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket",
                     f"--key-file={self.folder}/munge.key", f"--pid-file={self.folder}/munged.pid",
                     f"--seed-file={self.folder}/munge.seed", f"--log-file={self.folder}/munged.log")
        _until((self.folder / "munge.socket").exists, "munged opens its socket")
        self._start_controller()
        self._slurmd = {node: self._start_node(node) for node in NODES}
        _until(lambda: self.states() == dict.fromkeys(NODES, "idle"), "all nodes are up")

    def states(self) -> dict[str, str]:
        """Return how the nodes are."""
        return dict(line.split() for line in slurm("sinfo", "-h", "-N", "-p", "main", "-o", "%N %t").splitlines())

    def lose(self, node: str) -> None:
        """Have a node vanish with all that runs there, and Slurm notice it at once."""
        self._slurmd[node].kill()
        self._slurmd[node].wait()
        _kill(f"SLURM_CONF={self.conf}", f"{MARK}={node}")
        slurm("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def bring_back(self, node: str) -> None:
        """Start a lost node again."""
        self._slurmd[node] = self._start_node(node)
        slurm("scontrol", "update", f"NodeName={node}", "State=RESUME")
        _until(lambda: self.states()[node] in ("idle", "mix", "alloc"), f"{node} is back")

    def stop_controller(self) -> None:
        """Have the controller go; jobs run on."""
        self._controller.terminate()
        self._controller.wait()

    def start_controller(self) -> None:
        """Bring the controller back."""
        self._start_controller()
        _until(lambda: "unk" not in self.states().values(), "the nodes have told of themselves")

    def empty(self) -> None:
        """Cancel what runs, and wait until every node is free."""
        slurm("scancel", "--user", getpass.getuser())
        _until(lambda: not slurm("squeue", "-h"), "all jobs have gone")

    def stop(self) -> None:
        """End everything."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait()
        del os.environ["SLURM_CONF"]

    def _write(self, ports: list[int]) -> None:
        listens = "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny" if _named_loopback() else ""
        nodes = "\n".join(f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} RealMemory={MEMORY} "
                          f"Gres=gpu:{len(GPUS)}" for node, port in zip(NODES, ports[1:]))
        self.conf.write_text(CONF.format(ports=ports, user=getpass.getuser(), folder=self.folder, share=MEMORY // CPUS,
                                         longest=LONGEST + 1, loopback=listens, nodes=nodes))
        (self.folder / "gres.conf").write_text(f"NodeName={','.join(NODES)} Name=gpu File={','.join(GPUS)}\n")
        (self.folder / "cgroup.conf").write_text("")
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)

    def _start_controller(self) -> None:
        self._controller = self._daemon("slurmctld", "-D")
        _until(lambda: "is UP" in slurm("scontrol", "ping"), "slurmctld answers")

    def _start_node(self, node: str) -> subprocess.Popen:
        (self.folder / f"spool-{node}").mkdir(exist_ok=True)
        return self._daemon("slurmd", "-D", "-N", node, **{MARK: node})

    def _daemon(self, *command: str, **env: str) -> subprocess.Popen:
        with (self.folder / "daemons.log").open("ab") as log:
            return subprocess.Popen(command, env={**os.environ, **env}, cwd=self.folder, stdin=subprocess.DEVNULL,
                                    stdout=log, stderr=log, start_new_session=True)


class Spy:
    """Stands before one of Slurm's commands: notes with what it is called, and says it before it goes wrong, if it should."""

    def __init__(self, folder: Path, name: str):
        self.script, self.notes = folder / name, folder / f"{name}.log"
        self.real = shutil.which(name)
        self.passes()

    def passes(self) -> None:
        self.does(f'exec {self.real} "$@"')

    def does(self, what: str) -> None:
        self.script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {self.notes}\n{what}\n')
        self.script.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []


def missing() -> list[str]:
    """Return the programs of Slurm that this machine lacks."""
    path = f"{os.environ['PATH']}:{SBIN}"
    return [name for name in (*DAEMONS, "sbatch") if shutil.which(name, path=path) is None]


def slurm(*command: str) -> str:
    """Return what one of Slurm's commands says; nothing where it fails."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, below those that the system gives to others meanwhile."""
    found: list[int] = []
    start = 20000 + os.getpid() * 16 % 10000
    for port in range(start, start + 2000):
        with socket.socket() as probe:
            if len(found) < count and probe.connect_ex(("127.0.0.1", port)):
                found.append(port)
    return found


def _named_loopback() -> bool:
    """Tell whether this machine's name stands for the address that Slurm is to listen on; else it has to on all."""
    try:
        return socket.gethostbyname(socket.gethostname()) == "127.0.0.1"
    except OSError:
        return False


def _until(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it never came that {what}"
        time.sleep(0.05)


def _kill(*marks: str) -> bool:
    """Kill the processes that have all marks in their environment, and tell whether there were any."""
    wanted, found = {mark.encode() for mark in marks}, False
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int(process.name) != os.getpid() and wanted <= set((process / "environ").read_bytes().split(b"\0")):
                os.kill(int(process.name), signal.SIGKILL)
                found = True
        except OSError:  # it has ended, or is another user's
            continue
    return found


def _keep(folder: Path) -> None:
    """Wait for the end of the input, and then end a cluster: its daemons, their jobs, and heads that wait for these."""
    sys.stdin.read()
    deadline = time.monotonic() + 20
    while _kill(f"SLURM_CONF={folder}/slurm.conf") and time.monotonic() < deadline:
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _keep(Path(sys.argv[1]))
