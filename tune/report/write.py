"""Write a report: figures for the page and for papers, and the page itself."""

import shutil
from pathlib import Path

from tune.folder import SearchFolder
from tune.report.data import NotDrawn, Say, read_search
from tune.report.model_figures import Drawing, model_drawings
from tune.report.page import Picture, page
from tune.report.parameter_figures import parameter_drawings
from tune.report.theme import DARK, LIGHT, png
from tune.report.trial_figures import trial_drawings


def write_report(folder: Path, progress: Say | None = None) -> Path:
    """Write ``report/index.html`` and the PNG figures beside it into a search's folder; return the page's path.

    It replaces an older report. The study may be unfinished, or still running. ``progress`` is told of what takes
    long. Raises UserError if the folder is none of a search, ResultsError if it cannot be written.
    """
    say = progress or (lambda text: None)
    search = read_search(folder, say)
    say("drawing the figures")
    models, course, parameters = model_drawings(search), trial_drawings(search), parameter_drawings(search)
    pictures = {each.name: _picture(each) for each in (*models, *course, *parameters)}
    text = page(search, pictures)
    with SearchFolder(folder).writing():
        return _write(folder / "report", text, pictures)


def _picture(drawing: Drawing) -> Picture:
    """Draw a figure in both themes, or keep the reason why it cannot be."""
    try:
        light, dark = (drawing.draw(theme) for theme in (LIGHT, DARK))
    except NotDrawn as reason:
        return Picture(drawing.title, drawing.caption, reason=str(reason))
    return Picture(drawing.title, drawing.caption, png(light), png(dark, arranged_as=light))


def _write(target: Path, text: str, pictures: dict[str, Picture]) -> Path:
    """Write into a folder of another name, which takes the old report's place when it is whole."""
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        for name, picture in pictures.items():
            if picture.light:
                (part / f"{name}.png").write_bytes(picture.light)
        (part / "index.html").write_text(text, encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        part.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target / "index.html"
