"""The launch scripts: linted, and run with fakes in place of a cluster's commands."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = [LAUNCH / "tpu_vm.sh", LAUNCH / "slurm.sbatch", ROOT / ".ci/run"]


def launch(folder, script, *arguments, **variables):
    """Run a script where every command of a cluster is a fake that notes how it was called."""
    for name in ("gcloud", "srun", "scontrol"):
        fake = folder / name
        fake.write_text(
            f'#!/bin/sh\nprintf "%s\\0" "$@" > "{folder}/$(date +%s%N).{name}"\n'
            f'[ {name} != srun ] || exit "${{SRUN_CODE:-0}}"\n'
        )
        fake.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "REPOSITORY": "https://host/moa jax.git",
        "SLURM_JOB_ID": "17",
    }
    return subprocess.run(
        ["bash", LAUNCH / script, *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=30,
    )


def calls(folder, name):
    """The arguments of each call of a fake."""
    return [path.read_text().split("\0")[:-1] for path in sorted(folder.glob(f"*.{name}"))]


def test_shell_scripts_pass_shellcheck():
    shellcheck = shutil.which("shellcheck") or Path(sys.executable).with_name("shellcheck")
    run = subprocess.run([shellcheck, *SCRIPTS], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def remote(call):
    """What a call of gcloud does on the workers."""
    assert call[:6] == ["compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=zone-a"]
    assert call[6] == "--worker=all"
    assert call[7].startswith("--command=") and len(call) == 8
    return call[7].removeprefix("--command=")


def test_a_tpu_vm_gets_this_commit_and_the_arguments_as_they_were_given(tmp_path):
    run = launch(tmp_path, "tpu_vm.sh", "pod", "zone-a", "configs/toy.py", "data.path=/my data/x")
    assert run.returncode == 0, run.stderr
    install, train = map(remote, calls(tmp_path, "gcloud"))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert commit.stdout.strip() in install
    assert r"https://host/moa\ jax.git" in install
    assert r"train.py configs/toy.py data.path=/my\ data/x" in train


@pytest.mark.parametrize(("codes", "starts", "ends"), [("75 134 143 0", 4, 0), ("75 2", 2, 2)])
def test_a_worker_starts_again_only_when_it_was_preempted(tmp_path, codes, starts, ends):
    launch(tmp_path, "tpu_vm.sh", "pod", "zone-a", "configs/toy.py")
    command = remote(calls(tmp_path, "gcloud")[1]).replace("sleep 30", "true")
    python = tmp_path / "moa_jax/.venv/bin/python"
    python.parent.mkdir(parents=True)
    (tmp_path / "moa_jax/codes").write_text(codes.replace(" ", "\n") + "\n")
    python.write_text(
        "#!/bin/sh\necho start >> starts\ncode=$(head -n 1 codes)\nsed -i 1d codes\nexit $code\n"
    )
    python.chmod(0o755)
    worker = subprocess.run(["bash", "-c", command], cwd=tmp_path, timeout=30)
    assert worker.returncode == ends
    assert (tmp_path / "moa_jax/starts").read_text().count("start") == starts


@pytest.mark.parametrize(
    ("code", "requeued"), [(0, False), (75, True), (134, True), (143, True), (2, False)]
)
def test_slurm_requeues_what_was_preempted(tmp_path, code, requeued):
    run = launch(tmp_path, "slurm.sbatch", "configs/toy.py", "a=b c", SRUN_CODE=str(code))
    assert run.returncode == code, run.stderr
    (train,) = calls(tmp_path, "srun")
    assert train[-3:] == ["train.py", "configs/toy.py", "a=b c"]
    assert calls(tmp_path, "scontrol") == [["requeue", "17"]] * requeued


@pytest.mark.parametrize(
    ("script", "arguments"),
    [("tpu_vm.sh", ("pod", "zone-a", "configs/toy.py")), ("slurm.sbatch", ("configs/toy.py",))],
)
def test_a_dry_run_prints_the_commands_and_runs_none(tmp_path, script, arguments):
    run = launch(tmp_path, script, *arguments, DRY_RUN="1")
    assert run.returncode == 0
    assert "configs/toy.py" in run.stdout
    assert not [*calls(tmp_path, "gcloud"), *calls(tmp_path, "srun"), *calls(tmp_path, "scontrol")]


@pytest.mark.parametrize("script", ["tpu_vm.sh", "slurm.sbatch"])
def test_without_arguments_they_say_what_to_give(tmp_path, script):
    run = launch(tmp_path, script)
    assert run.returncode == 2
    assert "train.py's arguments" in run.stderr


def test_the_jobset_restarts_all_but_what_would_fail_again():
    (job,) = yaml.safe_load_all((LAUNCH / "gke_jobset.yaml").read_text())
    assert job["kind"] == "JobSet"
    assert job["spec"]["failurePolicy"]["maxRestarts"] > 0
    (worker,) = job["spec"]["replicatedJobs"]
    work = worker["template"]["spec"]
    (rule,) = work["podFailurePolicy"]["rules"]
    assert not {75, 134, 143} & set(rule["onExitCodes"]["values"])
    pod = work["template"]["spec"]
    (train,) = pod["containers"]
    assert train["name"] == rule["onExitCodes"]["containerName"]
    assert pod["terminationGracePeriodSeconds"] >= 60
    chips = train["resources"]["limits"]["google.com/tpu"] * work["parallelism"]
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    assert chips == int(rows) * int(columns)
    assert work["parallelism"] == work["completions"]


def test_the_image_holds_what_it_copies():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert copied and all((ROOT / name).exists() for name in copied)
