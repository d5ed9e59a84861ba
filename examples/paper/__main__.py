"""`python -m examples.paper`."""

from examples.paper import cli

if __name__ == '__main__':
  cli.main()
