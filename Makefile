# Every target sets up .venv first; where it is up to date that takes no time.
# Not named PYTHON: that is the reader's, for environment.py.
VENV := .venv/bin/python
SNAKEMAKE := $(VENV) -m snakemake --cores all --resources gpu=1 --keep-going --quiet host progress rules reason --nolock

.PHONY: book test verify gpu serve notebooks lint environment clean

book: environment  ## execute every chapter, build and check the website
	@$(SNAKEMAKE)
	@$(VENV) -m book.tools.serve --where

test: environment  ## the whole fast suite
	@$(VENV) -m pytest -n 2

verify: book  ## execute everything once more and compare the outputs
	@$(VENV) -m book.tools.verify

gpu: environment  ## measure everything that needs a GPU; goes on where it stopped
	@$(VENV) -m benchmarks.gpu

serve: environment  ## open the website that `make book` built
	@$(VENV) -m book.tools.serve

notebooks: environment  ## build/notebooks/*.ipynb, to open or to give to papermill
	@$(VENV) -m book.tools.notebooks

lint: environment  ## chapters, code, spelling
	@$(VENV) -m book.tools.lint && $(VENV) -m ruff check && $(VENV) -m mypy && $(VENV) -m codespell_lib

environment:
	@for python in "$$PYTHON" python3 python python3.11 python3.12 python3.13; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' > /dev/null 2>&1; then \
	    exec "$$python" book/tools/environment.py; fi; done; \
	echo "The book needs Python 3.11, 3.12 or 3.13; none is on the PATH. Set PYTHON=/path/to/python." >&2; exit 1

clean:  ## delete everything generated but the environment
	rm -rf build .snakemake
