"""Movie files from frames, one at a time: MP4 through ffmpeg, GIF through Pillow."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import GifImagePlugin, Image, ImageChops

from core.errors import UserError

#: Pixels (H, W, 4) of frame k, height and width even.
Frame = Callable[[int], NDArray[np.uint8]]

#: What to tell a user who asked for a movie where :func:`find_ffmpeg` finds none.
WITHOUT_FFMPEG = (
    "There is no ffmpeg on the PATH, so the movie will be a GIF; for an MP4 install it (Debian: apt-get install "
    "ffmpeg)."
)


def find_ffmpeg() -> str | None:
    """Return the path of ffmpeg, or None: to be asked before a run that ends in a movie."""
    return shutil.which("ffmpeg")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` that is renamed if all goes well. Raises UserError if it cannot be."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); give another place.") from error
    finally:
        temporary.unlink(missing_ok=True)


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
    """Write ``count`` frames with one palette, each as the rectangle in which it differs from the one before.

    Image.save would hold all frames in memory, a gigabyte for a thousand.
    """
    palette = _image(frame(count - 1)).quantize(256)  # by the end all colours are on screen
    duration = max(20, round(1000 / fps))  # viewers slow down what is faster
    with whole_file(path) as temporary, temporary.open("wb") as file:
        before: Image.Image | None = None
        for number in range(count):
            now = _image(frame(number)).quantize(palette=palette, dither=Image.Dither.NONE)
            box: Any = (0, 0, *now.size)
            if before is None:
                file.writelines(GifImagePlugin.getheader(now, info={"loop": 0, "duration": duration})[0])
            else:
                # A frame without a change is one pixel: frames stay uniform in time.
                box = ImageChops.difference(now.convert("RGB"), before.convert("RGB")).getbbox() or (0, 0, 1, 1)
            file.writelines(GifImagePlugin.getdata(now.crop(box), box[:2], duration=duration))
            before = now
        file.write(b";")


def _image(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
