"""One definition of the first rank: the record's, which needs no torch, and Lightning's."""

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only

from modes.life import agree_on_first_process
from records.environment import RANK_VARIABLES, is_first_process

TWO_NODES = [(node, local) for node in range(2) for local in range(2)]


def torchrun(node, local):
    variables = {"RANK": 2 * node + local, "LOCAL_RANK": local, "GROUP_RANK": node, "WORLD_SIZE": 4}
    return variables, TorchElasticEnvironment.global_rank


def slurm(node, local):
    variables = {
        "SLURM_PROCID": 2 * node + local,
        "SLURM_LOCALID": local,
        "SLURM_NODEID": node,
        "SLURM_NTASKS": 4,
        "SLURM_NTASKS_PER_NODE": 2,
    }
    return variables, SLURMEnvironment.global_rank


def lightning(node, local):
    """Lightning itself numbers the processes of a machine, but for the one that starts the others."""
    variables = {"NODE_RANK": node, **({"LOCAL_RANK": local} if local else {})}

    def rank(environment):
        environment.set_global_rank(environment.node_rank() * 2 + environment.local_rank())
        return environment.global_rank()

    return variables, rank


@pytest.mark.parametrize(("node", "local"), TWO_NODES)
@pytest.mark.parametrize(
    ("starter", "environment"),
    [(torchrun, TorchElasticEnvironment), (slurm, SLURMEnvironment), (lightning, LightningEnvironment)],
)
def test_the_record_and_lightning_know_the_same_first_process(starter, environment, node, local, monkeypatch):
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    variables, global_rank = starter(node, local)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    # before Lightning's environment sets it, so that the test's end gives the old rank back
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    assert is_first_process() == (global_rank(environment()) == 0)
    rank_zero_only.rank = 0
    agree_on_first_process()
    assert (rank_zero_only.rank == 0) == is_first_process()
