"""tf.parameters refuses what papermill mistypes or ignores."""

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import tformerlib as tf
from tformerlib.run.records import MIME


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"profile": "qiuck", "seed": 0}, ValueError, "profile='qiuck' is not one of quick, colab, full"),
        ({"profile": "quick", "seed": "1.5"}, TypeError, "seed='1.5' is a str"),
        ({"profile": "quick", "seed": 1.5}, TypeError, "seed=1.5 is a float"),
        ({"profile": "quick", "seed": True}, TypeError, "seed=True is a bool"),
        ({"profile": "quick", "seed": -1}, ValueError, "seed=-1"),
        ({"profile": None, "seed": 0}, ValueError, "profile=None"),
    ],
)
def test_refuses_by_value(given, error, message):
    with pytest.raises(error, match=message):
        tf.parameters(**given)


def test_seeds_are_set_and_differ():
    first = [tf.parameters(profile="quick", seed=s) and torch.rand(3).tolist() for s in (1, 1, 2)]
    assert first[0] == first[1] != first[2]


def test_larger_profiles_have_two_threads_and_the_environment_can_take_one(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    before = torch.get_num_threads()
    for limit, threads in ((None, 2), ("16", 2), ("", 2), ("many", 2), ("1", 1), ("1,4", 1), ("0", 1)):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if limit is not None:
            monkeypatch.setenv("OMP_NUM_THREADS", limit)
        assert tf.parameters(profile="colab", seed=0).threads == torch.get_num_threads() == threads, limit
        assert tf.parameters(profile="quick", seed=0).threads == torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_pick_follows_the_profile():
    assert tf.parameters(profile="colab", seed=0).pick(quick=1, colab=2, full=3) == 2


def test_checkpoints_have_names_of_their_own_that_the_next_run_finds_again(monkeypatch, tmp_path):
    monkeypatch.delenv("TFORMER_CHECKPOINTS", raising=False)
    assert tf.parameters(profile="full", seed=0).checkpoint("ViT, 500 images") is None
    monkeypatch.setenv("TFORMER_CHECKPOINTS", str(tmp_path))
    runs = [tf.parameters(profile="full", seed=0) for _ in range(2)]
    first, second = ([run.checkpoint(name) for name in ("ViT, 500 images", "ViT", "ViT")] for run in runs)
    assert first == second == [tmp_path / f"{name}.pt" for name in ("vit-500-images-1", "vit-1", "vit-2")]


def run_cells(*sources: str) -> nbformat.NotebookNode:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return notebook


def test_in_a_notebook_unread_names_are_refused_and_the_run_is_recorded():
    call = "import tformerlib as tf\nrun = tf.parameters(profile=profile, seed=seed)"
    good = run_cells("profile, seed = 'quick', 0", "# Parameters\nseed = 3\n", call)
    record = good.cells[-1].outputs[0].data[MIME]
    assert record["kind"] == "run" and record["seed"] == 3 and record["torch"] == torch.__version__
    with pytest.raises(CellExecutionError, match="unknown parameter 'sede'; this chapter has profile, seed"):
        run_cells("profile, seed = 'quick', 0", "# Parameters\nsede = 3\n", call)
