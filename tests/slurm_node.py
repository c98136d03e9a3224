"""SLURM on this machine, as one node on loopback: installed, started, failed, mended and stopped again."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PACKAGES = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge"}
CONF = Path("/etc/slurm/slurm.conf")  # some of SLURM's programs look nowhere else

SETTINGS = """# Of the tests of Image Labs, for process {process} and gone with it.
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={node}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
CredType=cred/munge
SlurmUser=root
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
SlurmdTimeout=10
KillWait=5
MinJobAge=3600
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=trial Nodes={host} Default=YES MaxTime=120 State=UP
"""


def missing() -> str:
    """What keeps SLURM from running here, in one line; it is installed where that can be done."""
    if CONF.exists() and not _cleared():
        return f"{CONF} is there already, and no test changes a SLURM that is in use"
    absent = [package for program, package in PACKAGES.items() if not shutil.which(program, path=_path())]
    if os.geteuid() != 0:
        return "SLURM's daemons are started as root" + (f", {' '.join(absent)} missing" if absent else "")
    if absent:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *absent]):
            done = subprocess.run(["apt-get", *command], env=environment, capture_output=True, check=False)
        if done.returncode:
            return f"apt-get cannot install {' '.join(absent)}"
    return ""


def _cleared() -> bool:
    """Take away what earlier tests left that were killed before their end; anything else stays."""
    start = SETTINGS.split("{")[0]
    found = re.match(rf"{start}(\d+).*StateSaveLocation=(\S+)/state", CONF.read_text(), re.DOTALL)
    if not found or Path(f"/proc/{found[1]}").exists():
        return False
    for process in [int(path.name) for path in Path("/proc").glob("[0-9]*")]:
        if _uses(process, Path(found[2])):
            os.kill(process, signal.SIGKILL)
    CONF.unlink()
    return True


def _path() -> str:
    return os.environ["PATH"] + ":/usr/sbin:/sbin"


class Node:
    """The daemons of one node, each in the foreground of a process of ours."""

    def __init__(self, place: Path):
        """Write the configuration and start all daemons."""
        self.place, self.daemons = place, {}
        host = socket.gethostname().split(".")[0]
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 512
        ctld, node = _free_ports(2)
        values = {
            "process": os.getpid(),
            "host": host,
            "ctld": ctld,
            "node": node,
            "cores": os.cpu_count(),
            "memory": memory,
        }
        for name in ("state", "spool"):
            (place / name).mkdir()
        CONF.parent.mkdir(exist_ok=True)
        CONF.write_text(SETTINGS.format(place=place, **values))
        key = place / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        files = [f"--{name}-file={place}/munge.{name}" for name in ("key", "log", "pid", "seed")]
        self._start("munged", "--foreground", "--force", f"--socket={place}/munge.socket", *files)
        self._start("slurmctld", "-D")
        self.mend()

    def _start(self, program: str, *options: str) -> None:
        with (self.place / f"{program}.log").open("a") as log:
            command = [shutil.which(program, path=_path()), *options]
            self.daemons[program] = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, umask=0o022
            )

    def mend(self) -> None:
        """Start slurmd, and wait until the node takes jobs."""
        self._start("slurmd", "-D")
        until(lambda: self.state() in ("idle", "mixed", "allocated"), 120, "the node does not come up")

    def fail(self) -> None:
        """Kill slurmd and all that runs below it without a word, as when the power goes."""
        steps = subprocess.run(["pgrep", "-f", "^slurmstepd"], capture_output=True, text=True, check=False)
        ours = [int(word) for word in steps.stdout.split() if _uses(int(word), self.place)]
        doomed = [self.daemons["slurmd"].pid, *ours, *(child for step in ours for child in _below(step))]
        for process in doomed:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.daemons["slurmd"].wait()

    def state(self) -> str:
        """The node's state in a word."""
        shown = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False)
        return shown.stdout.strip()

    def stop(self) -> None:
        """End jobs and daemons, and leave no configuration behind."""
        subprocess.run(["scancel", "--user", "root"], capture_output=True, check=False)
        for daemon in reversed(self.daemons.values()):
            if daemon.poll() is None:
                daemon.terminate()
                try:
                    daemon.wait(20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
        CONF.unlink(missing_ok=True)


def jobs() -> list[dict[str, str]]:
    """Every job that the controller remembers, field by field."""
    shown = subprocess.run(["scontrol", "-o", "show", "job"], capture_output=True, text=True, check=True)
    return [
        dict(word.split("=", 1) for word in line.split() if "=" in word)
        for line in shown.stdout.splitlines()
        if line.startswith("JobId=")
    ]


def until(condition, seconds: float, said: str) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, said
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _uses(process: int, place: Path) -> bool:
    """Whether a process has a file of this node open, so that it is one of ours."""
    files = Path(f"/proc/{process}/fd")
    try:
        opened = [str(file.readlink()) for file in files.iterdir()]
        working = str(Path(f"/proc/{process}/cwd").readlink())
    except OSError:
        return False
    return any(name.startswith(str(place)) for name in (working, *opened))


def _below(process: int) -> list[int]:
    """All processes that a process has started, and theirs."""
    shown = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True, check=False)
    children = [int(word) for word in shown.stdout.split()]
    return [*children, *(grandchild for child in children for grandchild in _below(child))]
