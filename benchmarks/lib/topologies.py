"""Accelerators to compile for where there are none: GPUs and TPUs by name.

    devices = topologies.devices('h100x4')

The compiled programs can be read, and their bytes, kernels and collectives
counted, but not run. It takes the compilers of the platforms, which weigh more
than a gigabyte: `pip install -e '.[bench-aot]'`.
"""

import os
import re

import jax
from jax.experimental import topologies

INSTALL = "pip install -e '.[bench-aot]'"

# What XLA's compiler asks of a card, as NVIDIA's H100 SXM reports it.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def devices(name: str) -> list[jax.Device]:
  """The devices of a topology, none of which needs to be at hand.

  Args:
    name: ``'h100'``, or ``'h100x4'`` for four in one host; ``'v5e-2x2'`` or
      another TPU's name and grid.

  Returns:
    Devices for meshes and shardings that programs are compiled for.

  Raises:
    ValueError: If the name is of no known form.
    ImportError: If the platform's compiler is not installed, with what to type.

  Example:
    >>> devices('h100x0')
    Traceback (most recent call last):
    ValueError: No topology 'h100x0': names are like 'h100', ...
  """
  gpu = re.fullmatch(r'h100(?:x([1-9]\d*))?', name)
  tpu = re.fullmatch(r'(v\d\w*)-(\d+(?:x\d+)+)', name)
  if gpu:
    return _describe(
      name, 'cuda', target_config=H100, topology=f'1x1x{gpu[1] or 1}'
    )
  if tpu:
    # No questions to a cloud's host, and no lock against other processes.
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
    return _describe(f'{tpu[1]}:{tpu[2]}', 'tpu')
  raise ValueError(
    f"No topology {name!r}: names are like 'h100', 'h100x4' and 'v5e-2x2'."
  )


def _describe(name, platform, **options):
  try:
    return list(topologies.get_topology_desc(name, platform, **options).devices)
  except Exception as error:  # Each plugin and version raises another.
    raise ImportError(
      f'Cannot compile for {name!r} here ({error}). The compiler for '
      f'{platform!r} may be missing, or not of the version of JAX, '
      f'{jax.__version__}: {INSTALL}.'
    ) from error
