"""Recordings in all formats, from pipes, truncated and damaged."""

from __future__ import annotations

import contextlib
import io
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.files.audio import read_audio
from wavernn_trt.runtime.files.recording import read_recording, recording_seconds

RATE = 16000


def signal(samples: int = 16000) -> NDArray[np.float32]:
    """A tone with noise, so that codecs need many bytes."""
    noise = np.random.default_rng(0).standard_normal(samples)
    return (0.3 * np.sin(np.arange(samples) * 0.1) + 0.05 * noise).astype(np.float32)


def encoded(kind: str, subtype: str | None = None, samples: int = 16000, **options: Any) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, signal(samples), RATE, format=kind, subtype=subtype, **options)
    return stream.getvalue()


def read(content: bytes) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    recording = read_recording("x", content)
    assert recording.sample_rate == RATE
    return recording.samples, recording.warnings


@pytest.fixture(scope="module")
def wav() -> bytes:
    """One second in 16 bits after a header of 44 bytes."""
    content = encoded("WAV")
    assert content[36:40] == b"data"
    return content


KINDS: list[tuple[str, str | None]] = [
    ("WAV", None),
    ("WAV", "ULAW"),
    ("WAV", "IMA_ADPCM"),
    ("WAV", "GSM610"),
    ("WAVEX", "PCM_24"),
    ("RF64", None),
    ("AIFF", None),
    ("AU", None),
    ("AU", "G721_32"),
    ("CAF", None),
    ("W64", "FLOAT"),
    ("FLAC", None),
    ("MP3", None),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("VOC", None),
    ("PAF", None),
    ("XI", "DPCM_16"),
]


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_every_format_is_read_without_a_warning(tmp_path: Path, kind: str, subtype: str | None) -> None:
    content = encoded(kind, subtype)
    path = tmp_path / "a"
    path.write_bytes(content)
    recording = read_recording(path)
    assert recording.warnings == ()
    expected = soundfile.SoundFile(io.BytesIO(content)).frames
    assert len(recording.samples) == expected >= 16000
    if kind != "XI":
        assert np.corrcoef(recording.samples[:16000], signal())[0, 1] > 0.8
        assert recording_seconds(path) == expected / recording.sample_rate
    assert np.array_equal(read_recording("x", content).samples, recording.samples)


def test_channels_are_mixed_down_over_several_blocks(tmp_path: Path) -> None:
    left, right = signal(400_000), np.zeros(400_000, np.float32)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right, left, right], 1), RATE, subtype="FLOAT")
    np.testing.assert_array_equal(read_recording(tmp_path / "a.wav").samples, left / 2)


@pytest.mark.parametrize("riff", [0, 0xFFFFFFFF, None])
@pytest.mark.parametrize("data", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF])
def test_a_wav_of_unknown_length_is_read_to_the_end(wav: bytes, riff: int | None, data: int) -> None:
    """As programs write it into a pipe."""
    sizes = wav[4:8] if riff is None else struct.pack("<I", riff)
    samples, warnings = read(wav[:4] + sizes + wav[8:40] + struct.pack("<I", data) + wav[44:])
    assert warnings == ()
    np.testing.assert_array_equal(samples, read(wav)[0])


@pytest.mark.parametrize("kind", ["W64", "CAF", "RF64", "AU", "AIFF", "RIFX", "WAVEX"])
@pytest.mark.parametrize("unknown", [0, -1, 2**31 - 1])
def test_other_formats_of_unknown_length_are_read_to_the_end(kind: str, unknown: int) -> None:
    content = encoded("WAV", endian="BIG") if kind == "RIFX" else encoded(kind)
    place, form = {
        "W64": (content.find(b"data") + 16, "<q"),
        "CAF": (content.find(b"data") + 4, ">q"),
        "RF64": (content.find(b"ds64") + 16, "<q"),
        "AU": (8, ">i"),
        "AIFF": (content.find(b"SSND") + 4, ">i"),
        "RIFX": (content.find(b"data") + 4, ">i"),
        "WAVEX": (content.find(b"data") + 4, "<i"),
    }[kind]
    value = 2**63 - 1 if form[1] == "q" and unknown > 0 else unknown
    field = struct.pack(form, value)
    samples, warnings = read(content[:place] + field + content[place + len(field) :])
    assert warnings == ()
    np.testing.assert_array_equal(samples, read(content)[0])


def test_the_duration_of_a_wav_of_unknown_length_is_that_of_its_file(tmp_path: Path, wav: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(wav[:40] + bytes(4) + wav[44:])
    assert recording_seconds(tmp_path / "a.wav") == 1.0


def test_chunks_around_the_samples_are_not_samples(wav: bytes) -> None:
    odd = b"LIST" + struct.pack("<I", 5) + b"INFOx" + b"\0"
    for content in (
        wav[:36] + odd + wav[36:],
        wav + odd,
        wav[:36] + odd + wav[36:40] + struct.pack("<I", 0xFFFFFFFF) + wav[44:],
    ):
        samples, warnings = read(content)
        assert warnings == ()
        np.testing.assert_array_equal(samples, read(wav)[0])


def test_a_chunk_after_an_empty_recording_is_not_read_as_samples(wav: bytes) -> None:
    content = wav[:40] + bytes(4) + b"LIST" + struct.pack("<I", 4) + b"INFO"
    with pytest.raises(VocoderError, match=r"found no samples, expected a recording$"):
        read(content)


@pytest.mark.parametrize(("kind", "subtype"), [pair for pair in KINDS if pair[0] in ("WAV", "WAVEX", "RF64", "AIFF")])
def test_a_truncated_recording_is_read_with_a_warning(kind: str, subtype: str | None) -> None:
    kept, content = 0.3, encoded(kind, subtype)
    whole, _ = read(content)
    samples, (warning,) = read(content[: int(len(content) * kept)])
    found = re.fullmatch(r"cut short: found (\d\.\d\d) s of the (1\.0\d) s that its header states", warning)
    assert found is not None
    assert float(found[1]) == round(len(samples) / RATE, 2)
    assert abs(len(samples) / len(whole) - kept) < 0.05
    sound = len(samples) - 320  # the last block of GSM is incomplete
    np.testing.assert_array_equal(samples[:sound], whole[:sound])


@pytest.mark.parametrize("kind", ["AU", "CAF", "W64", "FLAC", "MP3", "NIST", "VOC", "SVX", "MAT4"])
def test_other_truncated_recordings_give_a_warning(kind: str) -> None:
    content = encoded(kind)
    samples, (warning,) = read(content[: int(len(content) * 0.6)])
    found = len(samples) / RATE
    assert warning.startswith(f"cut short: found {found:.2f} s ")
    assert 0.2 < found < 0.75
    if kind != "MP3":
        np.testing.assert_array_equal(samples, read(content)[0][: len(samples)])


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_stream_without_its_last_page_gives_a_warning(subtype: str) -> None:
    content = encoded("OGG", subtype, samples=80_000)
    pages = [place for place in range(len(content)) if content.startswith(b"OggS\0", place)]
    for end in (pages[-1], pages[-1] + 200):
        samples, (warning,) = read(content[:end])
        assert warning.startswith(f"cut short: found {len(samples) / RATE:.2f} s, and the Ogg stream ends before")
        assert 0 < len(samples) < 80_000
    assert read(content + b"TAG" + bytes(125))[1] == ()


def flac_of_length(content: bytes, samples: int) -> bytes:
    """A FLAC file whose STREAMINFO gives that many samples; 0 is unknown."""
    field = int.from_bytes(content[21:26], "big") >> 36 << 36 | samples
    return content[:21] + field.to_bytes(5, "big") + content[26:]


def test_a_flac_of_unknown_length_is_read_to_the_end() -> None:
    whole, _ = read(content := encoded("FLAC"))
    samples, warnings = read(flac_of_length(content, 0))
    assert warnings == ()
    np.testing.assert_array_equal(samples, whole)
    samples, (warning,) = read(flac_of_length(content, 0)[:-500])
    assert warning.startswith("damaged or cut short: it can be read for ")
    np.testing.assert_array_equal(samples, whole[: len(samples)])
    assert read(flac_of_length(content, 32_000))[1] == ("cut short: found 1.00 s of the 2.00 s that its header states",)


def test_an_mp3_of_unknown_length_is_read_to_the_end(tmp_path: Path) -> None:
    content = encoded("MP3", bitrate_mode="VARIABLE", samples=48_000)
    audible = content[content.index(b"\xff\xf3", 4) :]
    for tagged in (audible, b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + audible, audible + b"TAG" + bytes(125)):
        samples, warnings = read(tagged)
        assert warnings == ()
        assert abs(len(samples) - 48_000) < 3000
    (tmp_path / "a.mp3").write_bytes(audible)
    assert 1 < recording_seconds(tmp_path / "a.mp3") < 6, "an estimate from the first frames"


def test_a_file_truncated_in_its_header_is_refused(wav: bytes) -> None:
    with pytest.raises(VocoderError, match=r"found no samples, .*cut short: the file has 0 of the 32000 bytes"):
        read(wav[:44])
    with pytest.raises(VocoderError, match="not a recording that can be read"):
        read(wav[:30])


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.m4a", b"\0\0\0\x20ftypM4A ", "MPEG-4"),
        ("a.webm", b"\x1aE\xdf\xa3" + bytes(30), "WebM or Matroska"),
        ("it's.wma", bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), "Windows Media Audio"),
        ("a.aac", b"\xff\xf1\x50\x80" + bytes(30), "AAC"),
        ("a.amr", b"#!AMR\n" + bytes(30), "AMR"),
        ("a.ape", b"something else altogether", "Monkey's Audio"),
    ],
)
def test_the_error_of_an_unsupported_format_names_it_and_a_command_that_converts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    with pytest.raises(VocoderError, match=f"found {kind}.*, a format that libsndfile does not read") as refused:
        read_recording(name)
    quoted = name if "'" not in name else "'it'\"'\"'s.wma'"
    assert f"convert it first: ffmpeg -i {quoted} " in str(refused.value)


def test_samples_without_a_header_are_refused(tmp_path: Path) -> None:
    for name in ("a.raw", "a.au", "a.snd", "a.vox", "a.gsm"):
        (tmp_path / name).write_bytes(signal(1000).tobytes())
        with pytest.raises(VocoderError, match="not a recording that can be read"):
            read_recording(tmp_path / name)


def test_read_audio_logs_the_warnings(tmp_path: Path, wav: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.wav").write_bytes(wav[:8044])
    samples, rate = read_audio(tmp_path / "a.wav")
    assert (len(samples), rate) == (4000, RATE)
    assert "a.wav: cut short: found 0.25 s of the 1.00 s that its header states" in caplog.text


SIZES = st.sampled_from([0, 1, 2, 7, 16, 18, 36, 40, 2**16, 2**31 - 1, 2**31, 2**32 - 1]) | st.integers(0, 2**32 - 1)


@st.composite
def damaged_wavs(draw: st.DrawFn) -> bytes:
    """Chunks of RIFF, RIFX and RF64 files with arbitrary sizes, in random order, truncated anywhere."""
    form = draw(st.sampled_from(["<", "<", ">"]))
    magic = draw(st.sampled_from([b"RIFF", b"RF64"])) if form == "<" else b"RIFX"
    content = magic + struct.pack(f"{form}I", draw(SIZES)) + b"WAVE"
    tag, bits = draw(st.sampled_from([(1, 16), (1, 8), (1, 24), (3, 32), (6, 8), (7, 8), (0x11, 4), (2, 4)]))
    channels = draw(st.sampled_from([1, 2, 0, 1024, 65535]))
    rate = draw(st.sampled_from([16000, 0, 1, 2**32 - 1]))
    width = max(1, channels * bits // 8) % 65536
    described = struct.pack(f"{form}HHIIHH", tag, channels, rate, rate * width % 2**32, width, bits)
    extension = draw(st.sampled_from([b"", b"\0\0", struct.pack(f"{form}HHIH", 22, 16, 4, tag) + bytes(14)]))
    chunks = {
        b"fmt ": described + extension,
        b"data": signal(200).tobytes(),
        b"ds64": struct.pack("<qqqi", draw(SIZES), draw(SIZES), draw(SIZES), 0),
        b"LIST": b"INFO" + draw(st.binary(max_size=5)),
        b"fact": struct.pack(f"{form}I", draw(SIZES)),
    }
    order = draw(st.lists(st.sampled_from(sorted(chunks)), max_size=5))
    for name in [*draw(st.sampled_from([[], [b"fmt "], [b"ds64", b"fmt "]])), *order]:
        size = draw(st.one_of(st.just(len(chunks[name])), SIZES))
        content += name + struct.pack(f"{form}I", size) + chunks[name] + bytes(len(chunks[name]) % 2)
    return content[: draw(st.integers(0, len(content)) | st.just(len(content)))]


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@given(content=damaged_wavs() | st.binary(max_size=200))
def test_damaged_wavs_are_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(VocoderError):  # any other exception fails
        recording = read_recording("x.wav", content)
        assert recording.samples.ndim == 1
        assert len(recording.samples)
        assert np.isfinite(recording.samples).all()


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["AIFF", "AU", "CAF", "W64", "RF64", "MP3", "FLAC", "OGG"]),
    edits=st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=8), st.integers(0, 12)), max_size=4),
    kept=st.integers(0, 3000) | st.none(),
)
def test_damaged_files_of_other_formats_are_read_or_refused(
    small: dict[str, bytes],
    capfd: pytest.CaptureFixture[str],
    kind: str,
    edits: list[tuple[int, bytes, int]],
    kept: int | None,
) -> None:
    content = small[kind]
    for place, inserted, removed in edits:
        content = content[:place] + inserted + content[place + removed :]
    with contextlib.suppress(VocoderError):
        recording = read_recording("x", content[:kept])
        assert len(recording.samples)
    assert "Traceback" not in capfd.readouterr().err


@pytest.fixture(scope="module")
def small() -> dict[str, bytes]:
    return {kind: encoded(kind, samples=1000) for kind in ("AIFF", "AU", "CAF", "W64", "RF64", "MP3", "FLAC", "OGG")}
