"""Movie files from frames, one at a time: MP4 through ffmpeg, GIF through Pillow."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import GifImagePlugin, Image

from core.errors import UserError
from core.whole_file import whole_file

#: Pixels (H, W, 4) of frame k, height and width even.
Frame = Callable[[int], NDArray[np.uint8]]

#: The one of a GIF's 256 colours that stands for a pixel as it was in the frame before.
_UNCHANGED = 255

#: What to tell a user who asked for a movie where :func:`find_ffmpeg` finds none.
WITHOUT_FFMPEG = (
    "There is no ffmpeg on the PATH, so the movie will be a GIF; for an MP4 install it (Debian: apt-get install "
    "ffmpeg)."
)


def find_ffmpeg() -> str | None:
    """Return the path of ffmpeg, or None: to be asked before a run that ends in a movie."""
    return shutil.which("ffmpeg")


def write_mp4(path: Path, frame: Frame, count: int, fps: int, ffmpeg: str) -> None:
    """Pipe ``count`` frames through ``ffmpeg``. Raises UserError with its last words if it fails."""
    height, width = frame(0).shape[:2]
    raw = f"-f rawvideo -pix_fmt rgba -s {width}x{height} -r {fps} -i -"
    # Players want 4:2:0, and those in browsers the index at the front.
    coded = "-an -c:v h264 -pix_fmt yuv420p -movflags +faststart -f mp4"
    with whole_file(path) as temporary, tempfile.TemporaryFile() as said:
        command = [ffmpeg, "-y", "-loglevel", "error", *raw.split(), *coded.split(), str(temporary)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said) as process:
            assert process.stdin is not None
            try:
                for number in range(count):
                    process.stdin.write(frame(number).tobytes())
                process.stdin.close()
            except BrokenPipeError:
                pass  # it has ended, and said why
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            said.seek(0)
            words = said.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise UserError(f"{path}: ffmpeg failed: {words[-1]}; mend it, or take it off the PATH for a GIF.")


def write_gif(path: Path, frame: Frame, count: int, fps: int) -> None:
    """Write ``count`` frames with one palette, each with nothing but the pixels that changed.

    Image.save would hold all frames in memory, a gigabyte for a thousand.
    """
    palette = _palette(_image(frame(count - 1)))  # by the end all colours are on screen
    duration = max(20, round(1000 / fps))  # viewers slow down what is faster
    with whole_file(path) as temporary, temporary.open("wb") as file:
        before: NDArray[np.uint8] | None = None
        for number in range(count):
            picture = _image(frame(number)).quantize(palette=palette, dither=Image.Dither.NONE)
            now = np.asarray(picture)
            if before is None:
                file.writelines(GifImagePlugin.getheader(picture, info={"loop": 0, "duration": duration})[0])
                file.writelines(GifImagePlugin.getdata(picture, duration=duration))
            else:
                piece = Image.fromarray(np.where(now == before, np.uint8(_UNCHANGED), now))
                file.writelines(GifImagePlugin.getdata(piece, duration=duration, transparency=_UNCHANGED))
            before = now
        file.write(b";")


def _palette(image: Image.Image) -> Image.Image:
    """An image with the colours that ``image`` needs most, one index left free, and white as white."""
    reduced = image.quantize(_UNCHANGED)
    colours = np.array(reduced.getpalette()).reshape(-1, 3)
    colours[(colours > 240).all(-1)] = 255  # Pillow's search for the nearest colour is a coarse one
    filled = np.zeros((256, 3), int)
    filled[: len(colours)] = colours
    reduced.putpalette(filled.ravel().tolist())
    return reduced


def _image(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
