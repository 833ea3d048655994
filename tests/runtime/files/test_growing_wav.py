"""A WAV file that is written piece by piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wavernn_trt.runtime.files import growing_wav as module
from wavernn_trt.runtime.files.audio import write_wav
from wavernn_trt.runtime.files.growing_wav import growing_wav


def test_pieces_make_the_file_of_the_whole(tmp_path: Path) -> None:
    waveform = np.random.default_rng(0).uniform(-1.2, 1.2, 1000).astype(np.float32)
    with growing_wav(tmp_path / "deep" / "pieces.wav", 16000) as wav:
        for piece in np.split(waveform, [0, 3, 700]):
            wav.write(piece)
    write_wav(tmp_path / "whole.wav", waveform, 16000)
    assert (tmp_path / "deep" / "pieces.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()


def test_an_error_leaves_the_former_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"former")
    with pytest.raises(AttributeError), growing_wav(tmp_path / "a.wav", 16000) as wav:
        wav.write(None)  # type: ignore[arg-type]
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.wav", b"former")]


def test_more_than_a_wav_file_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 40)
    with pytest.raises(ValueError, match="holds 4 GiB at most"), growing_wav(tmp_path / "a.wav", 8000) as wav:
        wav.write(np.zeros(21, np.float32))
    assert list(tmp_path.iterdir()) == []
