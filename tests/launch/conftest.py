"""A SLURM of two nodes on this host, started once where it is installed."""

import pytest
import slurm_sandbox


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """SLURM_CONF names the sandbox as long as the session lasts."""
    if why := slurm_sandbox.missing():
        pytest.skip(f"no SLURM here, {why}")
    with pytest.MonkeyPatch.context() as patch, slurm_sandbox.started(tmp_path_factory.mktemp("slurm")) as conf:
        patch.setenv("SLURM_CONF", str(conf))
        yield conf
