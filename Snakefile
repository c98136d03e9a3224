"""From notebooks to pages: execute every chapter, stage the results with the prose, build the book."""

import sys

from labkit.book import sources

configfile: "workflow.yaml"

CHAPTERS = list(config["chapters"])
PYTHON = sys.executable


localrules: book, executed, pages


rule book:
    input: "_build/html/index.html"


rule executed:
    input: expand("_build/executed/{chapter}.ipynb", chapter=CHAPTERS)


rule execute:
    input:
        notebook="notebooks/{chapter}.ipynb",
        package=sources.package(),
        constraints=sources.CONSTRAINTS,
        published=sources.PUBLISHED,
        records=lambda wildcards: sources.records(wildcards.chapter),
    output: "_build/executed/{chapter}.ipynb"
    log: "_build/logs/{chapter}.log"
    benchmark: "_build/benchmarks/{chapter}.tsv"
    params: lambda wildcards: sources.parameters(config, wildcards.chapter)
    threads: config["threads"]
    retries: config["retries"]
    resources: attempt=lambda wildcards, attempt: attempt
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
