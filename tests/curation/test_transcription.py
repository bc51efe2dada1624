"""Speech recognition with a small Whisper of random weights: what it hears means nothing, where it goes does."""

from __future__ import annotations

import json
import shutil
import string
import tarfile
from pathlib import Path

import av
import ctranslate2
import numpy as np
import pytest
import tokenizers
import torch
import transformers

from tests.conftest import MakeVideo, run_ffmpeg
from tests.e2e.commands import vbcli
from vbcli.curation.transcription import SAMPLE_RATE, load_recogniser, transcribe_folder
from vbcli.errors import MediaError, VbcliError
from vbcli.files import write_atomic
from vbcli.media.decode import Decoder
from vbcli.media.program import find_ffmpeg
from vbcli.storage import as_path, copy_folder
from vbcli.text.transcripts import read_transcript

LANGUAGES = ("en", "de", "fr")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved by transformers and converted by CTranslate2, as a published one is."""
    folder = tmp_path_factory.mktemp("whisper")
    words = [*tokenizers.pre_tokenizers.ByteLevel.alphabet(), *(f"\u0120{letter}" for letter in string.ascii_lowercase)]
    special = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{language}|>" for language in LANGUAGES)]
    special += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    special += [f"<|{i * 0.02:.2f}|>" for i in range(1501)]
    vocabulary = {word: i for i, word in enumerate([*words, *special])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(text, special=True) for text in special])
    start, end = vocabulary["<|startoftranscript|>"], vocabulary["<|endoftext|>"]
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=len(vocabulary),
        d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        decoder_start_token_id=start,
        eos_token_id=end,
        bos_token_id=end,
        pad_token_id=end,
    )
    network = transformers.WhisperForConditionalGeneration(config)
    network.generation_config.update(
        lang_to_id={f"<|{language}|>": vocabulary[f"<|{language}|>"] for language in LANGUAGES},
        alignment_heads=[[0, 0]],
        suppress_tokens=[],
        begin_suppress_tokens=[end],
    )
    network.save_pretrained(folder / "saved")
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", unk_token="<|endoftext|>")
    wrapped.save_pretrained(folder / "saved")
    transformers.WhisperFeatureExtractor().save_pretrained(folder / "saved")
    ctranslate2.converters.TransformersConverter(str(folder / "saved"), copy_files=["tokenizer.json"]).convert(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, make_video: MakeVideo) -> Path:
    folder = tmp_path_factory.mktemp("spoken")
    make_video(folder / "spoken.mp4", duration_s=2, audio=True)
    make_video(folder / "more" / "other.mp4", duration_s=3, audio=True)
    make_video(folder / "silent.mp4")
    make_video(folder / "told.mp4", audio=True)
    (folder / "told.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello.\n")
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def test_subtitles_are_written_beside_videos_that_have_none(model: Path, videos: Path, tmp_path: Path) -> None:
    shutil.copytree(videos, tmp_path / "videos")
    said = vbcli("transcribe", "videos", "--model", model, "--language", "en", "--json", cwd=tmp_path, status=3)
    report = json.loads(said.stdout)
    heard = set(report["written"])
    assert heard | set(report["silent"]) == {"spoken.mp4", "more/other.mp4", "silent.mp4"}
    assert "silent.mp4" in report["silent"]
    assert (report["n_there"], [f["video_id"] for f in report["failures"]]) == (1, ["broken.mp4"])
    for name in heard:
        path = Path(report["written"][name])
        assert path == (tmp_path / "videos" / name).with_suffix("").with_name(f"{Path(name).stem}.en.vtt")
        with av.open(str(tmp_path / "videos" / name)) as container:
            length_s = (container.duration or 0) / av.time_base
        transcript = read_transcript(path)
        assert transcript is not None
        assert all(0 <= s.start_s <= s.end_s <= length_s + 0.1 for s in transcript.segments)
    again = json.loads(vbcli("transcribe", "videos", "--model", model, "--language", "en", "--json", cwd=tmp_path, status=3).stdout)
    # The model hears what its dice say: what it heard nothing in, it may hear something in now.
    assert not heard & set(again["written"])
    assert again["n_there"] == 1 + len(heard)
    refused = vbcli("transcribe", "videos", "--model", model, "--language", "english", cwd=tmp_path, status=2).stderr
    assert "--language is 'english', which the model does not know" in " ".join(refused.split())


def test_a_model_in_a_store_hears_what_the_one_here_does(model: Path, tmp_path: Path) -> None:
    there = as_path(f"memory://{tmp_path.name}/model")
    copy_folder(model, there)
    sound = np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    heard = [
        [segment.tokens for segment in load_recogniser(str(path), 1).transcribe(sound, "en", temperature=0)[0]] for path in (model, there)
    ]
    assert heard[0] == heard[1] != []
    there.parent.rmdir(recursive=True)  # type: ignore[call-arg]
    with pytest.raises(VbcliError, match=f"{there} does not exist"):
        load_recogniser(str(there), 1)


class Stub:
    """Stands for a recogniser that hears something for certain: what is asked of it is real sound."""

    def transcribe(self, sound: np.ndarray, language: str | None, condition_on_previous_text: bool):
        assert sound.dtype == np.float32
        self.length_s = len(sound) / SAMPLE_RATE
        segment = type("Segment", (), {"start": 0.25, "end": self.length_s + 5, "text": "  two\n words "})
        return iter([segment]), type("Info", (), {"language": language or "fr"})


def test_what_is_heard_is_what_stands_in_the_file(videos: Path, tmp_path: Path) -> None:
    shutil.copy(videos / "spoken.mp4", tmp_path / "spoken.mp4")
    report = transcribe_folder(tmp_path, Stub(), Decoder(find_ffmpeg()))
    assert report.written == {"spoken.mp4": str(tmp_path / "spoken.fr.vtt")}
    (segment,) = read_transcript(tmp_path / "spoken.fr.vtt").segments  # type: ignore[union-attr]
    assert (segment.start_s, segment.text) == (0.25, "two words")
    assert segment.end_s == pytest.approx(2, abs=0.1)


def test_videos_that_are_passed_over_are_told(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    shutil.copy(videos / "told.mp4", tmp_path / "videos" / "told.mp4")
    shutil.copy(videos / "told.srt", tmp_path / "videos" / "told.srt")
    with tarfile.open(tmp_path / "videos" / "more.tar", "w") as tar:
        tar.add(videos / "silent.mp4", "silent.mp4")
    (tmp_path / "videos" / "linked").symlink_to(videos)
    notes: list[str] = []
    report = transcribe_folder(tmp_path / "videos", Stub(), Decoder(find_ffmpeg()), on_note=notes.append)
    assert (report.n_there, report.written, report.silent) == (1, {}, [])
    assert notes == [
        "1 linked folders are passed over, first linked; --follow-links takes them",
        "1 videos in tar files are passed over; unpack them: subtitles are written beside videos",
    ]


def test_subtitles_of_videos_in_a_store_go_to_the_store(videos: Path, tmp_path: Path) -> None:
    folder = as_path(f"memory://{tmp_path.name}")
    for name in ("spoken.mp4", "told.mp4", "told.srt"):
        write_atomic(folder / "sub" / name, (videos / name).read_bytes())
    report = transcribe_folder(folder, Stub(), Decoder(find_ffmpeg()))
    assert report.written == {"sub/spoken.mp4": f"{folder}/sub/spoken.fr.vtt"}
    assert (report.n_there, report.failures) == (1, [])
    transcript = read_transcript(folder / "sub" / "spoken.fr.vtt")
    assert transcript is not None
    assert [s.text for s in transcript.segments] == ["two words"]
    # The next run finds them where they are.
    assert transcribe_folder(folder, Stub(), Decoder(find_ffmpeg())).n_there == 2
    folder.rmdir(recursive=True)  # type: ignore[call-arg]


def test_sound_is_mixed_and_begins_with_its_container(tmp_path: Path, ffmpeg_exe: str) -> None:
    tone = ["-itsoffset", "0.5", "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100:duration=1.5,pan=stereo|c0=c0|c1=0*c0"]
    run_ffmpeg(ffmpeg_exe, "-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=2", *tone, str(tmp_path / "a.mp4"))
    sound = Decoder(ffmpeg_exe).sound(str(tmp_path / "a.mp4"), SAMPLE_RATE)
    assert len(sound) / SAMPLE_RATE == pytest.approx(2, abs=0.06)
    assert np.abs(sound[: int(0.4 * SAMPLE_RATE)]).max() < 1e-3
    loud = sound[SAMPLE_RATE : SAMPLE_RATE + 8000]
    assert np.abs(np.fft.rfft(loud)).argmax() * 2 == pytest.approx(440, abs=4)
    run_ffmpeg(ffmpeg_exe, "-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=1", str(tmp_path / "mute.mp4"))
    with pytest.raises(MediaError, match=r"mute\.mp4 has no sound"):
        Decoder(ffmpeg_exe).sound(str(tmp_path / "mute.mp4"), SAMPLE_RATE)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VbcliError, match=r"has no model\.bin"):
        load_recogniser(str(tmp_path), 1)
    with pytest.raises(VbcliError, match="does not exist"):
        load_recogniser("./nowhere", 1)
    (tmp_path / "model.bin").write_bytes(b"no model")
    with pytest.raises(VbcliError, match="cannot be loaded"):
        load_recogniser(str(tmp_path), 1)
