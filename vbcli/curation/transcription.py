"""Speech recognition by faster-whisper: subtitles beside videos that have none, which every other command then finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbcli.errors import ItemFailure, MediaError, UsageError, VbcliError
from vbcli.files import write_atomic
from vbcli.listing import file_of, list_videos
from vbcli.media.decode import Decoder
from vbcli.runner import no_note
from vbcli.storage import as_path, fetch_folder, is_remote, split_member
from vbcli.text.speech import TranscriptSegment
from vbcli.text.transcripts import find_sidecar, format_vtt

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

SAMPLE_RATE = 16_000


@dataclass
class TranscribeReport:
    """What was done: sidecars by video, videos that had one already, those without sound or speech, and failures."""

    written: dict[str, str] = field(default_factory=dict)
    n_there: int = 0
    silent: list[str] = field(default_factory=list)
    failures: list[ItemFailure] = field(default_factory=list)


def load_recogniser(name: str, threads: int) -> WhisperModel:
    """Loads a Whisper model in the format of CTranslate2.

    Args:
        name: a folder, here or in a store, or a name such as `small` or `Systran/faster-whisper-small`, which is downloaded.

    Raises:
        VbcliError: the package is missing, or the model cannot be loaded.
    """
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise VbcliError("vbcli transcribe needs the package faster-whisper", hint="pip install 'vbcli[asr]'") from error
    place = as_path(name)
    folder = fetch_folder(place) if is_remote(place) else place
    if folder.is_dir() and not (folder / "model.bin").is_file():
        raise VbcliError(f"{name} is no Whisper model of CTranslate2: it has no model.bin", hint="convert it: ct2-transformers-converter")
    if not folder.is_dir() and name.startswith((".", "/")):
        raise VbcliError(f"{name} does not exist", hint="name a folder with a Whisper model of CTranslate2, or a model's name")
    try:
        source = str(folder) if folder.is_dir() else name
        return WhisperModel(source, device="cpu", compute_type="default", cpu_threads=threads, local_files_only=folder.is_dir())
    except (OSError, RuntimeError, ValueError) as error:
        cause = str(error).partition("\n")[0]
        raise VbcliError(
            f"the Whisper model {name} cannot be loaded: {cause}", hint="without a network, name a folder with model.bin and tokenizer.json"
        ) from error


def transcribe_folder(
    videos_dir: Path,
    recogniser: Any,
    decoder: Decoder,
    *,
    language: str | None = None,
    on_note: Callable[[str], None] = no_note,
    on_progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> TranscribeReport:
    """Writes `<video>.<language>.vtt` beside each video that has no subtitles.

    Args:
        recogniser: of `load_recogniser`.
        language: such as `en`; None has it recognised, video by video.
        on_note: called with sentences on what is passed over.

    Raises:
        UsageError: the model does not know the language.
        VbcliError: there are no videos, or nothing can be written beside them.
    """
    if language is not None and language not in recogniser.supported_languages:
        raise UsageError(f"--language is '{language}', which the model does not know", hint="name a code such as en or de")
    report = TranscribeReport()
    listed, notes = list_videos(videos_dir, follows_links=decoder.follows_links)
    found = [video for video in listed if split_member(video.path) is None]
    hint = "unpack them: subtitles are written beside videos"
    if not found:
        raise VbcliError(f"{videos_dir} holds videos in tar files alone", hint=hint)
    if len(found) < len(listed):
        notes.append(f"{len(listed) - len(found)} videos in tar files are passed over; {hint}")
    for sentence in notes:
        on_note(sentence)
    for done, video in enumerate(found):
        on_progress(done, len(found), video.video_id)
        path = file_of(video)
        if find_sidecar(path) is not None:
            report.n_there += 1
            continue
        try:
            decoder.check_link(video.video_id, video.path)
            if not decoder.probe(video.path).has_audio:
                report.silent.append(video.video_id)
                continue
            segments, spoken = _recognise(recogniser, decoder, video.path, language)
        except MediaError as error:
            report.failures.append(ItemFailure(video.video_id, "transcribe", type(error).__name__, error.message))
            continue
        if not segments:
            report.silent.append(video.video_id)
            continue
        sidecar = path.with_name(f"{path.stem}.{spoken}.vtt")
        write_atomic(sidecar, format_vtt(segments).encode())
        report.written[video.video_id] = str(sidecar)
    on_progress(len(found), len(found), "")
    return report


def _recognise(recogniser: Any, decoder: Decoder, path: str, language: str | None) -> tuple[list[TranscriptSegment], str]:
    sound = decoder.sound(path, SAMPLE_RATE)
    found, info = recogniser.transcribe(sound, language=language, condition_on_previous_text=False)
    end_s = len(sound) / SAMPLE_RATE
    segments = [
        TranscriptSegment(max(0.0, s.start), max(s.start, min(s.end, end_s)), " ".join(s.text.split())) for s in found if s.start < end_s
    ]
    return [segment for segment in segments if segment.text], info.language
