"""Writes a static page to compare presented voices by ear."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from wavernn_trt.export.atomic_file import write_atomic

_MEASURES = (
    ("bits a sample", "bits", "{:.3f}"),
    ("log-mel correlation", "correlation", "{:.3f}"),
    ("mel-cepstral distortion", "distortion_db", "{:.2f} dB"),
    ("level", "level_db", "{:+.1f} dB"),
    ("clipped samples", "clipped", "{:.3%}"),
    ("f0 error", "f0_error_cents", "{:.0f} cents"),
    ("voicing error", "voicing_error", "{:.1%}"),
    ("words wrong", "words_wrong", "{:.1%}"),
    ("words wrong in the recordings", "recording_words_wrong", "{:.1%}"),
)
"""Title, key in a voice's JSON, and format."""

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Voices</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
td, th {{ padding: .2rem .8rem; text-align: left }}
button[aria-pressed=true] {{ font-weight: bold; outline: 2px solid }}
img {{ max-width: 100% }}
</style>
<h1>Voices</h1>
<p>The buttons of a clip switch between its versions, and playback goes on at the same place.
"Hide the names" shuffles and renames them, for a blind comparison.</p>
<p><button id="blind">Hide the names</button></p>
{clips}
<h2>Figures</h2>
<table>
{table}
</table>
<p>Several seeds: median (least … most).</p>
{pictures}
<script>
for (const clip of document.querySelectorAll(".clip")) {{
  const audio = clip.querySelector("audio")
  for (const button of clip.querySelectorAll("button"))
    button.onclick = () => {{
      const time = audio.currentTime
      audio.src = button.dataset.file
      audio.onloadedmetadata = () => {{ audio.currentTime = time; audio.play() }}
      for (const other of clip.querySelectorAll("button")) other.setAttribute("aria-pressed", other === button)
    }}
}}
document.getElementById("blind").onclick = () => {{
  for (const clip of document.querySelectorAll(".clip")) {{
    const buttons = [...clip.querySelectorAll("button")].sort(() => Math.random() - 0.5)
    buttons.forEach((button, i) => {{
      button.textContent = String.fromCharCode(65 + i)
      button.parentNode.append(button)
    }})
  }}
}}
</script>
</html>
"""


def write_page(folder: Path) -> None:
    """Writes ``index.html`` for the voices whose JSON, samples and picture `present` wrote to a folder.

    Raises:
        ValueError: a JSON file in the folder is not one of `present`.
        OSError: a file cannot be read or written.
    """
    voices = []
    for path in sorted(folder.glob("*.json")):
        try:
            voice = json.loads(path.read_text(encoding="utf-8"))
            voices.append({**voice, "listen": list(voice["listen"]), "voice": str(voice["voice"])})
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{path}: expected a file of figures that 'present' wrote") from None
    clips = dict.fromkeys(clip for voice in voices for clip in voice["listen"])
    page = _PAGE.format(
        clips="\n".join(_clip(clip, voices) for clip in clips),
        table="\n".join(_rows(voices)),
        pictures="\n".join(
            f'<h2>{escape(voice["voice"])}</h2>\n<img src="{escape(voice["voice"])}.png" alt="spectrograms">'
            for voice in voices
        ),
    )
    write_atomic(folder / "index.html", page.encode())


def _clip(clip: str, voices: Sequence[Mapping[str, Any]]) -> str:
    versions = {"recording": clip} | {
        voice["voice"]: f"{clip}-{voice['voice']}" for voice in voices if clip in voice["listen"]
    }
    buttons = " ".join(
        f'<button data-file="{escape(file)}.wav">{escape(name)}</button>' for name, file in versions.items()
    )
    return (
        f'<div class="clip"><h2>{escape(clip)}</h2>\n<audio controls src="{escape(clip)}.wav"></audio>\n'
        f"<p>{buttons}</p></div>"
    )


def _rows(voices: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [["", *(escape(voice["voice"]) for voice in voices)]]
    for title, key, form in _MEASURES:
        if any(key in voice for voice in voices):
            rows.append([title, *(_cell(voice.get(key), form) for voice in voices)])
    rows.append(["real-time factor", *(f"{voice['real_time_factor']['median']:.2f}" for voice in voices)])
    return ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]


def _cell(value: float | list[float] | None, form: str) -> str:
    if value is None:
        return "-"
    if not isinstance(value, list):
        return form.format(value)
    return f"{form.format(statistics.median(value))} ({form.format(min(value))} … {form.format(max(value))})"
