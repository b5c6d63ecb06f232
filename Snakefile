"""From chapters to executed notebooks, to the site and to recorded results.

snakemake --cores 2                                   every chapter in profile quick, seed 0, then the site
snakemake --cores 2 --config chapters=attention       only that chapter, and no site
snakemake --cores 2 --config seeds=10..14             the first look of every claim; runs are added to data/results
snakemake --executor slurm --jobs 20 --config seeds=10..14 profile=full

The same command goes on with what is missing. Each run says how many are done, have failed, and the time that is left.

Snakemake deletes a rule's outputs before a job and after a failure. So the outputs here are stamps, and the runner
owns the notebooks. A stamp's name holds a digest of what the job depends on: no modification times are compared.
Each job deletes its older stamps, so that going back to an earlier version runs it again.
"""

import shlex
import sys

sys.path.insert(0, workflow.basedir)  # the snakemake command does not look for modules here

from book.tools.layout import Book
from book.tools.stamps import Stamps
from book.tools.sweep import begin

BOOK = Book()
try:
    STAMPS = Stamps(BOOK, config)
except ValueError as error:
    sys.exit(str(error))  # in one line, which --quiet leaves
PYTHON = shlex.quote(sys.executable)
THREADS = {"quick": 1, "colab": 2, "full": 2}  # as tformerlib.parameters sets them


wildcard_constraints:
    chapter="[a-z_0-9]+",
    profile="quick|colab|full",
    seed="[0-9]+",
    digest="[0-9a-f]+",


workdir: workflow.basedir
localrules: all, results, site


rule all:
    input:
        STAMPS.targets,


rule results:
    input:
        STAMPS.chapters,
    output:
        touch("build/stamps/results.{digest}"),
    params:
        names=" ".join(STAMPS.names),
    shell:
        "rm -f build/stamps/results.* && {PYTHON} -m book.tools.results {params.names}"


rule chapter:
    output:
        touch("build/stamps/{profile}/{chapter}-s{seed}.{digest}"),
    params:
        position=lambda wildcards: STAMPS.position(wildcards.chapter, wildcards.seed),
        keep="--keep" if "earlier" in config else "",
        log=shlex.quote(str(STAMPS.log)),
    threads: lambda wildcards: THREADS[wildcards.profile]
    resources:
        gpu=lambda wildcards: 0 if wildcards.profile == "quick" else 1,
        mem_mb=lambda wildcards: {"quick": 4096, "colab": 12288, "full": 32768}[wildcards.profile],  # for clusters
        runtime=lambda wildcards: {"quick": 30, "colab": 60, "full": 240}[wildcards.profile],  # minutes
    shell:
        "rm -f build/stamps/{wildcards.profile}/{wildcards.chapter}-s{wildcards.seed}.* && "
        "{PYTHON} -m book.tools.execute {wildcards.chapter} --profile {wildcards.profile}"
        " --seed {wildcards.seed} --position {params.position}"
        " --sweep {params.log} {params.keep}"


rule site:
    input:
        STAMPS.chapters,
    output:
        touch("build/stamps/site.{digest}"),
    params:
        names=" ".join(STAMPS.names),
    shell:
        "rm -f build/stamps/site.* && {PYTHON} -m book.tools.lint {params.names} && "
        "{PYTHON} -m book.tools.site build && {PYTHON} -m book.tools.site check"


onstart:
    begin(STAMPS.log, STAMPS.missing)


onerror:
    failed = STAMPS.failed()
    print(f"\n{len(failed)} of {len(STAMPS.jobs)} runs failed" if failed else "\nthe build failed", file=sys.stderr)
    for path in failed:
        print(f"  {path}", file=sys.stderr)
