"""Files that appear whole or not at all, and folders that are free."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vbcli.errors import VbcliError
from vbcli.files import check_free, read_json, write_json


def test_an_exclusive_write_leaves_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "plan.json"
    assert write_json(path, {"é": 1}, is_exclusive=True)
    assert not write_json(path, {"é": 2}, is_exclusive=True)
    assert read_json(path) == {"é": 1}
    assert write_json(path, [2])
    assert json.loads(path.read_text(encoding="utf-8")) == [2]
    assert os.listdir(path.parent) == ["plan.json"]


def test_a_file_that_is_replaced_is_whole_for_who_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_json(path, "before")
    with path.open() as reader:
        write_json(path, "after")
        assert json.load(reader) == "before"
    assert read_json(path) == "after"


def test_exactly_one_of_several_processes_claims_a_name(tmp_path: Path) -> None:
    code = "import sys; from vbcli.files import write_atomic; from pathlib import Path\n"
    code += "print(write_atomic(Path(sys.argv[1]), sys.argv[2].encode(), is_exclusive=True))"
    runs = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "plan", str(i)], stdout=subprocess.PIPE) for i in range(3)]
    won = [i for i, run in enumerate(runs) if run.communicate()[0] == b"True\n"]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert [(tmp_path / "plan").read_text()] == [str(i) for i in won]


def test_json_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(VbcliError, match=f"{tmp_path / 'plan.json'} does not exist"):
        read_json(tmp_path / "plan.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(VbcliError, match=f"{tmp_path / 'folder.json'} cannot be read: Is a directory"):
        read_json(tmp_path / "folder.json")
    assert os.listdir(tmp_path) == ["folder.json"]


def test_a_folder_is_free_when_it_holds_nothing_but_what_a_killed_run_left(tmp_path: Path) -> None:
    check_free(tmp_path / "new")
    check_free(tmp_path)
    (tmp_path / ".model.tmp-host-1").touch()
    (tmp_path / "vocab").mkdir()
    check_free(tmp_path, ("vocab",))
    for taken in (tmp_path, tmp_path / ".model.tmp-host-1"):
        with pytest.raises(VbcliError, match=f"{taken} exists and is not an empty folder"):
            check_free(taken)
