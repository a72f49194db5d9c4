"""What jax knows of clusters: asked by private names, which a version may take away."""

import sys

import pytest

from moa_jax.training import hosts

LAUNCHERS = {
    "slurm": {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "a,b",
        "SLURM_NTASKS": "{}",
        "SLURM_STEP_NUM_NODES": "{}",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    },
    "Open MPI": {
        "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:5000",
        "OMPI_COMM_WORLD_SIZE": "{}",
        "OMPI_COMM_WORLD_RANK": "0",
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    },
}


def test_jax_still_has_the_names_that_are_asked():
    from jax._src.clusters import ClusterEnv

    assert {kind.__name__ for kind in ClusterEnv._cluster_types} >= {"SlurmCluster", "OmpiCluster"}
    for kind in ClusterEnv._cluster_types:
        assert isinstance(kind.opt_in_only_method, bool)
        assert callable(kind.is_env_present) and callable(kind.get_process_count)


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_cluster_is_one_of_several_processes(monkeypatch, launcher, processes):
    assert not hosts._in_cluster()
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, value.format(processes))
    assert hosts._in_cluster() == (processes > 1)


class OtherEnv:
    """What a later jax might have in its place."""


class OtherKind:
    """A cluster that is asked by other names."""

    opt_in_only_method = False


def without_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax._src.clusters", None)


def without_kinds(monkeypatch):
    monkeypatch.setattr("jax._src.clusters.ClusterEnv", OtherEnv)


def without_methods(monkeypatch):
    monkeypatch.setattr("jax._src.clusters.ClusterEnv._cluster_types", [OtherKind])


@pytest.mark.parametrize("take_away", [without_module, without_kinds, without_methods])
def test_where_jax_does_not_say_the_run_is_its_own_and_how_to_join_is_said(monkeypatch, take_away):
    take_away(monkeypatch)
    with pytest.warns(UserWarning, match="starts alone.*--distributed"):
        assert not hosts.join(False)
