"""A Ray cluster of two machines, of which one goes while trials run: they go on on the other, and nothing is lost."""

import pytest

from tests.faults import harness

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore")
def test_a_machine_that_goes(tmp_path, undisturbed):
  pytest.importorskip("ray")
  from ray.cluster_utils import Cluster

  cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
  try:
    other = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    workdir = tmp_path / "study"
    process = harness.start(workdir, "--executor=ray", environment={"RAY_ADDRESS": cluster.address})
    running = [workdir / "trials" / name / "progress.json" for name in harness.TRIALS]
    assert harness.wait_for(lambda: all(path.exists() for path in running), process)
    cluster.remove_node(other, allow_graceful=False)
    output = process.communicate(timeout=600)[0]
  finally:
    cluster.shutdown()
  assert process.returncode == 0, output
  assert "it goes on elsewhere" in output
  assert not [line for line in output.splitlines() if "raylet" in line or "pid=" in line], output
  harness.assert_equal(workdir, undisturbed)
