# Every target sets up .venv first; where it is up to date that takes no time.
PYTHON := .venv/bin/python
SNAKEMAKE := $(PYTHON) -m snakemake --cores all --resources gpu=1 --keep-going --quiet host progress rules reason --nolock

.PHONY: book test verify gpu serve notebooks lint environment clean

book: environment  ## execute every chapter, build and check the website
	@$(SNAKEMAKE)
	@$(PYTHON) -m book.tools.serve --where

test: environment  ## the whole fast suite
	@$(PYTHON) -m pytest -n 2

verify: book  ## execute everything once more and hold outputs against outputs
	@$(PYTHON) -m book.tools.verify

gpu: environment  ## measure everything that needs a GPU; goes on where it stopped
	@$(PYTHON) -m benchmarks.gpu

serve: environment  ## open the website that `make book` built
	@$(PYTHON) -m book.tools.serve

notebooks: environment  ## build/notebooks/*.ipynb, to open or to give to papermill
	@$(PYTHON) -m book.tools.notebooks

lint: environment  ## chapters, code, spelling
	@$(PYTHON) -m book.tools.lint && $(PYTHON) -m ruff check && $(PYTHON) -m mypy && $(PYTHON) -m codespell_lib

environment:
	@$$(command -v python3 || command -v python) book/tools/environment.py

clean:  ## delete everything generated but the environment
	rm -rf build .snakemake
