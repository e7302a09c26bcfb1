"""The configuration files of a one-machine SLURM."""

from __future__ import annotations

import dataclasses
import os
import pwd
import re
import socket
from pathlib import Path

from bench.errors import UsageError

LONGEST_FOLDER = 70  # a socket's path has at most 107 characters, and slurmstepd adds /spool/n12/n12_12345.4294967291
FOLDERS = ("etc", "run", "log", "db", "state", "dev", "tmp", "spool")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What can be chosen about a cluster; see :class:`tools.devcluster.DevCluster`."""

    folder: Path
    nodes: int
    cpus: int
    gpus: int
    mem_mb: int
    port: int
    accounting: bool
    extra: str
    user_signal_on_preemption: bool

    def __post_init__(self) -> None:
        if not re.fullmatch(r"/[\w./+-]+", str(self.folder)) or len(str(self.folder)) > LONGEST_FOLDER:
            allowed = f"at most {LONGEST_FOLDER} characters, letters, digits and ._+- only"
            raise UsageError(f"folder {self.folder} will not do for SLURM's sockets: {allowed}")
        for name, least, most in (("nodes", 1, 90), ("cpus", 1, 1024), ("gpus", 0, 64), ("mem_mb", 1, 10**7)):
            if not least <= getattr(self, name) <= most:
                raise UsageError(f"{name} is {getattr(self, name)}: it must be from {least} to {most}")
        if not 1024 <= self.port <= 65535 - 200:
            raise UsageError(
                f"port is {self.port}: it must be from 1024 to {65535 - 200}, the 200 from there on are used"
            )

    @property
    def conf(self) -> Path:
        """SLURM's configuration file. Its path distinguishes the processes of clusters."""
        return self.folder / "etc" / "slurm.conf"

    @property
    def names(self) -> list[str]:
        """The nodes: n1, n2, ..."""
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    @property
    def ports(self) -> dict[str, int]:
        """Daemon or node -> the TCP port it listens on."""
        ports = {"mariadbd": self.port + 6, "slurmdbd": self.port + 19} if self.accounting else {}
        ports["slurmctld"] = self.port + 17
        return ports | {name: self.port + 100 + number for number, name in enumerate(self.names, start=1)}


def write(settings: Settings) -> None:
    """Write all files, and make the folders that the daemons expect."""
    folder = settings.folder
    made = [folder, *(folder / name for name in FOLDERS), *(folder / "spool" / node for node in settings.names)]
    for path in made:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)  # munged insists that all may look into it and others may not write
    for number in range(settings.gpus):
        # A GPU must be a device, so it is a link to one; the number in its name becomes CUDA_VISIBLE_DEVICES.
        link = folder / "dev" / f"nvidia{number}"
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    etc = settings.conf.parent
    _write(folder / "env.sh", env_sh(settings.conf))
    _write(settings.conf, slurm_conf(settings))
    _write(etc / "gres.conf", gres_conf(settings))
    if not (etc / "munge.key").exists():
        _write(etc / "munge.key", os.urandom(1024), mode=0o400)
    if settings.accounting:
        _write(etc / "slurmdbd.conf", slurmdbd_conf(settings), mode=0o600)  # slurmdbd refuses one that others can read
        _write(etc / "my.cnf", my_cnf(settings))
        _write(etc / "init.sql", INIT_SQL)


def env_sh(conf: Path) -> str:
    """What a shell sources to talk to the cluster."""
    path = 'case ":$PATH:" in *:/usr/sbin:*) ;; *) export PATH="$PATH:/usr/sbin" ;; esac'
    return f"export SLURM_CONF={conf}\n{path}\n"


def slurm_conf(settings: Settings) -> str:
    """The text of slurm.conf."""
    folder, user, host = settings.folder, _user(), host_name()
    ports = [settings.ports[name] for name in (settings.names[0], settings.names[-1])]
    gres = f" Gres=gpu:{settings.gpus}" if settings.gpus else ""
    lines = f"""
ClusterName=devcluster
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={settings.ports["slurmctld"]}
AuthType=auth/munge
# A requeued job is held until the credential of its last start has expired: 120 s by default.
AuthInfo=socket={folder}/run/munge.sock,cred_expire=5
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
SlurmctldDebug=info
SlurmdDebug=info
MailProg=/bin/true
# No cgroups.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
# Otherwise a job without --mem takes the whole node.
DefMemPerCPU=100
# Nodes may claim more than the machine has, and come back by themselves after they were down.
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
SlurmdTimeout=10
MessageTimeout=5
TCPTimeout=2
SchedulerType=sched/backfill
SchedulerParameters={SCHEDULER}
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
"""
    if settings.user_signal_on_preemption:
        lines += "# A job's own --signal is sent when it is preempted, not at its time limit only.\n"
        lines += "SlurmctldParameters=preempt_send_user_signal\n"
    lines += _accounting(settings)
    if settings.gpus:
        lines += "GresTypes=gpu\n"
    lines += (
        f"NodeName={_range('n', 1, settings.nodes)} NodeHostname={host} NodeAddr=127.0.0.1 "
        f"Port={_range('', *ports)} CPUs={settings.cpus} RealMemory={settings.mem_mb}{gres} State=UNKNOWN\n"
        "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=OFF\n"
        "PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=15\n"
        "PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF\n"
    )
    return lines.lstrip() + settings.extra.strip() + "\n"


SCHEDULER = "batch_sched_delay=0,sched_interval=1,bf_interval=1,default_queue_depth=1000,bf_max_job_test=1000"
"""Looks at many jobs, every second, so that hundreds of short ones start quickly."""


def _accounting(settings: Settings) -> str:
    if not settings.accounting:
        return "AccountingStorageType=accounting_storage/none\nJobAcctGatherType=jobacct_gather/none\n"
    # AccountingStoragePass is where munge's socket is looked for on the way to slurmdbd; AuthInfo is not used for that.
    gpus = "AccountingStorageTRES=gres/gpu\n" if settings.gpus else ""
    return f"""AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={settings.ports["slurmdbd"]}
AccountingStoragePass={settings.folder}/run/munge.sock
AccountingStoreFlags=job_comment
{gpus}JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
"""


def gres_conf(settings: Settings) -> str:
    """The text of gres.conf: the pretended GPUs."""
    if not settings.gpus:
        return ""
    files = _range(f"{settings.folder}/dev/nvidia", 0, settings.gpus - 1)
    return f"NodeName={_range('n', 1, settings.nodes)} Name=gpu AutoDetect=off File={files}\n"


def slurmdbd_conf(settings: Settings) -> str:
    """The text of slurmdbd.conf."""
    folder = settings.folder
    return f"""AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={settings.ports["slurmdbd"]}
SlurmUser={_user()}
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={settings.ports["mariadbd"]}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""


def my_cnf(settings: Settings) -> str:
    """The text of MariaDB's configuration: small, and without waiting for the disk."""
    folder = settings.folder
    return f"""[mariadbd]
user={_user()}
datadir={folder}/db
tmpdir={folder}/tmp
socket={folder}/run/mysql.sock
pid-file={folder}/run/mariadbd.pid
log-error={folder}/log/mariadbd.log
init-file={folder}/etc/init.sql
bind-address=127.0.0.1
port={settings.ports["mariadbd"]}
skip-name-resolve
innodb_buffer_pool_size=64M
innodb_log_file_size=16M
innodb_lock_wait_timeout=900
innodb_flush_log_at_trx_commit=0
innodb_flush_method=nosync
innodb_doublewrite=0
performance_schema=OFF
"""


INIT_SQL = """CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
"""


def host_name() -> str:
    """The machine's short name, which slurmctld compares with its configuration."""
    return socket.gethostname().split(".")[0]


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _range(prefix: str, first: int, last: int) -> str:
    return f"{prefix}{first}" if first == last else f"{prefix}[{first}-{last}]"


def _write(file: Path, content: str | bytes, mode: int = 0o644) -> None:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    file.chmod(mode)
