"""The experiments of Yong et al. (2020), redone: `python -m examples.paper`."""
