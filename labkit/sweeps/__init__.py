"""Sweeps: grids of experiments or chapters, each cell a run of its own, through Snakemake on any machine.

`workflow.yaml` declares them, `make sweep NAME=...` runs them. A sweep is planned here, its cells are a rule
of the Snakefile, and a table and a figure are made of whatever became of them.
"""
