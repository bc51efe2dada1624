"""Two processes that train together (gloo, on the CPU) end with the weights of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from vbcli.config import BartConfig, VideoBertConfig
from vbcli.models.bart import BartDecoder, Captioner
from vbcli.models.videobert import VideoBert
from vbcli.textvocab import train_text_vocabulary
from vbcli.training.batches import SegmentRow, VideoTokens
from vbcli.training.captioning import CaptionTask
from vbcli.training.pretrain import PretrainTask
from vbcli.training.trainer import TrainConfig, Trainer

TASKS = ("pretrain", "caption")
SAID = ("a red ball", "a blue box")


def video(i: int) -> VideoTokens:
    rng = np.random.default_rng(i)
    tokens = rng.integers(0, 5, 3 + i % 4).astype(np.int32)
    said = SAID[i % 2]
    segment = SegmentRow(f"{i}.mp4", 0, 1, tokens, rng.normal(size=(len(tokens), 4)).astype(np.float32), said)
    return VideoTokens(f"{i}.mp4", [segment], [said], "train")


def train(name: str, out: Path, n_processes: int) -> None:
    """Trains a task as one of `n_processes`, the first of which writes its weights."""
    text = train_text_vocabulary(list(SAID))
    torch.manual_seed(0)
    encoder = VideoBert(VideoBertConfig(1, 16, 2, 32, n_text_tokens=text.n_tokens, n_visual_tokens=5, feature_dim=4))
    videos = [video(i) for i in range(13)]
    if name == "pretrain":
        task = PretrainTask(encoder, text, videos, videos[:3])
    else:
        decoder = BartDecoder(BartConfig(1, 1, 16, 2, 32, text.n_tokens, pad_token_id=text.pad_id))
        task = CaptionTask(Captioner(encoder, decoder), text, videos, videos[:3])
    accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    assert accelerator.num_processes == n_processes
    # The last step of an epoch has one row for two processes.
    config = TrainConfig(max_steps=7, batch_size=4, accumulation=2, warmup_steps=1, eval_every=7)
    Trainer(task, config, out, {}, lambda now: None, accelerator).run()
    if accelerator.is_main_process:
        torch.save(task.model.state_dict(), out / "weights.pt")


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes make of each task, one after the other: starting them takes most of the time."""
    out = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "tests.training.test_distribution", out]
    processes = [
        subprocess.Popen(
            command,
            cwd=Path(__file__).parents[2],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, messages = process.communicate(timeout=120)
        assert process.returncode == 0, messages
    return out


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_end_with_the_weights_of_one(task: str, of_two: Path, tmp_path: Path) -> None:
    train(task, tmp_path, 1)
    one, two = (torch.load(out / "weights.pt", weights_only=True) for out in (tmp_path, of_two / task))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=2e-5, msg=name)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in TASKS:
        train(each, Path(sys.argv[1]) / each, 2)
