"""Guards hints about packages that are missing: a folder that is taken for one."""

from llava_pl.packages import is_installed


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    """W&B writes into `wandb/` where a run starts, which Python would take for a package without files."""
    (tmp_path / "no_such_module").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("no_such_module")
    (tmp_path / "no_such_module" / "__init__.py").touch()
    assert is_installed("no_such_module")
