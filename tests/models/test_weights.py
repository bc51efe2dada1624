"""Files of weights: whole, in pieces, and such as must be refused."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vbcli.errors import VbcliError
from vbcli.models.weights import read_folder_weights, read_weights, weight_files


class Planted:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_files_that_are_no_weights_are_refused_and_never_run(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    (tmp_path / "pickled.pt").write_bytes(pickle.dumps(Planted(planted)))
    torch.save({"a": Planted(planted)}, tmp_path / "saved.pt")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "zip.pt").write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "odd.pt").write_bytes(b"\x80\x02.")
    (tmp_path / "text.safetensors").write_text("no weights")
    good, damaged = io.BytesIO(), random.Random(0)
    torch.save({"a": torch.zeros(3), "b": torch.ones(2, 2)}, good, _use_new_zipfile_serialization=False)
    for i in range(60):
        data = bytearray(good.getvalue())
        data[damaged.randrange(20, 200)] = damaged.randrange(256)
        (tmp_path / f"{i}.damaged").write_bytes(data)
    for path in sorted(tmp_path.glob("*.damaged")):
        with contextlib.suppress(VbcliError):  # some bytes matter to nobody
            read_weights(path)
    for path in sorted(tmp_path.glob("*.[ps]*")):
        with pytest.raises(VbcliError, match=str(path)):
            read_weights(path)
    assert not planted.exists()
    with pytest.raises(VbcliError, match=r"none\.pt does not exist"):
        read_weights(tmp_path / "none.pt")


def test_a_folder_in_pieces_is_read_whole(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "model-1.safetensors")
    save_file({"b": torch.ones(2), "c": torch.ones(1)}, tmp_path / "model-2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}}))
    assert {name: len(value) for name, value in read_folder_weights(tmp_path).items()} == {"a": 3, "b": 2, "c": 1}
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(VbcliError, match=r"model-2\.safetensors does not exist"):
        weight_files(tmp_path)
    for text in ("{}", "[]", '{"weight_map": {"a": "../secret.safetensors"}}', '{"weight_map": {"a": "/etc/passwd"}}'):
        index.write_text(text)
        with pytest.raises(VbcliError, match="is not an index of weight files"):
            weight_files(tmp_path)
    index.unlink()
    with pytest.raises(VbcliError, match="holds no weights"):
        weight_files(tmp_path)
