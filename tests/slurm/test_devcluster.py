"""The one-machine SLURM does what SLURM does, breaks as told, and leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.waiting import until

from bench.errors import SetupError, UsageError
from tools.devcluster import DevCluster, __main__, packages

needs_slurm = pytest.mark.slurm


def submit(cluster, *options, script="true") -> str:
    result = cluster.run("sbatch", "--parsable", "-o", "/dev/null", *options, "--wrap", script)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def states(cluster, job) -> list[str]:
    """Of the job, or of the elements of the array, as the accounting has them."""
    return cluster.run("sacct", "-nXP", "-j", job, "-o", "State").stdout.split()


def job_is(cluster, job, state):
    return lambda: f"JobState={state} " in cluster.run("scontrol", "-o", "show", "job", job).stdout


def processes_of(cluster) -> list[int]:
    """Looked for without the help of the code under test."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if f"SLURM_CONF={cluster.env['SLURM_CONF']}\0".encode() in environment:
            found.append(int(folder.name))
    return found


@needs_slurm
def test_job_runs_and_is_accounted_for(slurm_env, tmp_path):
    """Other jobs (arrays, GPUs, preempted, on a dead node): in test_sweep_, test_edges_ and test_attempts_on_slurm."""
    command = ["sbatch", "--wait", "-o", tmp_path / "out.txt", "--wrap", "echo on $SLURMD_NODENAME"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)  # found through os.environ
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out.txt").read_text().startswith("on n")
    job = result.stdout.split()[-1]
    until(lambda: states(slurm_env, job) == ["COMPLETED"])


@needs_slurm
def test_job_survives_the_controller(slurm_env, tmp_path):
    job = submit(slurm_env, script=f"echo $$ >> {tmp_path}/starts; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done")
    until((tmp_path / "starts").exists)
    slurm_env.save(job)
    slurm_env.kill("slurmctld")
    assert slurm_env.running("slurmctld") == []
    assert set(slurm_env.job_processes().values()) == {job}
    assert slurm_env.node_states() == {}
    slurm_env.start("slurmctld")
    (tmp_path / "go").touch()
    until(lambda: states(slurm_env, job) == ["COMPLETED"])
    assert len((tmp_path / "starts").read_text().splitlines()) == 1


@needs_slurm
def test_reset_mends_everything(slurm_env):
    submit(slurm_env, "--array=0-20", "--cpus-per-task=2", script="sleep 300")
    submit(slurm_env, "--hold")
    until(slurm_env.job_processes)
    slurm_env.run("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
    slurm_env.kill_node("n3")
    for name in ("slurmctld", "slurmdbd", "mariadbd", "munged"):
        slurm_env.kill(name)
    slurm_env.kill("slurmd", "n1", sig=signal.SIGSTOP)
    slurm_env.reset()
    assert slurm_env.node_states() == dict.fromkeys(slurm_env.nodes, "idle")
    assert slurm_env.run("squeue", "-h").stdout == ""
    assert slurm_env.job_processes() == {}
    assert slurm_env.run("sacct").returncode == 0


@needs_slurm
def test_up_twice_is_harmless(slurm_env):
    job = submit(slurm_env, script="sleep 300")
    until(job_is(slurm_env, job, "RUNNING"))
    daemons = [slurm_env.running(*daemon) for daemon in slurm_env.daemons]
    slurm_env.up()
    assert [slurm_env.running(*daemon) for daemon in slurm_env.daemons] == daemons
    assert job_is(slurm_env, job, "RUNNING")()
    other = DevCluster(slurm_env.folder, nodes=2, port=slurm_env.settings.port)
    with pytest.raises(SetupError, match="other settings"):
        other.up()


@needs_slurm
@pytest.mark.parametrize("wipe", [False, True])
def test_down_leaves_nothing(own_cluster, wipe, tmp_path):
    cluster = own_cluster(nodes=2, accounting=False)
    # One process of the job ignores SIGTERM, the other has nothing of SLURM in its environment.
    submit(cluster, script=f"trap '' TERM; env -i sh -c 'echo $$ > {tmp_path}/pid; exec sleep 300'")
    orphan = int(until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    assert orphan in cluster.job_processes()
    assert cluster.busy_ports()
    cluster.kill("slurmctld")
    cluster.kill("slurmd", "n1")
    cluster.down(wipe=wipe)
    assert processes_of(cluster) == []
    assert not Path(f"/proc/{orphan}/exe").exists()
    assert cluster.busy_ports() == []
    assert cluster.folder.exists() != wipe
    cluster.down()  # nothing to do


@needs_slurm
def test_down_ends_jobs_in_order_and_up_remembers_them(own_cluster):
    cluster = own_cluster(nodes=1, gpus=0, accounting=False, user_signal_on_preemption=False, extra="MaxArraySize=77")
    answer = cluster.run("sacct")
    assert answer.returncode == 1
    assert "accounting storage is disabled" in answer.stderr
    settings = cluster.run("scontrol", "show", "config").stdout
    assert "preempt_send_user_signal" not in settings
    assert "MaxArraySize            = 77" in settings
    job = submit(cluster, script="sleep 300")
    until(job_is(cluster, job, "RUNNING"))
    cluster.down()
    assert processes_of(cluster) == []
    cluster.up()
    assert cluster.node_states() == {"n1": "idle"}
    assert job_is(cluster, job, "CANCELLED")()
    with pytest.raises(SetupError, match=r"slurmctld did not .*; see .*log") as caught:
        own_cluster(nodes=1, accounting=False, extra="SelectType=select/nonsense")
    assert "\n" not in str(caught.value)


@needs_slurm
def test_command_line(own_cluster, capsys):
    cluster = own_cluster(nodes=1, accounting=False)  # for a folder and ports that are free
    cluster.down(wipe=True)
    folder = ["--folder", str(cluster.folder)]
    up = ["up", *folder, "--nodes", "2", "--gpus", "0", "--port", str(cluster.settings.port), "--no-accounting"]
    assert __main__.main(up) == 0
    assert f"source {cluster.folder}/env.sh" in capsys.readouterr().err
    assert __main__.main(["status", *folder]) == 0
    assert "n2 idle" in capsys.readouterr().out
    cluster.run("scontrol", "update", "nodename=n2", "state=drain", "reason=test")
    for command in (up, ["status", *folder]):
        assert __main__.main(command) == 3
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.endswith("n2 drained: takes no jobs; run: scontrol update nodename=n2 state=resume")
    cluster.run("scontrol", "update", "nodename=n2", "state=resume")
    assert __main__.main(up) == 0
    client = f". {cluster.folder}/env.sh; squeue -h; sinfo -h -p high -o %D"
    assert subprocess.run(["sh", "-c", client], capture_output=True, text=True, timeout=60).stdout == "2\n"
    assert __main__.main(["env", *folder]) == 0
    assert f"export SLURM_CONF={cluster.folder}/etc/slurm.conf" in capsys.readouterr().out
    assert __main__.main(["down", "--wipe", *folder]) == 0
    assert __main__.main(["status", *folder]) == 3
    assert __main__.main(["env", *folder]) == 3
    assert not cluster.folder.exists()


@pytest.fixture
def short_path():
    folder = Path(tempfile.mkdtemp(prefix="bs-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def test_missing_programs_are_named_with_their_packages(short_path, monkeypatch):
    monkeypatch.setattr(packages, "path", lambda: str(short_path))
    with pytest.raises(SetupError, match=r"mariadb-client-core .*slurmdbd.*python -m tools.devcluster install"):
        DevCluster(short_path / "c").up()
    assert packages.missing(accounting=False) == ["munge", "slurm-client", "slurmctld", "slurmd"]
    assert not (short_path / "c").exists()


def test_foreign_folder_is_left_alone(short_path, monkeypatch):
    monkeypatch.setattr(packages, "check", lambda accounting: None)
    (short_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="something else in it"):
        DevCluster(short_path).up()
    with pytest.raises(UsageError, match="nothing was stopped or removed"):
        DevCluster(short_path).down(wipe=True)
    assert os.listdir(short_path) == ["thesis.tex"]


def test_settings_that_cannot_be_are_usage_errors():
    for settings in ({"nodes": 0}, {"port": 80}, {"gpus": -1}, {"folder": "/tmp/" + "x" * 80}):
        with pytest.raises(UsageError):
            DevCluster(**{"folder": "/tmp/bs-none"} | settings)
    command = [sys.executable, "-m", "tools.devcluster", "up", "--nodes", "many"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
