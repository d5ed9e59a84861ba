r"""`train_fsdp.py` over several processes, on one host or on many.

Every process runs this same program. Together they see all devices as one
mesh; the training is that of `train_fsdp.py`, unchanged. If a process dies, the
others end with an error; start them all again, and they go on from the last
checkpoint. ``--out`` must be a folder that all hosts share, and all must read
the same text: the same version of Python, or ``--data-dir``.

In two shells of one machine, without accelerators:

  python examples/train_multihost.py --coordinator localhost:1234 \
    --processes 2 --process 0 --cpu-devices 4
  python examples/train_multihost.py --coordinator localhost:1234 \
    --processes 2 --process 1 --cpu-devices 4

Under SLURM, and on a slice of a TPU pod, JAX finds the others by itself:

  srun --nodes 2 --ntasks-per-node 4 --gpus-per-node 4 \
    python examples/train_multihost.py --out /shared/run

  gcloud compute tpus tpu-vm ssh NAME --zone ZONE --worker all \
    --command 'python examples/train_multihost.py --out /shared/run'
"""

import dataclasses
import inspect
from pathlib import Path
import sys

import jax
from jax.experimental import multihost_utils
import numpy as np
import tyro

if not __package__:  # Run as a file, whose folder is on the path.
  sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples import train_fsdp


@dataclasses.dataclass(frozen=True)
class Config(train_fsdp.Config):
  """Trains a transformer on text over several processes.

  Attributes:
    coordinator: Address and port of the first process. By default the cluster
      is asked, as are the next two.
    processes: The number of processes.
    process: The number of this process, from 0.
    heartbeat: Seconds without a sign of life after which a process counts as
      dead, and the others end. Old versions of JAX have a limit of their own.
  """

  out: Path = Path('out/train_multihost')
  coordinator: str | None = None
  processes: int | None = None
  process: int | None = None
  heartbeat: int = 30


def connect(config: Config) -> None:
  """Joins the other processes, before any device is touched."""
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  if config.cpu_devices:
    jax.config.update('jax_num_cpu_devices', config.cpu_devices)
  options = {'heartbeat_timeout_seconds': config.heartbeat}
  known = inspect.signature(jax.distributed.initialize).parameters
  jax.distributed.initialize(
    config.coordinator,
    config.processes,
    config.process,
    **{name: value for name, value in options.items() if name in known},
  )


def main(config: Config) -> float:
  connect(config)
  tokens = train_fsdp.load(config)
  multihost_utils.assert_equal(
    np.array([len(tokens.train), int(tokens.train.sum(dtype=np.int64))]),
    'The processes read different texts: give all the same --data-dir.',
  )
  return train_fsdp.run_training(config, tokens)


if __name__ == '__main__':
  main(tyro.cli(Config))
