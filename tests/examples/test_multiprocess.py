"""The examples' training over several processes, as users start them."""

import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time

import chex
import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import orbax.checkpoint as ocp
import pytest

from examples import train_fsdp
from tests.examples.test_train_fsdp import SMALL, losses, texts

# One worker of xdist runs them all, as they share runs.
pytestmark = [pytest.mark.multiprocess, pytest.mark.xdist_group('processes')]

ROOT = Path(__file__).parents[2]
STEPS, EVERY, DEVICES = 8, 3, 4
SECONDS = 900  # A limit: a run takes some twenty on a free machine.


def config(out):
  return train_fsdp.Config(
    data_dir=texts(out.with_name(f'{out.name}-texts')),
    steps=STEPS,
    batch_size=8,
    checkpoint_every=EVERY,
    out=out,
    model=SMALL,
  )


def options(out):
  given = {f'model.{name}': value for name, value in vars(SMALL).items()}
  given |= vars(config(out))
  for name in ('model', 'cpu_devices', 'centralize'):
    del given[name]
  return [f'--{name.replace("_", "-")}={x}' for name, x in given.items()]


def free_port():
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


def run(out, logs, processes, victim=None, last_step=-1):
  """Runs the example to its end; returns exit codes and all that was printed.

  Four devices are shared out among the processes, which print to the new folder
  `logs`. The victim is killed after its last step.
  """
  logs.mkdir()
  path = f'{ROOT}{os.pathsep}{ROOT / "examples"}'
  environment = os.environ | {'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu'}
  address = f'localhost:{free_port()}'
  running = []
  try:
    for i in range(processes):
      command = [sys.executable, Path(__file__).with_name('worker.py')]
      command += [str(last_step if i == victim else -1), *options(out)]
      command += ['--coordinator', address, '--processes', str(processes)]
      command += ['--process', str(i), '--heartbeat', '20']
      command += ['--cpu-devices', str(DEVICES // processes)]
      with (logs / str(i)).open('w') as log:
        running.append(
          subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        )
    deadline = time.monotonic() + SECONDS
    codes = [p.wait(max(0, deadline - time.monotonic())) for p in running]
  finally:
    for process in running:
      process.kill()
      process.wait()
  printed = '\n'.join((logs / str(i)).read_text() for i in range(processes))
  return codes, printed


def restore(out, abstract):
  with train_fsdp.open_checkpoints(out) as checkpoints:
    assert checkpoints.latest_step() == STEPS
    return checkpoints.restore(STEPS, args=ocp.args.StandardRestore(abstract))


@pytest.fixture(scope='module')
def one_process(tmp_path_factory):
  """The same training in this process, over eight devices."""
  settings = config(tmp_path_factory.mktemp('one'))
  train_fsdp.run_training(settings, train_fsdp.load(settings))
  return settings.out


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory):
  folder = tmp_path_factory.mktemp('two')
  codes, printed = run(folder, folder / 'logs', 2)
  assert codes == [0, 0], printed
  return folder


def test_losses_are_those_of_one_process(two_processes, one_process):
  several, one = losses(two_processes), losses(one_process)
  assert len(several) == STEPS
  np.testing.assert_allclose(several, one, rtol=1e-5)


def test_a_killed_run_ends_and_goes_on_bit_for_bit(two_processes, tmp_path):
  """Killed between checkpoints, in the process that is not the coordinator."""
  out = tmp_path / 'out'
  codes, printed = run(out, tmp_path / 'killed', 2, victim=1, last_step=4)
  assert codes[1] == -signal.SIGKILL, printed
  assert codes[0] not in (0, -signal.SIGKILL), printed
  with train_fsdp.open_checkpoints(out) as checkpoints:
    assert checkpoints.latest_step() == EVERY

  codes, printed = run(out, tmp_path / 'restarted', 2)
  assert codes == [0, 0], printed
  assert f'going on from step {EVERY}' in printed
  assert losses(out) == losses(two_processes)
  abstract = train_fsdp.make_run(config(out)).programs.abstract
  states = (restore(x, abstract) for x in (out, two_processes))
  chex.assert_trees_all_equal(*states)


@pytest.mark.nightly
def test_the_coordinator_may_be_killed_too(tmp_path):
  codes, printed = run(tmp_path, tmp_path / 'logs', 2, victim=0, last_step=1)
  assert codes[0] == -signal.SIGKILL, printed
  assert codes[1] not in (0, -signal.SIGKILL), printed


def test_a_checkpoint_restores_onto_another_mesh(two_processes):
  """From four devices in a row onto eight, in a row and as four by two."""
  abstract = train_fsdp.make_run(config(two_processes)).programs.abstract
  mesh = jax.make_mesh((4, 2), ('x', 'y'), axis_types=(AxisType.Auto,) * 2)

  def on_a_grid(x):
    spec = P('x', 'y') if x.ndim == 2 and x.shape[0] % 4 == 0 else P()
    sharding = NamedSharding(mesh, spec)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  in_a_row = restore(two_processes, abstract)
  grid = restore(two_processes, jax.tree.map(on_a_grid, abstract))
  kernel = jax.tree.leaves(grid.params['head'])[0]
  assert kernel.sharding == NamedSharding(mesh, P('x', 'y'))
  chex.assert_trees_all_equal(in_a_row, grid)
  assert {len(x.sharding.device_set) for x in jax.tree.leaves(in_a_row)} == {8}
