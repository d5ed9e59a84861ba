"""`python -m examples.paper`; `detection` has a command line of its own."""

import sys

from examples.paper import cli
from examples.paper.detection import cli as detection

if __name__ == '__main__':
  if sys.argv[1:2] == ['detection']:
    detection.main(sys.argv[2:])
  else:
    cli.main()
