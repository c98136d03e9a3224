"""From notebooks to pages: execute every chapter, stage the results with the prose, build the book.

And from grids to tables: `make sweep` plans a sweep and asks for its cells.
"""

import json
import sys

from labkit.book import sources

configfile: "workflow.yaml"

CHAPTERS = list(config["chapters"])
PYTHON = sys.executable
ON = "gpu_" if config.get("gpus") else ""  # a profile with `config: [gpus=1]` has GPUs to give
HERE = {"cores": config["threads"], "mem_mb": 0, "minutes": 0, "gpus": 0, "gpu_minutes": 0}  # without a profile


def needs_of(chapter, name):
    """What a chapter asks of the machine that a profile finds for it."""
    return config.get("needs", {}).get(chapter, HERE)[name]


localrules: book, executed, pages


rule book:
    input: "_build/html/index.html"


rule executed:
    input: expand("_build/executed/{chapter}.ipynb", chapter=CHAPTERS)


rule execute:
    input: lambda wildcards: sources.of(wildcards.chapter)
    output: "_build/executed/{chapter}.ipynb"
    log: "_build/logs/{chapter}.log"
    benchmark: "_build/benchmarks/{chapter}.tsv"
    params: lambda wildcards: sources.parameters(config, wildcards.chapter)
    threads: lambda wildcards: needs_of(wildcards.chapter, "cores")
    retries: config["retries"]
    resources:
        attempt=lambda wildcards, attempt: attempt,
        mem_mb=lambda wildcards, attempt: attempt * needs_of(wildcards.chapter, "mem_mb"),
        runtime=lambda wildcards, attempt: attempt * needs_of(wildcards.chapter, ON + "minutes"),
        gpu=lambda wildcards: needs_of(wildcards.chapter, "gpus") if ON else 0,
    shell:
        "{PYTHON} -m labkit.book execute {wildcards.chapter} --parameters {params:q}"
        " --log {log} --attempt {resources.attempt}"


rule pages:
    input:
        executed=rules.executed.input,
        prose=sources.prose(),
        layout=sources.layout(),
        records=sources.records(),
    output: "_build/html/index.html"
    log: "_build/logs/pages.log"
    shell: "{PYTHON} -m labkit.book pages --log {log}"


if "plan" in config:
    SWEEP = "_build/sweeps/" + config["plan"]["sweep"]
    CELLS = config["plan"]["cells"]

    def needs(name):
        return lambda wildcards, attempt: attempt * CELLS[wildcards.cell]["needs"][name]

    localrules: cells

    rule cells:
        input: expand(SWEEP + "/cells/{cell}.json", cell=CELLS)

    rule cell:
        input: lambda wildcards: sources.of_run(CELLS[wildcards.cell]["does"]["run"])
        output: SWEEP + "/cells/{cell}.json"
        log: SWEEP + "/logs/{cell}.log"
        params: lambda wildcards: json.dumps(CELLS[wildcards.cell]["does"], sort_keys=True)
        threads: lambda wildcards: CELLS[wildcards.cell]["needs"]["cores"]
        retries: config["retries"]
        resources:
            attempt=lambda wildcards, attempt: attempt,
            mem_mb=needs("mem_mb"),
            runtime=needs(ON + "minutes"),
            gpu=lambda wildcards: CELLS[wildcards.cell]["needs"]["gpus"] if ON else 0,
        shell:
            "{PYTHON} -m labkit.sweeps cell " + SWEEP + " --does {params:q}"
            " --attempt {resources.attempt} > {log} 2>&1"
