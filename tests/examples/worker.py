"""One process of `test_multiprocess.py`: the example, which may be killed.

  python tests/examples/worker.py STEP OPTIONS...

kills its own process, with no chance to clean up, after the given step and the
checkpoint before it, which is written while training goes on; never, if that is
-1.
"""

import os
import signal
import sys
import time

import tyro

from examples import train_fsdp, train_multihost


def main(last_step, options):
  train = train_fsdp.train

  def train_until(run, tokens, checkpoints, on_step):
    def killing(step, loss):
      on_step(step, loss)
      if step == last_step:
        saved = step - step % run.config.checkpoint_every
        deadline = time.monotonic() + 60
        while saved and not (checkpoints.directory / str(saved)).exists():
          if time.monotonic() > deadline:
            raise TimeoutError(f'No checkpoint of step {saved} in a minute.')
          time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)

    return train(run, tokens, checkpoints, killing)

  train_fsdp.train = train_until
  train_multihost.main(tyro.cli(train_multihost.Config, args=options))


if __name__ == '__main__':
  main(int(sys.argv[1]), sys.argv[2:])
