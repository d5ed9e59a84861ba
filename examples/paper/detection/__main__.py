"""`python -m examples.paper detection`."""

from examples.paper.detection import cli

if __name__ == '__main__':
  cli.main()
