"""Vocoders in other processes: pickled to spawned workers, and refused in forked ones."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import multiprocessing
import operator
import os
import pickle
import shutil
import signal
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import wavernn_trt
from wavernn_trt import AsyncVocoder, Request, SchedulerLimits, Vocoder
from wavernn_trt.export.model_directory import CONFIG, MANIFEST, ModelDirectory, ModelDirectoryError, write_manifest
from wavernn_trt.runtime.errors import VocoderError
from wavernn_trt.runtime.loaded_model import LoadedModel

MEL = np.random.default_rng(0).uniform(-1, 0, (80, 5)).astype(np.float32)


def test_a_spawned_worker_vocodes_with_the_bits_of_the_process_that_pickled(plain: Vocoder) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        futures = [pool.submit(operator.methodcaller("vocode", MEL, seed=seed), plain) for seed in range(2)]
        for seed, waveform in enumerate(futures):
            assert np.array_equal(waveform.result(), plain.vocode(MEL, seed=seed))


def test_a_pickle_holds_no_weights_and_opens_with_the_same_options(voice_copy: Path) -> None:
    limits = SchedulerLimits(queue=3)
    with wavernn_trt.load(voice_copy, batch=5, threads=1, limits=limits) as vocoder:
        content = pickle.dumps(vocoder)
    assert len(content) < 10_000
    with pickle.loads(content) as again:
        assert (again.config.path, again.config.model) == (voice_copy, vocoder.config.model)
        assert (again.backend, again.batch, again.loaded.options.threads) == (vocoder.backend, 5, 1)
        with pickle.loads(pickle.dumps(AsyncVocoder(again))).vocoder as third:
            assert third.config.path == voice_copy
            assert third.limits == limits


def test_a_pickle_opens_the_backend_that_auto_chose() -> None:
    with wavernn_trt.load(threads=1, precision="fp16") as vocoder, pickle.loads(pickle.dumps(vocoder)) as again:
        assert vocoder.loaded.options.backend == "auto"
        assert again.loaded.options.backend == vocoder.backend == again.backend


def test_another_model_at_the_path_is_an_error_that_names_both(voice_copy: Path) -> None:
    with wavernn_trt.load(voice_copy, "onnxruntime", threads=1) as vocoder:
        content = pickle.dumps(vocoder)
    before = json.loads((voice_copy / MANIFEST).read_text())["files"][CONFIG]["sha256"]
    config = json.loads((voice_copy / CONFIG).read_text())
    config["source"]["checkpoint"] = "another.pt"
    (voice_copy / CONFIG).write_text(json.dumps(config))
    write_manifest(voice_copy)
    after = json.loads((voice_copy / MANIFEST).read_text())["files"][CONFIG]["sha256"]
    with pytest.raises(VocoderError, match=f"{CONFIG} has SHA-256 {after[:12]}…, expected {before[:12]}…"):
        pickle.loads(content)
    (voice_copy / "added.txt").write_text("")
    write_manifest(voice_copy)
    with pytest.raises(VocoderError, match=r"added.txt has SHA-256 .*…, expected none"):
        pickle.loads(content)


def test_damaged_files_and_a_missing_directory_are_found_when_a_pickle_is_opened(voice_copy: Path) -> None:
    with wavernn_trt.load(voice_copy, "onnxruntime", threads=1) as vocoder:
        content = pickle.dumps(vocoder)
    with (voice_copy / "decoder.weights").open("r+b") as file:
        file.write(b"\xff\xff")
    with pytest.raises(ModelDirectoryError, match=r"decoder\.weights"):
        pickle.loads(content)
    shutil.rmtree(voice_copy)
    with pytest.raises(VocoderError, match="not there"):
        pickle.loads(content)


def test_a_vocoder_around_an_executor_of_the_caller_does_not_pickle(plain: Vocoder) -> None:
    made = LoadedModel(plain.config.path, plain.config.model, plain.config.audio, None, plain.executor)
    for loaded in (made, dataclasses.replace(plain.loaded, executor=plain.executor)):
        with (
            Vocoder(loaded) as vocoder,
            pytest.raises(VocoderError, match=r"expected one that wavernn_trt\.load loaded"),
        ):
            pickle.dumps(vocoder)


def test_a_checkpoint_is_pickled_with_the_settings_that_it_was_read_with(
    small_directory: Callable[[str], ModelDirectory], tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="checkpoints run on PyTorch")
    path = Path(shutil.copytree(small_directory("univoc").path, tmp_path / "voice"))
    mel = np.random.default_rng(0).random((6, 4), np.float32)
    with wavernn_trt.load(path, "torch") as vocoder:
        expected, content = vocoder.vocode(mel), pickle.dumps(vocoder)
    with pickle.loads(content) as again:
        assert again.backend == "torch"
        assert np.array_equal(again.vocode(mel), expected)


async def _pieces() -> AsyncIterator[NDArray[np.float32]]:
    yield MEL


async def _drain(vocoder: AsyncVocoder, mel: object) -> None:
    async for _ in await vocoder.stream(mel):  # type: ignore[arg-type]
        pass


ENTRIES: dict[str, Callable[[Vocoder], object]] = {
    "vocode": lambda vocoder: vocoder.vocode(MEL),
    "vocode_batch": lambda vocoder: vocoder.vocode_batch([MEL]),
    "vocode_many": lambda vocoder: next(vocoder.vocode_many([Request(MEL)]))[1].result(),
    "submit": lambda vocoder: vocoder.submit(Request(MEL)).result(),
    "stream": lambda vocoder: list(vocoder.stream(MEL)),
    "stream of pieces": lambda vocoder: list(vocoder.stream(iter([MEL]))),
    "stream of pieces, measured before": lambda vocoder: list(vocoder.stream(iter([MEL]), lookahead=7)),
    "lookahead": lambda vocoder: vocoder.lookahead(),
    "labels": lambda vocoder: vocoder.labels(MEL),
    "teacher_forced": lambda vocoder: vocoder.teacher_forced(MEL, np.zeros(200, np.int32)),
    "statistics": lambda vocoder: vocoder.statistics(),
    "state": lambda vocoder: vocoder.state,
    "drain": lambda vocoder: vocoder.drain(1),
    "AsyncVocoder.vocode": lambda vocoder: asyncio.run(AsyncVocoder(vocoder).vocode(MEL)),
    "AsyncVocoder.stream": lambda vocoder: asyncio.run(_drain(AsyncVocoder(vocoder), MEL)),
    "AsyncVocoder.stream of pieces": lambda vocoder: asyncio.run(_drain(AsyncVocoder(vocoder), _pieces())),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_forked_process_gets_an_error_from_every_entry(plain: Vocoder, entry: str) -> None:
    plain.lookahead(7)
    plain.vocode(MEL)
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with plain._scheduler._flight.lock:  # it stays locked in the child
            held.set()
            forked.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # ends a child that waits for a lock or a thread of its parent
        code = 1
        try:
            ENTRIES[entry](plain)
        except VocoderError as error:
            code = 0 if "load it in each process" in str(error) else 2
        finally:
            os._exit(code)
    forked.set()
    holder.join(60)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_may_load_its_own(plain: Vocoder) -> None:
    expected = plain.vocode(MEL)
    content = pickle.dumps(plain)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        code = 1
        try:
            code = 0 if np.array_equal(pickle.loads(content).vocode(MEL), expected) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
